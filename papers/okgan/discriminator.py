"""A discriminator that is a kernel classifier, learned online with a budget of key points.

``f(x) = sum_i alpha_i k(x, key_i) + b``; real points have label +1, generated ones -1. Source:
Youn, Thistlethwaite, Choe, Abernethy 2020, as their code of June 2020 has it; Kivinen, Smola,
Williamson 2004 (NORMA).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError
from papers.okgan.divergence import check_finite, check_shapes
from papers.okgan.kernels import Kernel, expand
from papers.okgan.losses import LossName, loss, pull

#: Draws a batch of the generator's samples, without a graph.
Draw = Callable[[], Tensor]


@runtime_checkable
class Discriminator(Protocol):
    """What tells real from generated points, and how a generator learns from it."""

    def update(self, real: Tensor, draw: Draw) -> dict[str, float]:
        """Learn from a batch of real points and as many generated ones as it cares to draw.

        Returns what is worth logging.
        """

    def score(self, x: Tensor) -> Tensor:
        """(n, ...) points -> (n,) values, above 0 for real ones; differentiable by ``x``."""

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """What the generator lowers, a scalar; ``real`` are points to compare with, if it does."""


class KernelDiscriminator(nn.Module):
    """The kernel classifier. Its memory does not grow with the number of updates.

    An update shuffles real and generated points together, cuts them to
    mini-batches and, for each, evaluates f, decays all coefficients by ``1 - lr * penalty``, adds
    its points as keys with coefficients ``lr y (-loss'(y f))``, over the oldest ones, and adds the
    mean of these coefficients to the offset. The loss is a sum over the mini-batch, not a mean.

    Args:
        shape: of a point, ``(d,)``; with an encoder, that of an image.
        kernel: may be replaced between updates, as a bandwidth schedule does.
        budget: key points kept.
        loss_name: of the classifier.
        lr: step of the functional gradient.
        penalty: factor of ``|f|^2 / 2``.
        passes: over the points of an update; each stores them again.
        batch_size: of a mini-batch.
        encoder: module from points to codes (n, c), between which the kernel stands; keys are kept
            as points and encoded anew.
        seed: of the shuffling.

    Raises:
        InputError: a value out of range, or a budget below a mini-batch.
    """

    keys: Tensor
    coefficients: Tensor
    offset: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        kernel: Kernel,
        budget: int = 4096,
        loss_name: LossName = "logistic",
        lr: float = 0.05,
        penalty: float = 0.1,
        passes: int = 3,
        batch_size: int = 64,
        encoder: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("budget", budget), ("passes", passes), ("batch_size", batch_size)):
            if value < 1:
                raise InputError(f"kernel discriminator: {name}={value}; allowed: 1 or more")
        if batch_size > budget:
            raise InputError(
                f"kernel discriminator: budget={budget}; allowed: at least a mini-batch,"
                f" {batch_size}"
            )
        if loss_name not in get_args(LossName):
            allowed = ", ".join(get_args(LossName))
            raise InputError(f"kernel discriminator: loss_name={loss_name!r}; allowed: {allowed}")
        if not 0 < lr < float("inf") or not 0 <= lr * penalty < 1:
            raise InputError(
                f"kernel discriminator: lr={lr}, penalty={penalty}; allowed: lr above 0, penalty 0"
                " or more, lr * penalty below 1"
            )
        self.kernel, self.loss_name, self.encoder = kernel, loss_name, encoder
        self.lr, self.penalty, self.passes, self.batch_size = lr, penalty, passes, batch_size
        self.register_buffer("keys", torch.zeros(budget, *shape))
        self.register_buffer("coefficients", torch.zeros(budget))
        self.register_buffer("offset", torch.zeros(()))
        self._place = 0
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def budget(self) -> int:
        """Key points kept."""
        return len(self.keys)

    def score(self, x: Tensor) -> Tensor:
        """f(x) (n,). Differentiable by ``x`` and, where its parameters ask for it, the encoder."""
        self._check_shape(x)
        return expand(self.kernel, self._encode(x), self._encoded_keys(), self.coefficients) + (
            self.offset
        )

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean of ``max(0, 1 - f(fake))``; that the classifier's loss is logistic changes nothing.

        The keys' codes carry no gradient here: an encoder is not what is trained.
        """
        self._check_shape(fake)
        with torch.no_grad():
            keys = self._encoded_keys()
        found = expand(self.kernel, self._encode(fake), keys, self.coefficients) + self.offset
        return functional.relu(1 - found).mean()

    @torch.no_grad()
    def update(self, real: Tensor, draw: Draw) -> dict[str, float]:
        """Learn from a batch of real points and as many drawn ones.

        Kernel values of the points with the old keys and among each other are computed once, not
        once a pass: each slot has a column of that table, and f of a mini-batch is the product of
        its rows with the coefficients, summed by column.

        Returns:
            ``loss``, the mean loss of the first pass before each step; ``accuracy``, the share told
            right there.

        Raises:
            InputError: no points, a real one that is not finite, or points of another shape.
            DivergedError: a generated point is not finite, or too large to be squared.
        """
        fake = draw()
        self._check_shape(real)
        check_shapes("kernel discriminator", real, fake)
        check_finite("kernel discriminator", real, fake)
        points = torch.cat([real, fake]).to(self.keys)
        labels = torch.cat([points.new_ones(len(real)), -points.new_ones(len(fake))])
        codes = self._encode(points)
        table = self.kernel.gram(codes, torch.cat([self._encoded_keys(), codes]))
        # The column of the table that each slot's key has: its own as it was, or a point's.
        columns = torch.arange(self.budget, device=points.device)
        coefficients, offset, place = self.coefficients, self.offset, self._place
        steps = torch.arange(self.batch_size, device=points.device)
        firsts = []
        for number in range(self.passes):
            order = torch.randperm(len(points), generator=self._generator).to(points.device)
            for rows in torch.split(order, self.batch_size):
                weights = points.new_zeros(table.shape[1]).index_add_(0, columns, coefficients)
                margins = labels[rows] * (table[rows] @ weights + offset)
                if number == 0:
                    firsts.append(margins)
                fresh = self.lr * labels[rows] * pull(self.loss_name, margins)
                slots = (steps[: len(rows)] + place) % self.budget
                coefficients *= 1 - self.lr * self.penalty
                coefficients[slots], columns[slots] = fresh, rows + self.budget
                offset += fresh.mean()
                place = (place + len(rows)) % self.budget
        self._place = place
        renewed = columns >= self.budget
        self.keys[renewed] = points[columns[renewed] - self.budget]
        first = torch.cat(firsts)
        return {
            "loss": float(loss(self.loss_name, first).mean()),
            "accuracy": float((first > 0).float().mean()),
        }

    @torch.no_grad()
    def squared_norm(self) -> float:
        """``|f|^2`` in the kernel's space, the offset left out."""
        keys, c = self._encoded_keys(), self.coefficients
        return float(c @ expand(self.kernel, keys, keys, c))

    def _encode(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.encoder is None else self.encoder(x)

    def _encoded_keys(self) -> Tensor:
        return self._encode(self.keys)

    def _check_shape(self, x: Tensor) -> None:
        if x.shape[1:] != self.keys.shape[1:]:
            raise InputError(
                f"kernel discriminator: points of shape {tuple(x.shape[1:])}; allowed here:"
                f" {tuple(self.keys.shape[1:])}"
            )

    def get_extra_state(self) -> dict[str, object]:
        """Where the next key goes, and the state of the shuffling."""
        return {"place": self._place, "generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        self._place = int(state["place"])  # type: ignore[call-overload]
        self._generator.set_state(state["generator"])  # type: ignore[arg-type]
