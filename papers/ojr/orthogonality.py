"""The regulariser: a penalty on one block, and one on named blocks of any network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from papers.ojr.estimators import ESTIMATORS, Estimator, Probing, Side, estimate, frobenius


class JacobianOrthogonality:
    """Mean over a batch of how far a block's Jacobian is from ``sqrt(gain)`` times an isometry.

    Args:
        block: maps (n, ...) to (n, ...), each example by itself.
        gain: c of ``J Jᵀ = c I``: 1 for linear, tanh, residual and MaxMin blocks; 2 where half of
            ReLU units are on and mean energy is to stay; None for any scale.
        estimator: one of :mod:`.estimators`' table.
        side: of the identity; "auto" takes the smaller one, the other one cannot be reached.
        probes: random vectors an example; "variance" takes at least two.
        generator: of the vectors; None is torch's own.
        evaluate: take the block as it is in evaluation mode, whatever mode it is in: batch
            normalisation by its running statistics, no dropout.

    Raises:
        ValueError: an option is not allowed, or the block has no parameters to regularise.

    Source: Choe, Jeong & Carbonell 2019, reconstructed (see the README).
    """

    def __init__(
        self,
        block: nn.Module,
        gain: float | None = 1.0,
        estimator: Estimator = "residual",
        side: Side = "auto",
        probes: int = 1,
        generator: torch.Generator | None = None,
        evaluate: bool = False,
    ) -> None:
        check_block(block, "block")
        if gain is not None and not (math.isfinite(gain) and gain > 0):
            raise ValueError(f"gain {gain}; allowed: a positive number, or None for any scale")
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator {estimator!r}; allowed: {', '.join(ESTIMATORS)}")
        if side not in ("auto", "output", "input"):
            raise ValueError(f"side {side!r}; allowed: auto, output, input")
        fewest = 2 if estimator == "variance" else 1
        if probes < fewest:
            raise ValueError(f"probes {probes}; allowed for {estimator}: at least {fewest}")
        if estimator == "one_product" and gain is None:
            raise ValueError("gain None; allowed for one_product: a number, for its own is no test")
        self.block, self.estimator, self._evaluate = block, estimator, evaluate
        self._probing = Probing(gain, side, probes, generator)

    def __call__(self, x: Tensor) -> Tensor:
        """Penalty at inputs (n, ...), a number in the graph of the block's parameters.

        Raises:
            ValueError: batch normalisation in training mode, which couples the examples; inputs or
                outputs that are no real tensors with one row for each example.
        """
        with evaluation(self.block) if self._evaluate else nullcontext():
            check_batch_norm(self.block)
            return estimate(self.estimator, self.block, x, self._probing).mean()


class JacobianFrobenius:
    """Mean over a batch of ``|J|² / 2``, which drives the Jacobian to zero. Hoffman et al. 2019."""

    def __init__(
        self,
        block: nn.Module,
        probes: int = 1,
        generator: torch.Generator | None = None,
        evaluate: bool = False,
    ) -> None:
        check_block(block, "block")
        if probes < 1:
            raise ValueError(f"probes {probes}; allowed: at least 1")
        self.block, self._probes, self._generator = block, probes, generator
        self._evaluate = evaluate

    def __call__(self, x: Tensor) -> Tensor:
        """Penalty at inputs (n, ...)."""
        with evaluation(self.block) if self._evaluate else nullcontext():
            check_batch_norm(self.block)
            return frobenius(self.block, x, self._probes, self._generator).mean()


class BlockRegularizer:
    """Penalties on named blocks of a network, at what reached them in its last forward pass.

    ::

        regularizer = BlockRegularizer(network, ["layers.0", "layers.1"], weight=1.0)
        loss = cross_entropy(network(x), y) + regularizer.penalty()

    A block's input is detached: the block is regularised, not what feeds it. Of L blocks
    ``sampled`` are drawn at each call, and their sum is multiplied by L over that number.

    Args:
        network: whose forward passes are watched, until :meth:`close`.
        blocks: names of modules (``""`` is the whole network), or names with gains of their own.
        weight: of the sum in the loss.
        sampled: blocks a call; None is all.
        generator: of the draw of blocks and of the vectors, where the network is; None is torch's.
        options: of :class:`JacobianOrthogonality`.

    Raises:
        ValueError: no such block, a weight below zero, ``sampled`` not between 1 and the number of
            blocks, or what :class:`JacobianOrthogonality` refuses.
    """

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[str] | Mapping[str, float | None],
        weight: float,
        sampled: int | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        modules = dict(getattr(network, "_orig_mod", network).named_modules())
        if unknown := [name for name in blocks if name not in modules]:
            known = ", ".join(name or '""' for name in modules)
            raise ValueError(f"no block {unknown[0]!r}; allowed: {known}")
        if not blocks:
            raise ValueError("blocks: none; allowed: at least one name of a module")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight {weight}; allowed: a number of at least 0")
        if sampled is not None and not 1 <= sampled <= len(blocks):
            raise ValueError(f"sampled {sampled}; allowed: 1 to {len(blocks)}, the blocks")
        gains = blocks if isinstance(blocks, Mapping) else {}
        self.weight, self._sampled, self._generator = weight, sampled or len(blocks), generator
        self.penalties = {
            name: JacobianOrthogonality(
                modules[name], **{**options, **_gain(gains, name)}, generator=generator
            )
            for name in blocks
        }
        self._inputs: dict[str, Tensor] = {}
        self._watching = True
        self._hooks = [
            modules[name].register_forward_pre_hook(self._keep(name)) for name in self.penalties
        ]

    def penalty(self) -> Tensor:
        """Weight times the sum over blocks, and the inputs are forgotten.

        Raises:
            ValueError: a block was not reached since the last call.
        """
        names = list(self.penalties)
        if self._sampled < len(names):
            device = self._generator.device if self._generator else None
            order = torch.randperm(len(names), generator=self._generator, device=device)
            names = [names[place] for place in order[: self._sampled].tolist()]
        if missing := [name for name in names if name not in self._inputs]:
            raise ValueError(f"block {missing[0]!r} was not reached by a forward pass")
        with self._not_watching():
            found = [self.penalties[name](self._inputs[name]) for name in names]
        self._inputs.clear()
        scale = self.weight * len(self.penalties) / len(names)
        return scale * torch.stack(found).sum()

    def close(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if self._watching and torch.is_grad_enabled():
                self._inputs[name] = inputs[0].detach()

        return hook

    @contextmanager
    def _not_watching(self) -> Iterator[None]:
        self._watching = False
        try:
            yield
        finally:
            self._watching = True


@contextmanager
def evaluation(block: nn.Module) -> Iterator[None]:
    """A block in evaluation mode meanwhile; each of its modules gets its own mode back."""
    training = [module for module in block.modules() if module.training]
    block.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_block(block: nn.Module, what: str) -> None:
    """Raise ValueError if nothing of a block can be regularised."""
    if not any(weight.requires_grad for weight in block.parameters()):
        raise ValueError(f"{what} {type(block).__name__}: no trainable parameters to regularise")
    if any(weight.is_complex() for weight in block.parameters()):
        raise ValueError(f"{what} {type(block).__name__}: complex parameters; allowed: real ones")


def check_batch_norm(block: nn.Module) -> None:
    """Raise ValueError if batch normalisation makes one example's output depend on others."""
    for name, module in block.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or type(module).__name__}: batch normalisation by the batch's statistics"
                " couples the examples, which have no Jacobian of their own; allowed: eval(),"
                " evaluate=True, or blocks between normalisations"
            )


def _gain(gains: Mapping[str, float | None], name: str) -> dict[str, float | None]:
    return {"gain": gains[name]} if name in gains else {}
