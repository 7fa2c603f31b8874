"""Per-sample gradients of watched layers during an ordinary forward and backward pass.

A hook on each watched layer sees its input and registers a hook on its output, which sees the
output's gradient; :mod:`papers.logra.layers` makes a sample's gradient of the two. No gradient of
a parameter is computed: parameters are frozen for the time of a batch and the graph begins at
the outputs of the first watched layers. With projections, what is kept of a layer's input is P_i
times it. When the block ends, also by an exception, everything is as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError
from papers.logra.layers import (
    per_sample,
    projected_per_sample,
    projected_rows_per_sample,
    rule_of,
)
from papers.logra.layout import Block, Layout
from papers.logra.statistics import Statistics


class Capture:
    """Takes the per-sample gradients of a model's layers, batch by batch.

    Args:
        model: whose backward pass it is; wrapped and compiled ones are understood.
        layers: modules of it to watch, by name.
        projections: ``{layer: (P_i (k_i, inner), P_o (k_o, out))}``; without them gradients are
            whole.
        bias: whether a bias counts, as one more input that is always 1.
        dtype: of the gradients; by default the layer's, at least float32.
        statistics: what every batch is added to; of projected rows, where there are projections.
        gradients: False for a pass that gathers forward and backward statistics alone.

    Raises:
        InputError: a layer has no rule, or its projection is missing or of another shape.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        projections: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        *,
        bias: bool = False,
        dtype: torch.dtype | None = None,
        statistics: Statistics | None = None,
        gradients: bool = True,
    ) -> None:
        self.model, self.layers, self.projections = model, dict(layers), projections
        self.dtype, self.statistics, self.gradients = dtype, statistics, gradients
        self.rules = {name: rule_of(module, bias) for name, module in self.layers.items()}
        blocks = []
        for name, rule in self.rules.items():
            block = Block(name, rule.out, rule.inner)
            blocks.append(block if projections is None else _projected(block, projections))
        #: Of a gradient.
        self.layout = Layout(blocks)
        self._cast: dict[tuple[str, int, torch.device, torch.dtype], Tensor] = {}

    @contextmanager
    def batch(self, mask: Tensor | None = None, loss_scale: float = 1.0) -> Iterator[Batch]:
        """One batch: run forward and backward in the block, read ``gradients`` after it.

        The loss is a sum over samples. Several backward passes in a block add up.

        Args:
            mask: (n, t), which tokens count in forward and backward statistics.
            loss_scale: what the loss was multiplied by, divided out: a GradScaler's scale, or
                1 / n of a loss that is a mean over n samples.

        Raises:
            InputError: a layer did not run, or without gradients; a gradient is NaN or infinite;
                layers saw different numbers of samples; the model's batch norm is in training mode.
        """
        _refuse_batch_norm_in_training(self.model)
        batch = Batch(self, mask, loss_scale)
        try:
            with ExitStack() as stack:
                stack.enter_context(_frozen(self.model))
                stack.enter_context(_not_compiled())
                stack.enter_context(_not_synchronised(self.model))
                for name, module in self.layers.items():
                    # First among the module's hooks, for others may replace its output.
                    handle = module.register_forward_hook(
                        partial(batch._after_forward, name), prepend=True, with_kwargs=True
                    )
                    stack.callback(handle.remove)
                yield batch
            batch._finish()
            if self.statistics is not None:
                self.statistics.end_batch(complete=True)
        except BaseException:
            if self.statistics is not None:
                self.statistics.end_batch(complete=False)
            raise

    def _matrix(self, name: str, side: int, like: Tensor) -> Tensor:
        """P_i (side 0) or P_o (side 1) of a layer, where and of what type ``like`` is."""
        assert self.projections is not None
        key = (name, side, like.device, like.dtype)
        if key not in self._cast:
            matrix = self.projections[name][side]
            self._cast[key] = matrix.detach().to(like.device, like.dtype)
        return self._cast[key]


