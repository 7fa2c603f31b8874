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
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError
from papers.logra.layers import (
    add_gradients,
    add_projected_gradients,
    add_projecting_late,
    is_better_late,
    rule_of,
)
from papers.logra.layout import Block
from papers.logra.moments import Eigenbasis, Statistics
from papers.logra.projections import joined


class Capture:
    """Takes the per-sample gradients of a model's layers, batch by batch.

    Args:
        model: whose backward pass it is; wrapped and compiled ones are understood.
        layers: modules of it to watch, by name.
        projections: ``{layer: (P_i (k_i, inner), P_o (k_o, out))}``; without them gradients are
            whole.
        shared: of layers whose projected gradients add up, the name of their common block; it is
            like one layer that is used several times, also in statistics.
        bias: whether a bias counts, as one more input that is always 1.
        dtype: of the gradients; by default the layer's, at least float32.
        statistics: what every batch is added to; of projected rows, where there are projections.
        gradients: False for a pass that gathers forward and backward statistics alone.
        rotated: whether gradients are those in the statistics' eigenbases, for a pass that corrects
            eigenvalues alone: to rotate rows costs far less than to rotate gradients.

    Raises:
        InputError: a layer has no rule, its projection is missing or of another shape, or layers
            that share a block do not fit together.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        projections: Mapping[str, tuple[Tensor, Tensor]] | None = None,
        *,
        shared: Mapping[str, str] | None = None,
        bias: bool = False,
        dtype: torch.dtype | None = None,
        statistics: Statistics | None = None,
        gradients: bool = True,
        rotated: bool = False,
    ) -> None:
        self.model, self.layers = model, dict(layers)
        self.dtype, self.statistics, self.gradients = dtype, statistics, gradients
        self.rotated = rotated
        #: Which block of a gradient is each layer's.
        self.block_of = {name: (shared or {}).get(name, name) for name in self.layers}
        if rotated:
            assert statistics is not None
            bases = {name: statistics.eigenbasis(block) for name, block in self.block_of.items()}
            projections = _rotating(bases, projections)
        self.projections = projections
        self.rules = {name: rule_of(module, bias) for name, module in self.layers.items()}
        blocks = []
        for name, rule in self.rules.items():
            block = Block(name, rule.out, rule.inner)
            blocks.append(block if projections is None else _projected(block, projections))
        #: Of a gradient.
        self.layout = joined(blocks, shared or {})
        self._cast: dict[tuple[str, int, torch.device, torch.dtype], Tensor] = {}

    @contextmanager
    def batch(self, mask: Tensor | None = None, loss_scale: float = 1.0) -> Iterator[Batch]:
        """One batch: run forward and backward in the block, read gradients after it.

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

    def working_type(self) -> torch.dtype:
        """What sums over tokens are computed in: the widest of the layers, at least float32."""
        kinds = (parameter.dtype for m in self.layers.values() for parameter in m.parameters())
        return reduce(torch.promote_types, kinds, torch.float32)

    def _matrix(self, name: str, side: int, like: Tensor) -> Tensor:
        """P_i (side 0) or P_o (side 1) of a layer, where and of what type ``like`` is."""
        assert self.projections is not None
        key = (name, side, like.device, like.dtype)
        if key not in self._cast:
            matrix = self.projections[name][side].detach().to(like.device, like.dtype)
            self._cast[key] = matrix if side else self.rules[name].laid_out(matrix)
        return self._cast[key]


