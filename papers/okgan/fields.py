"""Relatives that learn no discriminator: a kernel's field between a batch and another.

:class:`MeanDiscrepancy` is a generative moment matching network's loss (Li, Swersky, Zemel 2015),
which OKGAN nears as its memory shrinks to a batch; :class:`Drifting` moves samples by a normalised
field (Deng, Li, Li, Du, He 2026). Either may keep past samples, as OKGAN does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.okgan.discriminator import Draw
from papers.okgan.divergence import check_finite, check_shapes
from papers.okgan.kernels import Kernel, expand


class PastSamples(nn.Module):
    """The last ``budget`` generated samples, kept in a ring; none with a budget of 0."""

    kept: Tensor

    def __init__(self, budget: int, features: int) -> None:
        super().__init__()
        if budget < 0:
            raise InputError(f"past samples: budget={budget}; allowed: 0 or more")
        self.register_buffer("kept", torch.zeros(budget, features))
        self.place, self.filled = 0, 0

    def add(self, samples: Tensor) -> None:
        """Over the oldest ones."""
        budget = len(self.kept)
        if not budget:
            return
        samples = samples.detach().flatten(1)[-budget:].to(self.kept)
        slots = (self.place + torch.arange(len(samples), device=samples.device)) % budget
        self.kept[slots] = samples
        self.place = (self.place + len(samples)) % budget
        self.filled = min(budget, self.filled + len(samples))

    def all(self) -> Tensor:
        """(filled, features)."""
        return self.kept[: self.filled]

    def get_extra_state(self) -> dict[str, int]:
        """Where the next sample goes, and how many there are."""
        return {"place": self.place, "filled": self.filled}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        self.place, self.filled = state["place"], state["filled"]


class _Field(nn.Module):
    """What both have: no learning but of which samples were drawn."""

    def __init__(self, kernel: Kernel | None, past: PastSamples | None) -> None:
        super().__init__()
        self.kernel, self.past = kernel, past
        self._real: Tensor | None = None

    def update(self, real: Tensor, draw: Draw) -> dict[str, float]:
        """Remember the real batch, and a drawn one where past samples are kept.

        Raises:
            InputError: no points, two shapes of them, or a real one that is not finite.
            DivergedError: a generated point is not finite.
        """
        fake = real if self.past is None else draw()
        check_shapes("field", real, fake)
        check_finite("field", real, fake)
        self._real = real.flatten(1)
        if self.past is not None:
            self.past.add(fake)
        return {}

    def _negatives(self, fake: Tensor) -> Tensor:
        if self.past is None or not self.past.filled:
            if len(fake) < 2:
                raise InputError("field: one generated point alone; allowed: two or more")
            return fake.detach()
        return torch.cat([fake.detach(), self.past.all().to(fake)])


class MeanDiscrepancy(_Field):
    """The squared maximum mean discrepancy of two batches, unbiased, as a generator's loss.

    Args:
        kernel: may be replaced between updates.
        past: generated samples to compare with beside the batch's own.
    """

    kernel: Kernel

    def __init__(self, kernel: Kernel, past: PastSamples | None = None) -> None:
        super().__init__(kernel, past)

    def score(self, x: Tensor) -> Tensor:
        """The witness: mean kernel value to real points less that to past samples."""
        assert self._real is not None
        x = x.flatten(1)
        found = expand(self.kernel, x, self._real, _even(self._real))
        if self.past is None or not self.past.filled:
            return found
        past = self.past.all().to(x)
        return found - expand(self.kernel, x, past, _even(past))

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Discrepancy up to what does not depend on ``fake``.

        The gradient of ``E k(x, x')`` moves both of its points, so with past samples, which do not
        move, it is the mean over all pairs twice.
        """
        check_shapes("field", real, fake)
        x, real = fake.flatten(1), real.flatten(1)
        attracted = expand(self.kernel, x, real, _even(real)).mean()
        others = self._negatives(x)
        # Each sample's own value is left out; its gradient is 0 for kernels of a distance.
        n = len(others) - 1
        repelled = expand(self.kernel, x, others, _even(others)).mean() * len(others) / n
        own = self.kernel.gram(x[:1].detach(), x[:1].detach())[0, 0] / n
        return 2 * (repelled - own - attracted)


class Drifting(_Field):
    """Samples regress to where a field moves them: ``|x - stop(x + V(x))|^2``.

    ``V(x) = E[k(x, y)(y - x)] / E[k(x, y)]`` over real y, less the same over generated y, each
    sample itself left out. Where real and generated points are alike V is 0.

    Args:
        temperature: of ``k = exp(-|x - y| / temperature)``; may be replaced between updates.
        past: generated samples that repel beside the batch's own.
        gaussian: ``k = exp(-|x - y|^2 / (2 temperature^2))`` instead.
    """

    def __init__(
        self, temperature: float, past: PastSamples | None = None, gaussian: bool = False
    ) -> None:
        super().__init__(None, past)
        if not temperature > 0:
            raise InputError(f"drifting: temperature={temperature}; allowed: above 0")
        self.temperature, self.gaussian = temperature, gaussian

    def score(self, x: Tensor) -> Tensor:
        """Log density of real points, by the kernel, less that of past samples, up to constants."""
        assert self._real is not None
        x = x.flatten(1)
        found = self._logits(x, self._real).logsumexp(1)
        if self.past is None or not self.past.filled:
            return found
        return found - self._logits(x, self.past.all().to(x)).logsumexp(1)

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean squared length of the field; its gradient moves samples along the field."""
        check_shapes("field", real, fake)
        x = fake.flatten(1)
        with torch.no_grad():
            target = x + self.field(x, real.flatten(1), self._negatives(x))
        return (x - target).square().sum(1).mean()

    def field(self, x: Tensor, real: Tensor, others: Tensor) -> Tensor:
        """V (n, d); the first n of ``others`` are x themselves."""
        away = self._logits(x, others)
        away[:, : len(x)].fill_diagonal_(-torch.inf)
        return self._logits(x, real).softmax(1) @ real - away.softmax(1) @ others

    def _logits(self, x: Tensor, y: Tensor) -> Tensor:
        distances = torch.cdist(x, y)
        if self.gaussian:
            return distances.square() / (-2 * self.temperature**2)
        return distances / -self.temperature


def _even(points: Tensor) -> Tensor:
    return points.new_full((len(points),), 1 / len(points))