class Batch:
    """What the hooks of one batch gather."""

    def __init__(self, capture: Capture, mask: Tensor | None, loss_scale: float) -> None:
        self._capture, self._mask, self._scale = capture, mask, loss_scale
        self._sums: dict[str, Tensor] = {}
        self._ran: dict[str, bool] = {}
        self._samples: dict[str, int] = {}
        self._finished: dict[str, Tensor] | None = None
        self._root = torch.zeros((), requires_grad=True)

    @property
    def gradients(self) -> dict[str, Tensor]:
        """{layer: (n, out, inner)}, in the order of layers, in memory of their own."""
        if self._finished is None:
            raise InputError("gradients of a batch before its end; allowed: after its with block")
        return self._finished

    def _after_forward(
        self,
        name: str,
        module: nn.Module,
        args: tuple[Tensor, ...],
        kwargs: dict[str, Tensor],
        output: Tensor,
    ) -> Tensor:
        """Forward hook: note the input, wait for the output's gradient."""
        capture = self._capture
        value = (args or tuple(kwargs.values()))[0].detach()
        self._samples.setdefault(name, len(value))
        # Checkpointing runs a layer again inside the backward pass, on the same data.
        again = torch._C._current_graph_task_id() != -1
        statistics = capture.statistics
        forward = statistics is not None and statistics.wants("forward") and not again
        rows: Callable[[], Tensor] = partial(self._input_rows, name, value, value._version)
        projected = capture.projections is not None
        if forward or (projected and capture.gradients and not again):
            # P_i a is small: keep it instead of a. Whole rows are made anew when they serve.
            found = rows()
            if forward:
                assert statistics is not None
                statistics.add("forward", name, found.flatten(1, 2), self._weights(name, found))
            if projected:
                rows = partial(_same, found)
        self._ran[name] = self._ran.get(name, False) or torch.is_grad_enabled()
        if not torch.is_grad_enabled():
            return output
        if output._is_view():
            # A hook on a view is lost when the view is changed in place, as by ReLU(inplace=True).
            output = torch.ops.aten._unsafe_view(output, output.shape)
        if not output.requires_grad:
            output = _Rooted.apply(output, self._root)  # type: ignore[no-untyped-call]
        output.register_hook(partial(self._after_backward, name, rows))  # type: ignore[no-untyped-call]
        return output

    @torch.no_grad()
    def _input_rows(self, name: str, value: Tensor, version: int) -> Tensor:
        if value._version != version:
            raise InputError(f"layer {name}: its input was changed in place; allowed: unchanged")
        rule = self._capture.rules[name]
        with torch.autocast(value.device.type, enabled=False):
            if self._capture.projections is None:
                return rule.inputs(value)
            like = value if value.is_floating_point() else self._capture.layers[name].weight
            return rule.projected_inputs(value, self._capture._matrix(name, 0, like))  # type: ignore[arg-type]

    @torch.no_grad()
    def _after_backward(self, name: str, rows: Callable[[], Tensor], gradient: Tensor) -> None:
        """Hook on an output: add a use of the layer to its gradient."""
        capture, rule = self._capture, self._capture.rules[name]
        gradient = gradient.detach()
        kind = torch.promote_types(gradient.dtype, torch.float32)
        statistics = capture.statistics
        backward = statistics is not None and statistics.wants("backward")
        with torch.autocast(gradient.device.type, enabled=False):
            if capture.projections is not None:
                matrix = capture._matrix(name, 1, gradient)
            outputs = None
            if backward:
                assert statistics is not None
                if capture.projections is None:
                    whole = rule.whole_outputs(gradient)
                else:
                    outputs = rule.projected_outputs(gradient, matrix)
                    whole = outputs.sum(1)
                whole = whole.to(kind) / self._scale
                statistics.add("backward", name, whole, self._weights(name, whole.unsqueeze(1)))
            if not capture.gradients:
                return
            if capture.projections is None:
                found = per_sample(rows().to(kind), rule.outputs(gradient).to(kind))
            elif outputs is None:
                found = projected_per_sample(rule, rows(), gradient, matrix, kind)
            else:
                found = projected_rows_per_sample(rows(), outputs, kind)
        held = self._sums.get(name)
        self._sums[name] = found if held is None else held.add_(found)

    def _weights(self, name: str, rows: Tensor) -> Tensor | None:
        """(n, groups * t) weights of rows (n, groups, t, width) under the mask, None for ones."""
        n, groups, tokens, _ = rows.shape
        if self._mask is None or tokens == 1:
            return None
        if self._mask.shape != (n, tokens):
            raise InputError(
                f"mask of shape {tuple(self._mask.shape)}; allowed: {(n, tokens)}, the samples and "
                f"tokens of layer {name}"
            )
        return self._mask.repeat(1, groups)

    def _finish(self) -> None:
        """Check, hand over and count what was gathered."""
        capture = self._capture
        for name in capture.layers:
            if name not in self._ran:
                raise InputError(f"layer {name} did not run in this batch; allowed: layers that do")
            if not self._ran[name]:
                raise InputError(
                    f"layer {name} ran without gradients, under no_grad or in a reentrant "
                    "checkpoint; allowed: with gradients (the checkpoint's input requires one, or "
                    "use_reentrant=False)"
                )
        if len(set(self._samples.values())) > 1:
            raise InputError(f"samples of each layer {self._samples}; allowed: one number for all")
        if capture.gradients:
            self._finished = self._checked()
            if capture.statistics is not None:
                for name, found in self._finished.items():
                    capture.statistics.add_gradients(name, found)
            if capture.dtype is not None:
                self._finished = {
                    name: found.to(capture.dtype) for name, found in self._finished.items()
                }
        else:
            self._finished = {}

    def _checked(self) -> dict[str, Tensor]:
        """Gradients of the loss before scaling; raises InputError where one is not finite."""
        if not self._sums:
            raise InputError("no gradient arrived in this batch; allowed: a loss.backward() in it")
        like = next(iter(self._sums.values()))
        found = {}
        for block in self._capture.layout.blocks:
            # A layer that the loss does not depend on has a gradient of zero.
            shape = (self._samples[block.name], block.out, block.inner)
            held = self._sums.get(block.name)
            held = like.new_zeros(shape) if held is None else held
            found[block.name] = held.div_(self._scale) if self._scale != 1 else held
        # A sum is finite only if its terms are: one small transfer from a GPU for all layers.
        device = like.device
        if not torch.stack([held.sum().to(device) for held in found.values()]).isfinite().all():
            for name, held in found.items():
                bad = (~held.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
                if bad:
                    raise InputError(
                        f"layer {name}: gradient of sample {bad[0]} is {_worst(held[bad[0]])}; "
                        "allowed: finite numbers"
                    )
        return found


class _Rooted(torch.autograd.Function):
    """A tensor without a gradient, the same one, as if computed from ``root``: a graph begins."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, root: Tensor) -> Tensor:
        # Not a leaf, so that it may be changed in place afterwards; and without a copy.
        ctx.mark_dirty(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _not_compiled() -> AbstractContextManager[object]:
    """Compiled models run as they were written: their compiled form knows no later hooks."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def _not_synchronised(model: nn.Module) -> AbstractContextManager[object]:
    """DistributedDataParallel waits for no gradients: parameters have none."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def _refuse_batch_norm_in_training(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise InputError(
                f"batch norm {name} is in training mode, where a sample's loss depends on the "
                "others; allowed: model.eval()"
            )


def _projected(block: Block, projections: Mapping[str, tuple[Tensor, Tensor]]) -> Block:
    """A layer's block after its projections; raises InputError if these do not fit."""
    if block.name not in projections:
        raise InputError(f"layer {block.name} has no projection; allowed: {', '.join(projections)}")
    inner, out = projections[block.name]
    if inner.shape[1:] != (block.inner,) or out.shape[1:] != (block.out,):
        raise InputError(
            f"layer {block.name}: projections of shapes {tuple(inner.shape)} and "
            f"{tuple(out.shape)}; allowed: (k, {block.inner}) and (k, {block.out})"
        )
    return Block(block.name, len(out), len(inner))


def _worst(values: Tensor) -> float:
    """A number of these that is not finite."""
    return float(values[~values.isfinite()][0])


def _same(value: Tensor) -> Tensor:
    return value
