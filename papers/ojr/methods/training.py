"""Training of a network with a method's penalty, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.experiments.settings import Settings
from common.tasks.scores import accuracy
from common.training.checkpoint import Checkpoint
from common.training.data_order import EpochOrder
from papers.ojr.methods.regularisation import Regularisation, prepare
from papers.ojr.spectrum import singular_values
from papers.ojr.tasks.images import ImageSettings, Part
from papers.ojr.tasks.networks import Activation, PlainNetwork


class Trial(Settings):
    """What is searched for: a step size, and the weight of a penalty (or of the decay)."""

    lr: float = Field(0.05, gt=0)
    weight: float = Field(0.0, ge=0)


class PlainSettings(Settings):
    """Network, data, method and schedule; the same for all methods but for the method."""

    images: ImageSettings = ImageSettings()
    activation: Activation
    depth: int = Field(gt=0)
    width: int = Field(64, gt=0)
    regularisation: Regularisation
    steps: int = Field(gt=0)
    batch_size: int = Field(128, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    observed: int = Field(20, gt=0, description="test images whose Jacobians are taken")
    observe_every: int = Field(50, gt=0, description="steps")


class Trained:
    """A network, its history and the seconds that its steps took.

    Args:
        part: training images.
        test: images whose Jacobians are observed; None observes none.
        checkpoint: where a killed training goes on from.
    """

    def __init__(
        self,
        settings: PlainSettings,
        trial: Trial,
        part: Part,
        test: Part | None,
        seed: int,
        checkpoint: Checkpoint,
        tick: Callable[[int], object],
    ) -> None:
        torch.manual_seed(seed)
        classes = int(part.y.max()) + 1
        network = PlainNetwork(
            part.x.shape[1], settings.width, settings.depth, classes, settings.activation
        )
        self._generator = torch.Generator().manual_seed(seed)
        regularisation = settings.regularisation
        penalty = prepare(network, regularisation, trial.weight, self._generator)
        decay = trial.weight if regularisation.method == "weight_decay" else 0.0
        optimizer = torch.optim.SGD(
            network.parameters(), lr=trial.lr, momentum=settings.momentum, weight_decay=decay
        )
        self.network, self.optimizer = network, optimizer
        self.count, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        if kept := checkpoint.read():
            self._restore(kept)
        tick(self.count)
        order = EpochOrder(len(part.x), min(settings.batch_size, len(part.x)), seed=seed)
        while self.count < settings.steps:
            epoch, taken = divmod(self.count, order.steps_per_epoch)
            for rows in order.batches(epoch, taken):
                index = torch.tensor(rows)
                started = perf_counter()
                x = part.x[index]
                loss = functional.cross_entropy(network(x), part.y[index])
                total = loss if penalty is None else loss + penalty(x)
                optimizer.zero_grad()
                total.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
                optimizer.step()
                self.seconds += perf_counter() - started
                self.count += 1
                last = self.count == settings.steps
                if test is not None and (last or self.count % settings.observe_every == 0):
                    spectrum = observe(network, test.x[: settings.observed])
                    self.history.append({"step": self.count, "loss": loss.item(), **spectrum})
                tick(1)
                checkpoint.write(self.count, self._state)
                if last:
                    break
        checkpoint.remove()
        network.eval()

    def _state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "count": self.count,
            "seconds": self.seconds,
            "history": self.history,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self.count, self.seconds = state["count"], state["seconds"]
        self.history = list(state["history"])


def observe(network: PlainNetwork, x: Tensor) -> dict[str, float]:
    """Mean, smallest and largest singular value of the map from inputs to the last layer."""
    values = singular_values(network.layers, x)
    return {
        "mean_singular_value": values.mean().item(),
        "smallest_singular_value": values.amin(1).mean().item(),
        "largest_singular_value": values.amax(1).mean().item(),
    }


@torch.no_grad()
def accuracy_pct(network: nn.Module, part: Part) -> float:
    """Share of right classes."""
    return accuracy(network(part.x), part.y)


@torch.no_grad()
def loss_of(network: nn.Module, part: Part) -> float:
    """Mean cross-entropy in nats."""
    return functional.cross_entropy(network(part.x), part.y).item()
