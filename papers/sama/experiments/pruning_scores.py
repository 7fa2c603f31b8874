"""The search of data pruning: a score of every training sample, from the training of one proxy.

All methods have a proxy of the same network, steps and schedule, and the same moments at which it
is looked at; a score is the mean over those. Source: Choe et al. 2023, Sec. 4 (data pruning), as
the published ImageNet script does it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core
from papers.sama.methods.bilevel import Bilevel, Constant, MetaSettings
from papers.sama.methods.pruning import (
    ForgettingEvents,
    GumbelWeights,
    SlowHead,
    el2n,
    grand,
    grand_last_layer,
    margin,
)
from papers.sama.methods.timing import Clock
from papers.sama.methods.weighting import LossWeights
from papers.sama.tasks.pruning_images import (
    PictureBatches,
    PictureNetwork,
    Pictures,
    PruningImages,
    check_network,
    load_pictures,
)


class SampleWeights(Settings):
    """The weight network, which reads a sample's loss and uncertainty."""

    kind: Literal["soft", "gumbel"] = Field(
        "gumbel", description="gumbel: 0 or 1, straight-through; soft: 0 to 2, of mean 1 in a batch"
    )
    hidden: int = Field(100, gt=0)
    temperature: float = Field(0.5, gt=0, description="gumbel only")
    slow_decay: float = Field(0.95, ge=0, lt=1, description="of the last layer that follows")


class PruningSearch(PruningImages):
    """How samples are scored."""

    method: Literal["sama", "el2n", "grand", "margin", "forgetting"]
    steps: int = Field(gt=0, description="of the proxy")
    checkpoints: int = Field(
        5, gt=0, description="moments at which scores are taken, evenly over the second half"
    )
    grand_of: Literal["all", "last_layer"] = Field("all", description="grand only: which weights")
    grand_at_once: int = Field(250, gt=0, description="samples whose gradients are held at a time")
    weights: SampleWeights = SampleWeights()
    meta: MetaSettings = MetaSettings(lr=1e-3)


