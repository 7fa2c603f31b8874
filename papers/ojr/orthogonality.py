"""The regulariser: a penalty on one block, and one on named blocks of any network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.ojr.checks import check_block, check_count, check_gain, is_number
from papers.ojr.estimators import ESTIMATORS, Estimator, Probing, Side, estimate, frobenius


class JacobianOrthogonality:
    """Mean over a batch of how far a block's Jacobian is from ``sqrt(gain)`` times an isometry.

    Args:
        block: maps (n, ...) to (n, ...), each example by itself.
        gain: c of ``J Jᵀ = c I``: 1 for linear, tanh, residual and MaxMin blocks; 2 where half of
            ReLU units are on and mean energy is to stay; None for any scale. "variance" has none.
        estimator: one of :mod:`.estimators`' table.
        side: of the identity; "auto" takes the smaller one, the other one cannot be reached.
        probes: random vectors an example; "variance" takes at least two.
        generator: of the vectors; None is torch's own.
        evaluate: take the block as it is in evaluation mode, whatever mode it is in: batch
            normalisation by its running statistics, no dropout.

    Raises:
        InputError: an option is not allowed, or the block has no real parameters to regularise.

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
        check_block(block)
        if gain is not None:
            check_gain(gain, ", or None for any scale")
        if estimator not in ESTIMATORS:
            raise InputError(f"estimator {estimator!r}; allowed: {', '.join(ESTIMATORS)}")
        if side not in ("auto", "output", "input"):
            raise InputError(f"side {side!r}; allowed: auto, output, input")
        check_count("probes", probes, 2 if estimator == "variance" else 1, note=f" for {estimator}")
        if estimator == "one_product" and gain is None:
            raise InputError("gain None; allowed for one_product: a number, for its own is no test")
        if estimator == "variance" and gain not in (1, None):
            raise InputError(f"gain {gain!r}; allowed for variance, which has none: 1 or None")
        self.block, self.estimator, self._evaluate = block, estimator, evaluate
        self._probing = Probing(gain, side, probes, generator)

    def __call__(self, x: Tensor) -> Tensor:
        """Penalty at inputs (n, ...), a number in the graph of the block's parameters.

        Raises:
            InputError: batch normalisation in training mode, which couples the examples; inputs or
                outputs that are no real tensors with one row for each example; inputs that the
                block does not take; gradients are off.
        """
        with evaluation(self.block) if self._evaluate else nullcontext():
            return estimate(self.estimator, self.block, x, self._probing).mean()


class JacobianFrobenius:
    """Mean over a batch of ``|J|² / 2``, which drives the Jacobian to zero. Hoffman et al. 2019.

    Raises:
        InputError: ``probes`` is not a whole number of at least 1, or the block has no real
            parameters to regularise.
    """

    def __init__(
        self,
        block: nn.Module,
        probes: int = 1,
        generator: torch.Generator | None = None,
        evaluate: bool = False,
    ) -> None:
        check_block(block)
        check_count("probes", probes)
        self.block, self._probes, self._generator = block, probes, generator
        self._evaluate = evaluate

    def __call__(self, x: Tensor) -> Tensor:
        """Penalty at inputs (n, ...).

        Raises:
            InputError: what :class:`JacobianOrthogonality` refuses there.
        """
        with evaluation(self.block) if self._evaluate else nullcontext():
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
        InputError: no such block, a weight below zero, ``sampled`` not between 1 and the number of
            blocks, or what :class:`JacobianOrthogonality` refuses; in a forward pass, that a block
            is called with anything but one tensor.
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
            raise InputError(f"no block {unknown[0]!r}; allowed: {known}")
        if not blocks:
            raise InputError("blocks: none; allowed: at least one name of a module")
        if not (is_number(weight) and weight >= 0):
            raise InputError(f"weight {weight!r}; allowed: a number of at least 0")
        if sampled is not None:
            check_count("sampled", sampled, most=len(blocks), note=", the blocks")
        gains = blocks if isinstance(blocks, Mapping) else {}
        self.weight, self._sampled, self._generator = weight, sampled or len(blocks), generator
        self.penalties = {
            name: JacobianOrthogonality(
                modules[name], **{**options, **_gain(gains, name)}, generator=generator
            )
            for name in blocks
        }
        self._inputs: dict[str, Tensor | None] = {}
        self._watching = True
        self._hooks = [
            modules[""].register_forward_pre_hook(self._start),
            *(
                modules[name].register_forward_pre_hook(self._keep(name), with_kwargs=True)
                for name in self.penalties
            ),
        ]

    def penalty(self) -> Tensor:
        """Weight times the sum over blocks, and the inputs are forgotten.

        Raises:
            InputError: a block was not reached since the last call, or more than once by the last
                forward pass, or what :class:`JacobianOrthogonality` refuses of its input.
        """
        names = list(self.penalties)
        if self._sampled < len(names):
            device = self._generator.device if self._generator else None
            order = torch.randperm(len(names), generator=self._generator, device=device)
            names = [names[place] for place in order[: self._sampled].tolist()]
        with self._not_watching():
            found = [self.penalties[name](self._input(name)) for name in names]
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

    def _input(self, name: str) -> Tensor:
        if name not in self._inputs:
            raise InputError(
                f"block {name!r} was not reached by a forward pass; allowed: one with gradients"
                " before each penalty, in a network that first ran compiled after the regulariser"
                " was made, and without re-entrant checkpointing"
            )
        found = self._inputs[name]
        if found is None:
            raise InputError(
                f"block {name!r} was reached more than once by a forward pass; allowed: once"
            )
        return found

    def _start(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._listens():
            self._inputs.clear()

    def _keep(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if not self._listens():
                return
            if named or [isinstance(each, Tensor) for each in inputs] != [True]:
                kinds = [*(type(each).__name__ for each in inputs), *named]
                raise InputError(
                    f"block {name!r} was called with {', '.join(kinds)}; allowed: one tensor, not"
                    " by keyword"
                )
            # No one input of several stands for the others.
            self._inputs[name] = None if name in self._inputs else inputs[0].detach()

        return hook

    def _listens(self) -> bool:
        """Whether a forward pass counts: it has gradients, and is no second one of its batch."""
        # Checkpointing runs a block again inside the backward pass.
        again = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        return self._watching and torch.is_grad_enabled() and not again

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


def _gain(gains: Mapping[str, float | None], name: str) -> dict[str, float | None]:
    return {"gain": gains[name]} if name in gains else {}
