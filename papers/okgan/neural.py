"""Discriminators that are networks, with the objectives that OKGAN is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import relu, softplus

from common.errors import InputError
from papers.okgan.discriminator import Draw
from papers.okgan.divergence import DivergedError, check_finite, check_shapes

#: ``nonsaturating``: Goodfellow et al. 2014; ``hinge``: Lim and Ye 2017; ``wasserstein``: Gulrajani
#: et al. 2017; ``relativistic``: Jolicoeur-Martineau 2018, with both penalties Huang et al. 2024.
Objective = Literal["nonsaturating", "hinge", "wasserstein", "relativistic"]


class NeuralDiscriminator(nn.Module):
    """A network that scores points, learned by an optimiser.

    Args:
        net: (n, ...) -> (n, 1) or (n,) scores; with packing it reads that many points joined along
            their first dimension.
        optimizer: makes the optimiser of its parameters.
        objective: see :data:`Objective`.
        steps: of the network in an update, each with generated points of its own.
        penalty: weight of the gradient penalty: of ``wasserstein`` that of the norm's distance from
            1 between real and generated points; of the others half the squared norm at real (R1)
            and at generated points (R2).
        packing: points that are judged together (Lin et al. 2018, PacGAN).

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
        objective: Objective = "nonsaturating",
        steps: int = 1,
        penalty: float = 0.0,
        packing: int = 1,
    ) -> None:
        super().__init__()
        if objective not in get_args(Objective):
            allowed = ", ".join(get_args(Objective))
            raise InputError(f"neural discriminator: objective={objective!r}; allowed: {allowed}")
        if steps < 1 or packing < 1 or penalty < 0:
            raise InputError(
                f"neural discriminator: steps={steps}, packing={packing}, penalty={penalty};"
                " allowed: 1 or more, 1 or more, 0 or more"
            )
        self.net, self.optimizer = net, optimizer(net.parameters())
        self.objective, self.steps = objective, steps
        self.penalty, self.packing = penalty, packing

    def score(self, x: Tensor) -> Tensor:
        """(n, ...) points -> (n / packing,) scores."""
        scores: Tensor = self.net(self._packed(x))
        return scores.reshape(-1)

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """The objective's, a mean. Only ``relativistic`` compares with real points."""
        with _held(self.net):
            scores = self.score(fake)
        if self.objective == "nonsaturating":
            return softplus(-scores).mean()
        if self.objective == "relativistic":
            with torch.no_grad():
                beside = self.score(real)
            return softplus(beside - scores).mean()
        return -scores.mean()

    def update(self, real: Tensor, draw: Draw) -> dict[str, float]:
        """So many steps on the real batch.

        Raises:
            InputError: no points, two shapes of them, or a real one that is not finite.
            DivergedError: the loss or a generated point is not finite.
        """
        for _ in range(self.steps):
            fake = draw()
            check_shapes("neural discriminator", real, fake)
            # A point at infinity may cost nothing, and spoil the network all the same.
            check_finite("neural discriminator", real, fake)
            lost = self.loss(real, fake)
            if not bool(lost.isfinite()):
                raise DivergedError(f"neural discriminator: its loss is {float(lost.detach())}")
            self.optimizer.zero_grad()
            lost.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return {"loss": float(lost.detach())}

    def loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the network lowers."""
        if not self.penalty:
            return self._classified(self.score(real), self.score(fake))
        if self.objective == "wasserstein":
            share = torch.rand(len(real), *[1] * (real.ndim - 1), dtype=real.dtype)
            between = (real + share.to(real) * (fake - real)).requires_grad_()
            lengths: Tensor = torch.linalg.vector_norm(
                _slopes_of(self.score(between), between), dim=1
            )
            apart = self._classified(self.score(real), self.score(fake))
            return apart + self.penalty * (lengths - 1).square().mean()
        points = real.detach().requires_grad_(), fake.detach().requires_grad_()
        scores = [self.score(each) for each in points]
        steep = [
            _slopes_of(score, each).square().sum(1).mean()
            for score, each in zip(scores, points, strict=True)
        ]
        apart = self._classified(scores[0], scores[1])
        return apart + self.penalty / 2 * torch.stack(steep).sum()

    def _classified(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.objective == "nonsaturating":
            return softplus(-real).mean() + softplus(fake).mean()
        if self.objective == "hinge":
            return relu(1 - real).mean() + relu(1 + fake).mean()
        if self.objective == "wasserstein":
            return fake.mean() - real.mean()
        return softplus(fake - real).mean()

    def _packed(self, x: Tensor) -> Tensor:
        if self.packing == 1:
            return x
        if len(x) % self.packing:
            raise InputError(f"packing {self.packing}: a batch of {len(x)} is not a multiple of it")
        return x.reshape(len(x) // self.packing, self.packing * x.shape[1], *x.shape[2:])

    def get_extra_state(self) -> dict[str, object]:
        """The optimiser's."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`get_extra_state`."""
        self.optimizer.load_state_dict(state)


@contextmanager
def _held(net: nn.Module) -> Iterator[None]:
    """No gradient of the network's own parameters: a generator's step has no use for them."""
    learned = [param for param in net.parameters() if param.requires_grad]
    for param in learned:
        param.requires_grad_(False)
    try:
        yield
    finally:
        for param in learned:
            param.requires_grad_(True)


def _slopes_of(scores: Tensor, x: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return found.flatten(1)


class UnrolledDiscriminator(NeuralDiscriminator):
    """The generator sees the network as it will be after ``ahead`` steps (Metz et al. 2017).

    Those are plain descent of rate ``ahead_lr``, differentiated through; ``update`` takes the
    optimiser's own step. Of the objectives without penalty.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer],
        ahead: int = 5,
        ahead_lr: float = 1e-3,
    ) -> None:
        super().__init__(net, optimizer, "nonsaturating")
        if ahead < 1 or not ahead_lr > 0:
            raise InputError(
                f"unrolled discriminator: ahead={ahead}, ahead_lr={ahead_lr}; allowed: 1 or more,"
                " above 0"
            )
        self.ahead, self.ahead_lr = ahead, ahead_lr

    def generator_loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """``softplus(-D_k(fake))``, D_k after k more steps on these points."""
        params: dict[str, Tensor] = dict(self.net.named_parameters())
        both = torch.cat([real, fake])
        for _ in range(self.ahead):
            scores = self._scored(params, both)
            lost = self._classified(scores[: len(real)], scores[len(real) :])
            slopes = torch.autograd.grad(lost, list(params.values()), create_graph=True)
            params = {
                name: param - self.ahead_lr * slope
                for (name, param), slope in zip(params.items(), slopes, strict=True)
            }
        return softplus(-self._scored(params, fake)).mean()

    def _scored(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        scores: Tensor = functional_call(self.net, params, (x,))
        return scores.reshape(-1)
