"""Training from scratch on what data pruning leaves: Figure 3.

A run trains on each share that it is told to prune, with samples kept by the scores of its arm, at
random or all. Source: Choe et al. 2023, Sec. 4 (data pruning).
"""

from __future__ import annotations

import csv
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.errors import InputError
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core
from common.training.data_order import mixed
from papers.sama.methods.bilevel import Bilevel
from papers.sama.methods.pruning import kept_rows
from papers.sama.methods.timing import Clock
from papers.sama.tasks.pruning_images import (
    PictureBatches,
    PictureNetwork,
    Pictures,
    PruningImages,
    accuracy_pct,
    check_network,
    load_pictures,
)


class PrunedTraining(PruningImages):
    """What is kept, and for how long it is trained on."""

    keep: Literal["all", "random", "scores"] = Field(description="scores: of the runs needed")
    pruned_pct: tuple[int, ...] = Field(min_length=1, description="shares to leave out; 0 for all")
    steps: int = Field(gt=0, description="on all of the data")
    same: Literal["epochs", "steps"] = Field(
        "epochs", description="what is the same on less data: fewer steps follow from epochs"
    )
    repeats: int = Field(1, gt=0, description="trainings of each share; their mean counts")


class Training:
    """One network on some rows; part of the resume state."""

    def __init__(
        self,
        settings: PrunedTraining,
        data: Pictures,
        rows: Tensor,
        seed: int,
        device: torch.device,
    ) -> None:
        torch.manual_seed(seed)
        self.network = PictureNetwork(settings).to(device)
        self._batches = PictureBatches(settings, data.train, rows, seed, device)
        share = len(rows) / len(data.train.y)
        follows = settings.same == "epochs"
        self.steps = max(1, round(settings.steps * share)) if follows else settings.steps
        self._bilevel = Bilevel(self.network, settings.optimizer, self.steps)

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self._bilevel.count >= self.steps

    def step(self) -> None:
        """One step."""
        pixels, labels, _ = self._batches.next()
        self._bilevel.step(lambda: cross_entropy(self.network(pixels), labels))

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser and position."""
        return {"bilevel": self._bilevel.state_dict(), "batches": self._batches.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._bilevel.load_state_dict(state["bilevel"])
        self._batches.load_state_dict(state["batches"])


class Retraining:
    """All trainings of a run, one after another; part of the resume state.

    Args:
        settings: what to do.
        data: what to train on.
        scores (n,): of its samples.
        seed: the run's. Networks and orders are the same whatever scored the samples.
        device: where.
    """

    def __init__(
        self,
        settings: PrunedTraining,
        data: Pictures,
        scores: Tensor,
        seed: int,
        device: torch.device,
    ) -> None:
        self._settings, self._data, self._scores = settings, data, scores
        self._seed, self._device = seed, device
        parts = range(settings.repeats)
        self._plan = [(pct, part) for pct in settings.pruned_pct for part in parts]
        self.accuracies: list[float] = []
        self.clock = Clock(device)
        self._current: Training | None = None

    @property
    def done(self) -> bool:
        """Whether every training was."""
        return len(self.accuracies) == len(self._plan)

    def step(self) -> None:
        """One step of the training that is at hand; its accuracy after the last one."""
        if self._current is None:
            self._current = self._begin()
        with self.clock:
            self._current.step()
        if self._current.done:
            network = self._current.network
            self.accuracies.append(accuracy_pct(network, self._data.test, self._device))
            self._current = None

    def _begin(self) -> Training:
        pct, part = self._plan[len(self.accuracies)]
        ties = torch.Generator().manual_seed(mixed(self._seed, pct))
        rows = kept_rows(self._scores, pct, ties)
        return Training(
            self._settings, self._data, rows, mixed(self._seed, pct, part), self._device
        )

    def metrics(self) -> dict[str, float]:
        """Mean accuracy (%) by share, and the mean time (s) of all trainings."""
        found: dict[int, list[float]] = {}
        for (pct, _), value in zip(self._plan, self.accuracies, strict=True):
            found.setdefault(pct, []).append(value)
        means = {f"accuracy_pruned_{pct}_pct": sum(each) / len(each) for pct, each in found.items()}
        return means | {"train_s": self.clock.seconds / len(self._plan)}

    def state_dict(self) -> dict[str, Any]:
        """Accuracies so far, time, and the training at hand."""
        current = self._current.state_dict() if self._current is not None else {}
        state = {"accuracies": self.accuracies, "seconds": self.clock.seconds}
        return state | {"current": current}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.accuracies = list(state["accuracies"])
        self.clock.seconds = state["seconds"]
        self._current = None
        if state["current"]:
            self._current = self._begin()
            self._current.load_state_dict(state["current"])


def run_pruned_training(settings: PrunedTraining, run: Run) -> dict[str, float]:
    """Train, and return test accuracy (%) by pruned share, and mean time of a training (s)."""
    check_network(settings)
    _check_shares(settings)
    core = Core(settings.core, run)
    data = load_pictures(settings, run)
    scores = _scores(settings, run, len(data.train.y))
    trainings = Retraining(settings, data, scores, run.seed, core.device)
    core.track(trainings=trainings)
    core.restore()
    total = len(settings.pruned_pct) * settings.repeats
    with run.progress(total, "trainings", "") as bar:
        while not trainings.done:
            bar.update(len(trainings.accuracies) - bar.n)
            trainings.step()
            core.completed_step()
    core.finish()
    return trainings.metrics()


def _check_shares(settings: PrunedTraining) -> None:
    """Raise InputError for shares that leave nothing, or prune where all is kept."""
    if settings.keep == "all" and settings.pruned_pct != (0,):
        raise InputError(f"pruned_pct {list(settings.pruned_pct)}: allowed where all is kept: [0]")
    if len(set(settings.pruned_pct)) < len(settings.pruned_pct):
        raise InputError(f"pruned_pct {list(settings.pruned_pct)}: allowed: each share once")
    for pct in settings.pruned_pct:
        if not 0 <= pct < 100:
            raise InputError(f"pruned_pct {pct}: allowed: 0 to 99")


def _scores(settings: PrunedTraining, run: Run, samples: int) -> Tensor:
    """(samples,) scores of the search with the run's seed; zeros where none is read, all ties.

    Raises:
        InputError: that search scored another number of samples.
    """
    if settings.keep != "scores":
        return torch.zeros(samples)
    folder = next(path for path in run.needed("scores") if path.name == f"seed{run.seed}")
    with (folder / "scores.csv").open(newline="", encoding="utf8") as stream:
        scores = [float(row["score"]) for row in csv.DictReader(stream)]
    if len(scores) != samples:
        raise InputError(
            f"{folder / 'scores.csv'}: {len(scores)} scores; expected: one for each of the"
            f" {samples} training pictures"
        )
    return torch.tensor(scores)


PROGRAM = Program(PrunedTraining, run_pruned_training)