class Batch:
    """What the hooks of one batch gather."""

    def __init__(self, capture: Capture, mask: Tensor | None, loss_scale: float) -> None:
        self._capture, self._mask, self._scale = capture, mask, loss_scale
        # Layers that ran, and whether with gradients.
        self._ran: dict[str, bool] = {}
        self._samples: int | None = None
        self._matrix: Tensor | None = None
        self._totals: dict[str, Tensor] = {}
        # Blocks of which a gradient arrived.
        self._begun: set[str] = set()
        self._complete = False
        self._root = torch.zeros((), requires_grad=True)

    @property
    def matrix(self) -> Tensor:
        """Gradients (n, width) in the capture's layout, in memory of their own."""
        if not self._complete or self._matrix is None:
            raise InputError(
                "gradients of a batch before its end, or of a capture without gradients; allowed: "
                "after the with block, of a capture with gradients"
            )
        return self._matrix

    @property
    def gradients(self) -> dict[str, Tensor]:
        """{layer: (n, out, inner)}, in the order of layers; views of :attr:`matrix`."""
        return self._capture.layout.unflatten(self.matrix)

    def _after_forward(
        self,
        name: str,
        module: nn.Module,
        args: tuple[Tensor, ...],
        kwargs: dict[str, Tensor],
        output: Tensor,
    ) -> Tensor:
        """Forward hook: note the input, wait for the output's gradient."""
        capture, statistics = self._capture, self._capture.statistics
        value = (args or tuple(kwargs.values()))[0].detach()
        self._expect(name, value)
        # Checkpointing runs a layer again inside the backward pass, on the same data.
        again = torch._C._current_graph_task_id() != -1
        rows: Callable[[], Tensor] = partial(self._input_rows, name, value, value._version)
        if not again:
            gathered = statistics is not None and statistics.wants("forward")
            kept = capture.projections is not None and capture.gradients
            if gathered or kept:
                found = rows()
                if kept:
                    # P_i a is small: keep it instead of a. Whole rows are made anew when needed.
                    rows = partial(_same, found)
                if gathered:
                    assert statistics is not None
                    block, weights = capture.block_of[name], self._weights(name, found)
                    statistics.add("forward", block, found.flatten(1, 2), weights)
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

    def _expect(self, name: str, value: Tensor) -> None:
        """Room for the gradients of as many samples as the first layer saw, and no others."""
        if self._samples is None:
            self._samples = len(value)
            if self._capture.gradients:
                self._matrix = torch.empty(
                    self._samples,
                    self._capture.layout.width,
                    dtype=self._capture.working_type(),
                    device=value.device,
                )
                self._totals = self._capture.layout.unflatten(self._matrix)
        if len(value) != self._samples:
            raise InputError(
                f"layer {name} saw {len(value)} samples where {next(iter(self._ran), name)} saw "
                f"{self._samples}; allowed: inputs with the samples first, or not to watch it"
            )

    @torch.no_grad()
    def _input_rows(self, name: str, value: Tensor, version: int) -> Tensor:
        """Rows of a layer's input, projected where gradients are."""
        if value._version != version:
            raise InputError(f"layer {name}: its input was changed in place; allowed: unchanged")
        capture = self._capture
        with torch.autocast(value.device.type, enabled=False):
            if capture.projections is None:
                return capture.rules[name].inputs(value)
            like = value if value.is_floating_point() else capture.layers[name].weight
            matrix = capture._matrix(name, 0, like)  # type: ignore[arg-type]
            return capture.rules[name].projected_inputs(value, matrix)

    @torch.no_grad()
    def _after_backward(self, name: str, rows: Callable[[], Tensor], gradient: Tensor) -> None:
        """Hook on an output: add this use of the layer to its gradient."""
        capture, rule = self._capture, self._capture.rules[name]
        first = capture.block_of[name] not in self._begun
        self._begun.add(capture.block_of[name])
        gradient = gradient.detach()
        gathered = capture.statistics is not None and capture.statistics.wants("backward")
        with torch.autocast(gradient.device.type, enabled=False):
            if capture.projections is None:
                if gathered:
                    self._gather_backward(name, rule.whole_outputs(gradient))
                if capture.gradients:
                    total, outputs = self._total(name, gradient), rule.outputs(gradient)
                    add_gradients(total, rows(), outputs, first=first)
                return
            matrix = capture._matrix(name, 1, gradient)
            if capture.gradients:
                total, inputs = self._total(name, gradient), rows()
                if not gathered and is_better_late(rule, inputs, len(matrix)):
                    outputs = rule.outputs(gradient)
                    add_projecting_late(total, inputs, outputs, matrix, first=first)
                    return
            outputs = rule.projected_outputs(gradient, matrix)
            if gathered:
                self._gather_backward(name, outputs.sum(1))
            if capture.gradients:
                add_projected_gradients(total, inputs, outputs, first=first)

    def _gather_backward(self, name: str, rows: Tensor) -> None:
        """Add rows (n, t, width) of an output's gradient to the statistics."""
        assert self._capture.statistics is not None
        exact = rows.to(torch.promote_types(rows.dtype, torch.float32)) / self._scale
        weights = self._weights(name, rows.unsqueeze(1))
        self._capture.statistics.add("backward", self._capture.block_of[name], exact, weights)

    def _total(self, name: str, like: Tensor) -> Tensor:
        """A layer's part of the matrix, or where the layer is on another device, one of its own."""
        block = self._capture.block_of[name]
        # With what other layers of the block added.
        self._totals[block] = self._totals[block].to(like.device)
        return self._totals[block]

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
        """Check, count and hand over what was gathered."""
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
        if not self._begun:
            raise InputError("no gradient arrived in this batch; allowed: a loss.backward() in it")
        self._complete = True
        if self._matrix is None:
            return
        for name, part in self.gradients.items():
            if name not in self._begun:
                # The loss does not depend on its layer.
                part.zero_()
            elif self._totals[name].device != part.device:
                part.copy_(self._totals[name])
        if self._scale != 1:
            self._matrix /= self._scale
        # The sum is finite only if its terms are: one number to wait for, whatever the layers.
        if not self._matrix.sum().isfinite():
            self._refuse_what_is_not_finite()
        if capture.statistics is not None:
            for name, part in self.gradients.items():
                capture.statistics.add_gradients(name, part, rotated=capture.rotated)
        if capture.dtype is not None:
            self._matrix = self._matrix.to(capture.dtype)

    def _refuse_what_is_not_finite(self) -> None:
        for name, part in self.gradients.items():
            bad = part.flatten(1).isfinite().all(1).logical_not().nonzero()
            if len(bad):
                values = part[bad[0, 0]]
                raise InputError(
                    f"layer {name}: gradient of sample {int(bad[0, 0])} is "
                    f"{float(values[~values.isfinite()][0])}; allowed: finite numbers"
                )


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
    """DistributedDataParallel sends nothing around: processes may have batches of their own."""
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


def _rotating(
    bases: Mapping[str, Eigenbasis], projections: Mapping[str, tuple[Tensor, Tensor]] | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Projections into eigenbases, after those that there are."""
    if projections is None:
        return {name: (basis.forward.mT, basis.backward.mT) for name, basis in bases.items()}
    return {
        name: (
            basis.forward.mT @ projections[name][0].to(basis.forward),
            basis.backward.mT @ projections[name][1].to(basis.backward),
        )
        for name, basis in bases.items()
    }


def _same(value: Tensor) -> Tensor:
    return value
