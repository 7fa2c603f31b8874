"""Training of a network with a method's penalty, and its Jacobian's spectrum meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.experiments.settings import Settings
from common.random_state import global_states, set_global_states
from common.tasks.augmentation import crop_and_flip
from common.training.checkpoint import Checkpoint
from common.training.data_order import EpochOrder
from common.training.local_gpu import Device
from papers.ojr.methods.measures import Spectrum
from papers.ojr.methods.regularisation import Regularisation, prepare
from papers.ojr.orthogonality import evaluation
from papers.ojr.tasks.images import ImageSettings, Part
from papers.ojr.tasks.networks import NetworkSettings, build_network


class Trial(Settings):
    """What is searched for: a step size, and the weight of a penalty (or of the decay)."""

    lr: float = Field(0.05, gt=0)
    weight: float = Field(0.0, ge=0)


class TrainingSettings(Settings):
    """Network, data, method and schedule; the same for all methods but for the method."""

    images: ImageSettings = ImageSettings()
    network: NetworkSettings
    regularisation: Regularisation
    steps: int = Field(gt=0)
    batch_size: int = Field(128, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(0.0, ge=0, description="of all methods")
    clip_norm: float | None = Field(1.0, gt=0, description="largest gradient norm")
    lr_drops: list[int] = Field([], description="steps after which the step size is multiplied")
    lr_factor: float = Field(0.2, gt=0)
    annealing: list[tuple[int, float]] = Field(
        [], description="(step, factor): from that step on the penalty's weight times the factor"
    )
    augment: bool = Field(False, description="random crops and flips of training images")
    observed: int = Field(20, gt=0, description="test images whose Jacobians are taken")
    observe_every: int = Field(50, gt=0, description="steps")
    device: Device = "cpu"


class Trained:
    """A network, its history, and the seconds of its steps: the processor's, of a GPU the clock's.

    Args:
        part: training images.
        test: images whose Jacobians are observed; None observes none.
        checkpoint: where a killed training goes on from.

    Attributes:
        history: loss and singular values at the start, every so many steps and at the end.
        spectra: all singular values at those moments, (images, side) each; none of large maps.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        trial: Trial,
        part: Part,
        test: Part | None,
        seed: int,
        checkpoint: Checkpoint,
        tick: Callable[[int], object],
        device: torch.device | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self._settings, self._trial = settings, trial
        self._device = device or torch.device("cpu")
        classes = int(part.y.max()) + 1
        channels, height, width = part.x.shape[1:]
        self.network = build_network(settings.network, (channels, height, width), classes)
        self._generator = torch.Generator(self._device).manual_seed(seed)
        regularisation = settings.regularisation
        # Starts are drawn on the CPU: the same on every device.
        penalty = prepare(self.network, regularisation, trial.weight, self._generator)
        self.network.to(self._device)
        decay = trial.weight if regularisation.method == "weight_decay" else 0.0
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=trial.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay + decay,
        )
        self._clock = perf_counter if self._device.type == "cuda" else process_time
        self.count, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.spectra: list[Tensor] = []
        if kept := checkpoint.read():
            self._restore(kept)
        tick(self.count)
        order = EpochOrder(len(part.x), min(settings.batch_size, len(part.x)), seed=seed)
        while self.count < settings.steps:
            epoch, taken = divmod(self.count, order.steps_per_epoch)
            for rows in order.batches(epoch, taken):
                index = torch.tensor(rows)
                x, y = part.x[index], part.y[index]
                if settings.augment:
                    x = crop_and_flip(x)
                x, y = x.to(self._device), y.to(self._device)
                if self.count % settings.observe_every == 0:
                    self._observe(x, y, test)
                self._step(x, y, penalty)
                self.count += 1
                last = self.count == settings.steps
                if last:
                    self._observe(x, y, test)
                tick(1)
                checkpoint.write(self.count, self._state)
                if last:
                    break
        checkpoint.remove()
        self.network.eval()

    def _step(self, x: Tensor, y: Tensor, penalty: Callable[[Tensor], Tensor] | None) -> None:
        settings = self._settings
        drops = sum(self.count >= drop for drop in settings.lr_drops)
        self.optimizer.param_groups[0]["lr"] = self._trial.lr * settings.lr_factor**drops
        factor = [1.0, *(each for step, each in settings.annealing if step <= self.count)][-1]
        started = self._clock()
        loss = functional.cross_entropy(self.network(x), y)
        if penalty is not None and factor:
            loss = loss + factor * penalty(x)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        self.optimizer.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += self._clock() - started

    def _observe(self, x: Tensor, y: Tensor, test: Part | None) -> None:
        """Loss on a batch of training images and the spectrum on test images."""
        if test is None:
            return
        with evaluation(self.network), torch.no_grad():
            loss = functional.cross_entropy(self.network(x), y).item()
        found = Spectrum(self.network, test.x[: self._settings.observed])
        self.history.append({"step": self.count, "loss": loss, **found.numbers})
        if found.values is not None:
            self.spectra.append(found.values)

    def _state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self._generator.get_state(),
            "global": global_states(self._device),
            "count": self.count,
            "seconds": self.seconds,
            "history": self.history,
            "spectra": self.spectra,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        set_global_states(state["global"], self._device)
        self.count, self.seconds = state["count"], state["seconds"]
        self.history, self.spectra = list(state["history"]), list(state["spectra"])
