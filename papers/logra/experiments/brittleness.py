"""Brittleness test: what becomes of a test image when its most valuable samples are removed?

Images are those that models of all selecting seeds classify rightly. For each, the k samples with
the highest scores are removed and models retrained; it is flipped if it is misclassified by the
mean of the retrained models' correctness. Source: Choe et al. 2024, Sec. 4.1 and App. C.1; Ilyas
et al. 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from common.errors import InputError
from common.runs.programs import Program
from common.runs.run import Run
from papers.logra.experiments.subset_retraining import RETRAINING_SEED
from papers.logra.methods.attribution import AttributionSettings, attribute
from papers.logra.tasks.image_task import ImageTask, ImageTaskSettings
from papers.logra.tasks.samples import Samples, losses

#: So that selecting models are neither attributed nor retrained ones.
SELECTION_SEED = 2_000_000


class BrittlenessSettings(ImageTaskSettings):
    """Which images, how many samples are removed, and by which method's scores."""

    attribution: AttributionSettings
    images_tested: int = Field(gt=0, description="the first so many that are always right")
    selection_models: int = Field(5, gt=0, description="models that must all be right")
    removals: tuple[int, ...] = Field(min_length=1, description="ascending")
    retrainings: int = Field(3, gt=0, description="models of each image and number removed")


def always_right(task: ImageTask, models: int) -> Tensor:
    """Places of the test images that every model is right about, ascending."""
    count = len(task.images.train.x)
    everything = torch.arange(count).expand(models, -1)
    seeds = range(SELECTION_SEED, SELECTION_SEED + models)
    test = task.images.test
    logits = task.retrained_logits(everything, seeds, test)
    return (logits.argmax(2) == test.y.cpu()).all(0).nonzero().squeeze(1)


def without_best(scores: Tensor, count: int) -> Tensor:
    """(queries, n) scores -> (queries, n - count) places of what is left, ascending."""
    best = scores.topk(count, 1).indices
    left = torch.ones_like(scores, dtype=torch.bool).scatter_(1, best, False)
    return left.nonzero()[:, 1].view(len(scores), -1)


def flipped_shares(correct: Tensor) -> Tensor:
    """Share of images flipped by removing at most so many, (removals,).

    Args:
        correct: (removals, images, retrainings) whether each retrained model is right.
    """
    flipped = correct.double().mean(2) < 0.5
    return flipped.cummax(0).values.double().mean(1)


def run_brittleness(settings: BrittlenessSettings, run: Run) -> dict[str, float]:
    """Remove and retrain; returns shares of flipped images and mean losses by number removed."""
    removals = settings.removals
    if list(removals) != sorted(set(removals)):
        raise InputError(f"removals {list(removals)}; allowed: ascending numbers")
    task = ImageTask(settings, run)
    train, test = task.images.train, task.images.test
    right = always_right(task, settings.selection_models)[: settings.images_tested]
    if len(right) < settings.images_tested:
        raise InputError(
            f"images_tested {settings.images_tested}; allowed: at most {len(right)}, which are "
            f"always right of {len(test.x)}"
        )
    tested = test.take(right.to(task.device))
    model, folder = task.model(run.seed), run.work / "log"
    scores = attribute(settings.attribution, model, train, tested, run.seed, folder)
    loss = losses_of_whole(task, tested, settings.retrainings, run.seed)
    rows = [{"removed": 0, "flipped": 0.0, "loss": float(loss.mean())}]
    correct, found = [], []
    with run.progress(len(removals), "removals") as bar:
        for count in removals:
            subsets = without_best(scores, count)
            outcome = retrained(task, subsets, tested, settings.retrainings, run.seed)
            correct.append(outcome[0])
            found.append(outcome[1])
            bar.update()
    rows += [
        {"removed": count, "flipped": float(share), "loss": float(value.mean())}
        for count, share, value in zip(
            removals, flipped_shares(torch.stack(correct)), found, strict=True
        )
    ]
    run.write_rows("curve.csv", rows)
    metrics = {f"loss_{row['removed']}": row["loss"] for row in rows}
    return metrics | {f"flipped_{row['removed']}": row["flipped"] for row in rows[1:]}


def losses_of_whole(task: ImageTask, tested: Samples, retrainings: int, seed: int) -> Tensor:
    """Losses (retrainings, images) of models of the whole set, which serve all images alike."""
    first = RETRAINING_SEED + seed * len(tested.x) * retrainings
    whole = torch.arange(len(task.images.train.x)).expand(retrainings, -1)
    logits = task.retrained_logits(whole, range(first, first + retrainings), tested)
    return losses(logits, tested.y.cpu())


def retrained(
    task: ImageTask, subsets: Tensor, tested: Samples, retrainings: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Whether each image's own models are right, and their losses: (images, retrainings) each.

    Args:
        task: with the training images.
        subsets: (images, m) what is left for each image.
        tested: the images.
        retrainings: models of each.
        seed: of the run, so that runs retrain other models.
    """
    images = len(tested.x)
    first = RETRAINING_SEED + seed * images * retrainings
    seeds: Sequence[int] = range(first, first + images * retrainings)
    logits = task.retrained_logits(subsets.repeat_interleave(retrainings, 0), seeds, tested)
    own = torch.arange(images).repeat_interleave(retrainings)
    judged = logits[torch.arange(len(own)), own]
    y = tested.y.cpu()[own]
    shape = (images, retrainings)
    return (judged.argmax(1) == y).view(shape), losses(judged, y).view(shape)


PROGRAM = Program(BrittlenessSettings, run_brittleness)