class Search:
    """A proxy in training, and the scores so far. All of it is part of the resume state.

    Args:
        settings: what to do.
        data: what to score.
        seed: of the orders of batches.
        device: where.
    """

    def __init__(
        self, settings: PruningSearch, data: Pictures, seed: int, device: torch.device
    ) -> None:
        self._settings, self._data, self._device = settings, data, device
        self.network = PictureNetwork(settings).to(device)
        samples = len(data.train.y)
        everything = torch.arange(samples)
        self._batches = PictureBatches(settings, data.train, everything, 2 * seed, device)
        self._meta_batches: PictureBatches | None = None
        self._slow: SlowHead | None = None
        self._weigher: nn.Module | None = None
        if settings.method == "sama":
            # Meta data are the training data, in another order.
            self._meta_batches = PictureBatches(
                settings, data.train, everything, 2 * seed + 1, device
            )
            self._slow = SlowHead(self.network.head, settings.weights.slow_decay)
            self._weigher = _weigher(settings.weights).to(device)
        self.bilevel = Bilevel(
            self.network, settings.optimizer, settings.steps, self._weigher, settings.meta
        )
        self._events = ForgettingEvents(samples)
        self._total, self._looks = torch.zeros(samples), 0
        self.clock = Clock(device)
        half = settings.steps / 2
        self._moments = {
            settings.steps - int(place * half / settings.checkpoints)
            for place in range(settings.checkpoints)
        }

    @property
    def done(self) -> bool:
        """Whether the proxy has had all of its steps."""
        return self.bilevel.count >= self._settings.steps

    @property
    def scores(self) -> Tensor:
        """(n,) mean over the moments; those with the lowest are left out first."""
        if self._settings.method == "forgetting":
            return self._events.scores
        return self._total / max(1, self._looks)

    def step(self) -> None:
        """One step of the proxy, and what is due after it."""
        with self.clock:
            pixels, labels, rows = self._batches.next()
            if self._settings.method == "sama":
                self._weighted_step(pixels, labels)
            else:
                self._plain_step(pixels, labels, rows)
            if self.bilevel.count in self._moments and self._settings.method != "forgetting":
                self._look()

    def _plain_step(self, pixels: Tensor, labels: Tensor, rows: Tensor) -> None:
        right: list[Tensor] = []

        def cost() -> Tensor:
            logits = self.network(pixels)
            right.append(logits.argmax(1) == labels)
            return cross_entropy(logits, labels)

        self.bilevel.step(cost)
        if self._settings.method == "forgetting":
            self._events.see(rows, right[0])

    def _weighted_step(self, pixels: Tensor, labels: Tensor) -> None:
        assert self._slow is not None
        assert self._meta_batches is not None
        seen = Constant()
        noise = self._noise(len(labels))

        def base_cost() -> Tensor:
            losses, known = self._known(pixels, labels)
            return (self._weights(seen(known), noise) * losses).mean()

        def meta_cost() -> Tensor:
            assert self._meta_batches is not None
            other, their_labels, _ = self._meta_batches.next()
            return cross_entropy(self.network(other), their_labels)

        self.bilevel.step(base_cost, meta_cost)
        self._slow.follow()

    def _noise(self, count: int) -> Tensor | None:
        """Drawn once a batch: both moved passes have the weights that the step had."""
        kind = self._settings.weights.kind
        return GumbelWeights.draw(count, self._device) if kind == "gumbel" else None

    def _weights(self, known: Tensor, noise: Tensor | None) -> Tensor:
        assert self._weigher is not None
        weights: Tensor = self._weigher(known) if noise is None else self._weigher(known, noise)
        return weights

    def _known(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) losses, and (n, 2) what the weight network reads: those and uncertainties."""
        assert self._slow is not None
        features = self.network.features(pixels)
        logits = self.network.head(features)
        losses = cross_entropy(logits, labels, reduction="none")
        return losses, torch.stack([losses, self._slow.uncertainty(features, logits)], dim=1)

    def _look(self) -> None:
        """Add scores of this moment."""
        self.network.eval()
        size = self._settings.grand_at_once
        train = self._data.train
        found = [
            self._score(pixels.to(self._device), labels.to(self._device)).cpu()
            for pixels, labels in zip(*(torch.split(part, size) for part in train), strict=True)
        ]
        self.network.train()
        self._total += torch.cat(found)
        self._looks += 1

    def _score(self, pixels: Tensor, labels: Tensor) -> Tensor:
        method = self._settings.method
        if method == "grand" and self._settings.grand_of == "all":
            return grand(self.network, pixels, labels).detach()
        with torch.no_grad():
            if method == "sama":
                _, known = self._known(pixels, labels)
                return self._weights_alone(known)
            features = self.network.features(pixels)
            logits = self.network.head(features)
            if method == "grand":
                return grand_last_layer(features, logits, labels)
            return el2n(logits, labels) if method == "el2n" else margin(logits)

    def _weights_alone(self, known: Tensor) -> Tensor:
        """Soft weights, each sample's own: none is divided by the mean of those beside it."""
        if isinstance(self._weigher, LossWeights):
            return self._weigher.alone(known)
        return self._weights(known, None)

    def state_dict(self) -> dict[str, Any]:
        """Proxy, orders, counts, scores and time."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        sums = {"total": self._total, "looks": self._looks, "seconds": self.clock.seconds}
        return parts | sums

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._total, self._looks = state["total"].clone(), state["looks"]
        self.clock.seconds = state["seconds"]

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "bilevel": self.bilevel,
            "batches": self._batches,
            "events": self._events,
        }
        if self._meta_batches is not None:
            parts |= {"meta_batches": self._meta_batches, "slow": self._slow}
        return parts


def _weigher(settings: SampleWeights) -> nn.Module:
    if settings.kind == "gumbel":
        return GumbelWeights(2, settings.hidden, settings.temperature)
    return LossWeights(2, settings.hidden, normalise=True)


def run_pruning_scores(settings: PruningSearch, run: Run) -> dict[str, float]:
    """Score, write ``scores.csv``, and return time (s) and where the wrong labels lie (%)."""
    check_network(settings)
    if settings.checkpoints > settings.steps:
        raise InputError(
            f"checkpoints {settings.checkpoints}: allowed: at most {settings.steps}, the steps"
        )
    core = Core(settings.core, run)
    data = load_pictures(settings, run)
    search = Search(settings, data, run.seed, core.device)
    core.track(search=search)
    core.restore()
    with run.progress(settings.steps, "search", "step") as bar:
        bar.update(search.bilevel.count)
        while not search.done:
            search.step()
            core.completed_step()
            bar.update()
    core.finish()
    scores, wrong = search.scores, data.train.y != data.truth
    run.write_rows(
        "scores.csv",
        [
            {"row": row, "score": score, "label": label, "wrong": int(is_wrong)}
            for row, (score, label, is_wrong) in enumerate(
                zip(scores.tolist(), data.train.y.tolist(), wrong.tolist(), strict=True)
            )
        ],
    )
    metrics = {"search_s": search.clock.seconds}
    return metrics | _where_wrong(scores, wrong)


def _where_wrong(scores: Tensor, wrong: Tensor) -> dict[str, float]:
    """Shares (%) of wrong labels among the lowest and the highest fifth, if there are any."""
    if not wrong.any():
        return {}
    fifth, order = len(scores) // 5, scores.argsort(stable=True)
    return {
        "wrong_among_lowest_fifth_pct": 100 * float(wrong[order[:fifth]].float().mean()),
        "wrong_among_highest_fifth_pct": 100 * float(wrong[order[-fifth:]].float().mean()),
    }


PROGRAM = Program(PruningSearch, run_pruning_scores)
