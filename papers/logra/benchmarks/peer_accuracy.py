"""Datamodeling scores of other libraries beside ours, on the same models at equal projection sizes.

Half subsets, training and score are those of the experiment ``datamodeling`` on digits; networks
have no biases, for which libraries differ in what they do. EKFAC stands beside EKFAC, LoGra beside
LoGra, TRAK beside TRAK and beside LoGra, with as many numbers for a sample as LoGra keeps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.experiments.schema import RunKey, Scale, load_paper
from common.experiments.settings import validated
from common.results.benchmarks import BenchmarkRow, score_row
from common.runs.run import Run
from papers.logra.benchmarks.peers import Make, peers, silent
from papers.logra.experiments.linear_datamodeling_score import (
    LinearDatamodelingSettings,
    datamodeling_scores,
)
from papers.logra.experiments.subset_retraining import RETRAINING_SEED, half_subsets
from papers.logra.methods.attribution import AttributionSettings, attribute
from papers.logra.tasks.classifier_training import train
from papers.logra.tasks.image_task import ImageTask
from papers.logra.tasks.samples import Samples, compute_logits, margins

PAPER = "logra"
BATCH = 64
#: Seeds of attributed models.
MODELS = (0, 1, 2)


class Size(NamedTuple):
    """How much is retrained, how often projections are drawn, and the ranks compared."""

    subsets: int
    retrainings: int
    draws: int
    ranks: tuple[int, ...]


SIZES = {
    "smoke": Size(40, 3, 1, (4,)),
    "laptop": Size(100, 5, 5, (8, 16)),
    "paper": Size(100, 10, 20, (8, 16)),
}


class DigitsTask(NamedTuple):
    """Classifiers on digits: training set, queries, and how one is trained."""

    train: Samples
    queries: Samples
    settings: LinearDatamodelingSettings

    def model(self, seed: int, places: Tensor | None = None) -> nn.Module:
        """Trained on all samples, or on those at ``places``."""
        chosen = self.train if places is None else self.train.take(places)
        network = without_biases(self.settings.network.sizes, seed)
        return train(network, chosen, self.settings.training, seed)


def task_at(scale: str) -> DigitsTask:
    """The images of the experiment, flat; digits at paper scale too, for all is timed on a CPU."""
    small: Scale = "smoke" if scale == "smoke" else "laptop"
    place = ("datamodeling", "images", "ekfac")
    raw = load_paper(Path(__file__).parents[1]).settings(*place, small)
    settings = validated(LinearDatamodelingSettings, raw, "datamodeling")
    key = RunKey(PAPER, *place, 0, small)
    with (
        tempfile.TemporaryDirectory() as folder,
        Run(
            key, "linear_datamodeling_score", settings, Path(folder, "run"), Path(folder, "work")
        ) as run,
    ):
        images = ImageTask(settings, run).images
    chosen, queries = (Samples(part.x.flatten(1), part.y) for part in images[:2])
    return DigitsTask(chosen, queries, settings)


def without_biases(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """Linear layers without biases and ReLU between them."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def retrained_margins(task: DigitsTask, subsets: Tensor, retrainings: int) -> Tensor:
    """Mean margins (subsets, queries) of models trained on each subset."""
    found = []
    for subset, places in enumerate(subsets):
        first = RETRAINING_SEED + subset * retrainings
        models = (task.model(first + again, places) for again in range(retrainings))
        logits = torch.stack([compute_logits(model, task.queries) for model in models])
        found.append(margins(logits, task.queries.y).mean(0))
    return torch.stack(found)


def accuracy(scale: str) -> list[BenchmarkRow]:
    """Datamodeling score of each peer's scores and of ours, a pair for each attributed model."""
    size, task = SIZES[scale], task_at(scale)
    count = len(task.train.x)
    subsets = half_subsets(size.subsets, count)
    masks = torch.zeros(size.subsets, count, dtype=torch.bool).scatter_(1, subsets, True)
    outputs = retrained_margins(task, subsets, size.retrainings)
    models = [task.model(seed) for seed in MODELS]

    def lds(score: Callable[[nn.Module, int], Tensor], draws: int) -> list[float]:
        """Score of every attributed model, meant over draws of the projection."""
        found = torch.stack(
            [
                datamodeling_scores(score(model, seed), masks, outputs).nan_to_num().mean()
                for place, model in enumerate(models)
                for seed in range(place * draws, (place + 1) * draws)
            ]
        )
        return found.view(len(models), draws).mean(1).tolist()

    def ours(settings: AttributionSettings, draws: int = size.draws) -> list[float]:
        def score(model: nn.Module, seed: int) -> Tensor:
            with silent(), tempfile.TemporaryDirectory() as folder:
                log = Path(folder, "log")
                return attribute(settings, model, task.train, task.queries, seed, log)

        return lds(score, draws)

    def theirs(make: Make, rank: int, draws: int = size.draws) -> list[float]:
        return lds(lambda model, seed: scored(make, task, model, rank, seed), draws)

    rows, known = [], peers()
    note = f"{count} digits, {len(models)} models"
    drawn = f"{note}, {size.draws} projections of each"
    if "kronfluence" in known:
        ekfac = AttributionSettings(projection="none", hessian="ekfac")
        pair = ours(ekfac, 1), theirs(known["kronfluence"], 1, 1)
        rows.append(score_row(PAPER, "LDS, EKFAC beside EKFAC", "kronfluence", *pair, note))
    for rank in size.ranks:
        logra = ours(AttributionSettings(rank=rank))
        for name in ("logix-ai", "dattri"):
            if name in known:
                what, other = f"LDS, LoGra beside LoGra, rank {rank}", theirs(known[name], rank)
                rows.append(score_row(PAPER, what, name, logra, other, drawn))
        numbers = kept(task, rank)
        # TRAK solves for as many unknowns as it keeps: with more than samples there is no solution.
        if "traker" in known and numbers < count:
            other = theirs(partial(known["traker"], dimension=numbers), rank)
            trak = ours(AttributionSettings(method="trak", dimension=numbers))
            for name, found in (("TRAK", trak), (f"LoGra of rank {rank}", logra)):
                what = f"LDS, {name} beside TRAK, {numbers} numbers"
                rows.append(score_row(PAPER, what, "traker", found, other, drawn))
    return rows


def kept(task: DigitsTask, rank: int) -> int:
    """Numbers that LoGra keeps of a sample, of all layers."""
    sizes = task.settings.network.sizes
    return sum(min(rank, before) * min(rank, after) for before, after in pairwise(sizes))


def scored(make: Make, task: DigitsTask, model: nn.Module, rank: int, seed: int) -> Tensor:
    """A peer's scores (queries, train) of a model."""
    with silent(), tempfile.TemporaryDirectory() as folder:
        peer = make(model, Path(folder), rank, BATCH, seed)
        peer.log(task.train)
        return peer.score(task.queries).float()
