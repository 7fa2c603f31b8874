"""The loop of every method: a discriminator's update, then steps of the generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.experiments.settings import Settings
from papers.okgan.discriminator import Discriminator
from papers.okgan.divergence import DivergedError

#: Generated samples and the noise that they are made of -> an addition to the generator's loss.
Addition = Callable[[Tensor, Tensor], Tensor]


OptimizerName = Literal["adam", "sgd"]


def make_optimizer(
    name: OptimizerName, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """Adam, or plain descent, which has no use for ``betas``."""
    if name == "sgd":
        return torch.optim.SGD(params, lr)
    return torch.optim.Adam(params, lr, betas=betas, fused=True)


class GeneratorOptimizer(Settings):
    """Its rate is held and then falls in equal ratios, or stays."""

    name: OptimizerName = "adam"
    lr: float = Field(1e-3, gt=0)
    fall: float = Field(
        0.01, gt=0, le=1, description="last rate as a share of the first; 1 keeps it constant"
    )
    held: float = Field(0.3, ge=0, lt=1, description="share of iterations before it falls")
    betas: tuple[float, float] = (0.9, 0.999)

    def factor(self, iteration: int, iterations: int) -> float:
        """Of ``lr``."""
        start = self.held * iterations
        share = max(0.0, (iteration - start) / max(1.0, iterations - start))
        factor: float = self.fall ** min(1.0, share)
        return factor


class Generation:
    """A generator in training.

    Args:
        generator: noise -> samples.
        noise: draws noise (n, ...).
        discriminator: what it learns from.
        settings: its optimiser.
        iterations: of the whole training, which the schedule spans.
        steps: of the generator in an iteration, each with noise of its own.
        addition: to its loss.
    """

    def __init__(
        self,
        generator: nn.Module,
        noise: Callable[[int], Tensor],
        discriminator: Discriminator,
        settings: GeneratorOptimizer,
        iterations: int,
        steps: int = 1,
        addition: Addition | None = None,
    ) -> None:
        self.generator, self.noise, self.discriminator = generator, noise, discriminator
        self.steps, self.addition = steps, addition
        self.optimizer = make_optimizer(
            settings.name, generator.parameters(), settings.lr, settings.betas
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda iteration: settings.factor(iteration, iterations)
        )
        self.count = 0

    def iterate(self, real: Tensor) -> dict[str, float]:
        """One iteration on a real batch.

        Returns what the discriminator's update does, and the generator's last loss.

        Raises:
            DivergedError: a loss or a generated point is not finite.
        """

        def draw() -> Tensor:
            with torch.no_grad():
                samples: Tensor = self.generator(self.noise(len(real)))
            return samples

        found = self.discriminator.update(real, draw)
        for _ in range(self.steps):
            noise = self.noise(len(real))
            samples = self.generator(noise)
            lost = self.discriminator.generator_loss(samples, real)
            if self.addition is not None:
                lost = lost + self.addition(samples, noise)
            self.optimizer.zero_grad()
            lost.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.schedule.step()
        self.count += 1
        value = float(lost.detach())
        if value != value or abs(value) == float("inf"):
            raise DivergedError(f"generator: its loss is {value} after {self.count} iterations")
        return {**found, "generator_loss": value}

    @property
    def device(self) -> torch.device:
        """Of the generator."""
        return next(self.generator.parameters()).device

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Samples of the generator in training mode, as published: batch statistics are theirs.

        Training goes on as if none had been drawn: random states are put back.
        """
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            samples: Tensor = self.generator(self.noise(count))
        return samples

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, schedule and count, for a run that goes on after a kill."""
        return {"count": self.count} | {
            name: part.state_dict() for name, part in self._parts().items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.count = state["count"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])


class BandwidthSettings(Settings):
    """A kernel's gamma over the iterations."""

    kind: Literal["fixed", "linear", "exponential"] = "exponential"
    start: float = Field(gt=0)
    end: float = Field(gt=0, description="at the last iteration; not of fixed")

    def schedule(self, iterations: int) -> Callable[[int], float]:
        """Iteration -> gamma."""
        from papers.okgan import schedules

        if self.kind == "fixed":
            return schedules.fixed(self.start)
        make = schedules.linear if self.kind == "linear" else schedules.exponential
        return make(self.start, self.end, iterations)
