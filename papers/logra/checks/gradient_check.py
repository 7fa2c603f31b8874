"""Whether logged gradients are those of the samples: compared with autograd's, one at a time.

What is logged of a batch has to be, for each sample, the gradient of its own loss. The reference is
``autograd.grad`` of the loss of that sample alone, without its padding. Where they differ, probes
tell why: the batch again with other random numbers, the sample alone through the same hooks, with
and without its padding, the ratio of both gradients, outputs of all modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from common.errors import InputError
from papers.logra.checks.check_report import Cause, CheckReport
from papers.logra.checks.sample_batches import rows_in, take_samples, without_padding
from papers.logra.gradients.attention import InProjection
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.layers import is_transformers_conv1d
from papers.logra.gradients.parameter_paths import SecondPathError, TiedWeightError, find_parameters
from papers.logra.gradients.token_masks import find_sides

#: Largest relative error that rounding may make, by type of the weights.
TOLERANCES = {torch.float64: 1e-7, torch.float32: 2e-3}
HALF_TOLERANCE = 0.1
#: A layer's gradient below this share of the sample's is compared with that share.
SMALL = 1e-3


def check_gradients(
    capture: Capture,
    batch: Any,
    loss: Callable[[Any], Tensor] | None = None,
    *,
    mask: Tensor | None = None,
    loss_scale: float | Callable[[Any], float] = 1.0,
    samples: int = 4,
    tolerance: float | None = None,
) -> CheckReport:
    """Compare what a capture takes of a batch with gradients of its first samples alone.

    Args:
        capture: without statistics.
        batch, loss, mask, loss_scale, samples, tolerance: as of :meth:`LogIX.check`.

    Raises:
        InputError: there is no loss, or no tensor in the batch.
    """
    if loss is None:
        if not isinstance(batch, Mapping):
            raise InputError(
                f"check of a {type(batch).__name__} without loss; allowed: "
                "loss=lambda batch: ..., or a mapping for model(**batch).loss"
            )

        def loss(batch: Any) -> Tensor:
            found: Tensor = capture.model(**batch).loss
            return found

    if samples < 1:
        raise InputError(f"samples {samples}; allowed: at least 1")
    kind = capture.working_type()
    weights = {p.dtype for m in capture.layers.values() for p in m.parameters()}
    if tolerance is None:
        half = weights - set(TOLERANCES)
        tolerance = HALF_TOLERANCE if half else TOLERANCES[kind]
    with _as_before(capture.model):
        return _Check(capture, batch, loss, mask, loss_scale, samples, tolerance).report()


class _Check:
    """One batch, and probes of it."""

    def __init__(
        self,
        capture: Capture,
        batch: Any,
        loss: Callable[[Any], Tensor],
        mask: Tensor | None,
        loss_scale: float | Callable[[Any], float],
        samples: int,
        tolerance: float,
    ) -> None:
        self.capture, self.batch, self.loss = capture, batch, loss
        self.model, self.scale, self.tolerance = capture.model, loss_scale, tolerance
        self.size = rows_in(batch)
        self.places = range(min(samples, self.size))
        if mask is None and isinstance(batch, Mapping):
            mask = batch.get("attention_mask")
        # A mask of the encoder's tokens does not say which of the decoder's count.
        self.mask = None if find_sides(self.model).known else mask
        self.causes: list[Cause] = []

    def report(self) -> CheckReport:
        """Compare, and look for causes."""
        if norms := _batch_norms(self.model):
            text = f"batch norm {', '.join(norms)} is in training mode; allowed: model.eval()"
            self.causes.append(Cause("batch dependence", norms, text))
            return self._found({})
        try:
            rows = self._logged()
            again = self._logged()
        except InputError as error:
            self.causes.append(_name_cause(error))
            return self._found({})
        alone = [self._alone(place, trimmed=True) for place in self.places]
        errors = self._errors(rows, alone)
        if self._differ(rows, again):
            active = _random_modules(self.model)
            text = (
                f"another pass over the batch gives other gradients ({', '.join(active)} in "
                "training mode); allowed: model.eval()"
            )
            self.causes.append(Cause("dropout", active, text))
            # What else is wrong shows without it.
            self.model.eval()
            rows = self._logged()
            alone = [self._alone(place, trimmed=True) for place in self.places]
        if self._differ(rows, alone):
            self._look_for_causes(rows)
        return self._found(errors)

    def _look_for_causes(self, rows: list[Tensor]) -> None:
        try:
            by_hooks = [
                self._logged(take_samples(self.batch, [place], self.size), 1)[0]
                for place in self.places
            ]
        except InputError as error:
            self.causes.append(_name_cause(error))
            return
        whole = [self._alone(place, trimmed=False) for place in self.places]
        if self._differ(whole, [self._alone(place, trimmed=True) for place in self.places]):
            text = (
                "a sample's gradient is another one without its padding; allowed: a model that is "
                "given the mask of its tokens, and a loss that does not count padding"
            )
            self.causes.append(Cause("padding", (), text))
        if not self._differ(rows, whole):
            return
        if self._differ(by_hooks, whole):
            layers = tuple(self._wrong(by_hooks, whole))
            text = (
                f"of one sample alone too, gradients of {', '.join(layers)} are not autograd's: "
                "their parameters reach the loss on a path that hooks do not see"
            )
            self.causes.append(Cause("second path", layers, text))
        if not self._differ(rows, by_hooks):
            return
        ratios = [float(a @ b / (b @ b)) for a, b in zip(rows, by_hooks, strict=True)]
        scaled = [ratio * row for ratio, row in zip(ratios, by_hooks, strict=True)]
        if not self._differ(rows, scaled):
            self.causes.append(Cause("reduction", (), self._reduction(ratios)))
            return
        where = self._first_mixing()
        what = f"module {where[0]} gives" if where else "the loss takes"
        text = (
            f"a sample's gradient hangs on the other samples of its batch: {what} other values of "
            "a sample in the batch than of the sample alone; allowed: modules and a loss that see "
            "each sample for itself"
            if where
            else "a sample's gradient hangs on the other samples of its batch, though all modules "
            "give the same of it: the loss mixes samples; allowed: a sum of their own losses"
        )
        self.causes.append(Cause("batch dependence", where, text))

    def _reduction(self, ratios: list[float]) -> str:
        def near(value: float, other: float) -> bool:
            return abs(value - other) <= 10 * self.tolerance * abs(other)

        if all(near(ratio, 1 / self.size) for ratio in ratios):
            return (
                f"gradients are 1 / {self.size} of the samples' own: the loss is a mean over the "
                f"batch; allowed: reduction='sum', or loss_scale=1 / {self.size}"
            )
        if all(near(ratio, ratios[0]) for ratio in ratios):
            return f"gradients are {ratios[0]:g} times the samples' own; allowed: loss_scale"
        listed = ", ".join(f"{ratio:.3g}" for ratio in ratios)
        return (
            f"gradients are {listed} times the samples' own: the loss is a mean over what samples "
            "have unlike numbers of, as of labels; allowed: reduction='sum', or as loss_scale 1 / "
            "the number of terms, of a batch"
        )

    # Gradients

    def _logged(self, batch: Any = None, size: int | None = None) -> list[Tensor]:
        """What hooks take of a batch, by default the whole one: its first samples' rows."""
        batch = self.batch if batch is None else batch
        with self.capture.batch(loss_scale=self._find_scale(batch, size or self.size)) as found:
            self.loss(batch).backward()  # type: ignore[no-untyped-call]
        return list(found.matrix[: len(self.places)].double())

    def _find_scale(self, batch: Any, size: int) -> float:
        if callable(self.scale):
            return self.scale(batch)
        # 1 / n of a mean over n samples is 1 of one sample.
        is_mean = abs(self.scale * self.size - 1) < 1e-6
        return 1 / size if is_mean else self.scale

    def _alone(self, place: int, *, trimmed: bool) -> Tensor:
        """Autograd's gradient (width,) of one sample, in the capture's layout."""
        capture = self.capture
        sample = take_samples(self.batch, [place], self.size)
        if trimmed and self.mask is not None:
            sample = without_padding(sample, self.mask[place].bool())
        owned = {name: find_parameters(m, capture.bias) for name, m in capture.layers.items()}
        distinct = {id(p): p for own in owned.values() for p in own.values()}
        with _requiring_gradients(distinct.values()):
            value = self.loss(sample)
            found = torch.autograd.grad(value, list(distinct.values()), allow_unused=True)
        grads = dict(zip(distinct, found, strict=True))
        blocks = {
            block.name: torch.zeros(
                block.out, block.inner, dtype=torch.float64, device=value.device
            )
            for block in capture.layout.blocks
        }
        for name, own in owned.items():
            gradient = _matrix(capture.layers[name], {k: grads[id(p)] for k, p in own.items()})
            if gradient is None:
                continue
            if capture.projections is not None:
                inner, out = (m.to(gradient) for m in capture.projections[name])
                gradient = out @ gradient @ inner.mT
            blocks[capture.block_of[name]] += gradient.to(value.device)
        row = torch.cat([block.flatten() for block in blocks.values()])
        return row / self._find_scale(sample, 1)

    # Comparing

    def _errors(self, found: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
        """By block, the largest relative error over samples."""
        errors = dict.fromkeys(self.capture.layout.slices, 0.0)
        for one, other in zip(found, expected, strict=True):
            for name, columns in self.capture.layout.slices.items():
                size = max(float(other[columns].norm()), SMALL * float(other.norm()))
                off = float((one[columns].to(other) - other[columns]).norm())
                error = off / size if size else float(off > 0)
                # max() would pass over NaN.
                errors[name] = max(errors[name], error if math.isfinite(error) else math.inf)
        return errors

    def _wrong(self, found: list[Tensor], expected: list[Tensor]) -> list[str]:
        errors = self._errors(found, expected)
        return [name for name, error in errors.items() if not error <= self.tolerance]

    def _differ(self, found: list[Tensor], expected: list[Tensor]) -> bool:
        return bool(self._wrong(found, expected))

    def _first_mixing(self) -> tuple[str, ...]:
        """The first module whose output of the first sample hangs on the other samples."""
        together = self._outputs(self.batch)
        for name, alone in self._outputs(take_samples(self.batch, [0], self.size)).items():
            value = together.get(name)
            if value is None or value.shape[1:] != alone.shape[1:] or len(value) != self.size:
                continue
            if float((value[:1] - alone).norm()) > self.tolerance * float(alone.norm()):
                return (name,)
        return ()

    @torch.no_grad()
    def _outputs(self, batch: Any) -> dict[str, Tensor]:
        """Outputs of modules without modules in them, in the order they ended."""
        found: dict[str, Tensor] = {}

        def keep(name: str, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if isinstance(value, Tensor) and value.dim() and value.is_floating_point():
                found.setdefault(name, value.detach().double())

        handles = [
            module.register_forward_hook(lambda _m, _a, out, name=name: keep(name, out))  # type: ignore[misc]
            for name, module in self.model.named_modules()
            if name
        ]
        try:
            self.loss(batch)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _found(self, errors: Mapping[str, float]) -> CheckReport:
        return CheckReport(len(self.places), errors, self.tolerance, tuple(self.causes))


def _matrix(layer: nn.Module, grads: Mapping[str, Tensor | None]) -> Tensor | None:
    """A layer's gradient (out, inner) in float64 of its parameters'; None where there is none."""
    weight = grads.get("weight")
    if weight is None:
        return None
    if isinstance(layer, InProjection) and layer.attention.in_proj_weight is not None:
        weight = weight[layer.rows]
    if isinstance(layer, nn.Embedding) or is_transformers_conv1d(type(layer)):
        weight = weight.mT
    matrix = weight.flatten(1).double()
    if (bias := grads.get("bias")) is not None:
        bias = bias[layer.rows] if isinstance(layer, InProjection) else bias
        matrix = torch.cat([matrix, bias.double().unsqueeze(1)], 1)
    return matrix


def _name_cause(error: InputError) -> Cause:
    if isinstance(error, SecondPathError):
        tied = isinstance(error, TiedWeightError)
        return Cause("tied weights" if tied else "second path", (error.layer,), str(error))
    return Cause("refusal", (), str(error))


def _batch_norms(model: nn.Module) -> tuple[str, ...]:
    modules = model.named_modules()
    return tuple(name for name, m in modules if isinstance(m, _BatchNorm) and m.training)


def _random_modules(model: nn.Module) -> tuple[str, ...]:
    """Modules that drop at random in training mode, and are."""
    found = []
    for name, module in model.named_modules():
        share = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0)
        if module.training and isinstance(share, float) and share > 0:
            found.append(name)
    return tuple(found)


@contextmanager
def _requiring_gradients(parameters: Any) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for parameter, _ in before:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for parameter, value in before:
            parameter.requires_grad_(value)


@contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Modes, buffers and random numbers are afterwards what they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)
