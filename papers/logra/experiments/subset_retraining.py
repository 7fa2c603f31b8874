"""Models retrained on random halves of the training set: what the datamodeling score compares with.

One set of retrained models serves all methods. A run makes the share of its seed; together they
are all subsets. Source: Choe et al. 2024, App. C.1; Park et al. 2023.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from papers.logra.tasks.image_task import ImageTask, ImageTaskSettings
from papers.logra.tasks.samples import losses, margins

FILE = "outputs.safetensors"
#: Subsets are drawn with the first; by the second no retrained model starts as an attributed one.
MASK_SEED, RETRAINING_SEED = 20240522, 1_000_000


class SubsetSettings(Settings):
    """Which subsets, and how often."""

    subsets: int = Field(gt=1, description="half subsets, of all runs together")
    retrainings: int = Field(gt=0, description="models of each subset")
    shares: int = Field(gt=0, description="runs, of seeds 0, 1, ..., that share the subsets")


class SubsetRetrainingSettings(SubsetSettings, ImageTaskSettings):
    """Which models."""


class Retrained(NamedTuple):
    """Outputs of retrained models.

    Attributes:
        masks: (subsets, n) which training samples each subset has.
        losses, margins: (subsets, retrainings, queries).
    """

    masks: Tensor
    losses: Tensor
    margins: Tensor


class RetrainingShare(NamedTuple):
    """The models that one run trains.

    Attributes:
        chosen: (subsets,) numbers of its subsets.
        masks: (subsets, n) which training samples each subset has.
        places: (models, n // 2) places of those that each model is trained on.
        seeds: of each model.
    """

    chosen: Tensor
    masks: Tensor
    places: Tensor
    seeds: list[int]

    def save(self, run: Run, losses: Tensor, margins: Tensor) -> None:
        """Keep outputs (models, queries) for :func:`read_retrained`."""
        shape = (len(self.chosen), -1, losses.shape[1])
        tensors = {
            "places": self.chosen,
            "masks": self.masks,
            "losses": losses.view(shape),
            "margins": margins.view(shape),
        }
        save_file(tensors, run.path(FILE))


def half_subsets(count: int, samples: int, seed: int = MASK_SEED) -> Tensor:
    """(count, samples // 2) places of random halves, ascending."""
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(count, samples, generator=generator).argsort(1)
    return orders[:, : samples // 2].sort(1).values


def draw_share(settings: SubsetSettings, run: Run, samples: int) -> RetrainingShare:
    """What the run of this seed trains. Raises InputError: more seeds than shares."""
    if run.seed >= settings.shares:
        raise InputError(f"--seed {run.seed}: allowed: 0 to {settings.shares - 1}, one each share")
    chosen = torch.arange(run.seed, settings.subsets, settings.shares)
    subsets = half_subsets(settings.subsets, samples)[chosen]
    # A model's seed follows from its subset and repetition alone, not from who trains it.
    seeds = [
        RETRAINING_SEED + subset * settings.retrainings + again
        for subset in chosen.tolist()
        for again in range(settings.retrainings)
    ]
    masks = torch.zeros(len(chosen), samples, dtype=torch.bool).scatter_(1, subsets, True)
    return RetrainingShare(chosen, masks, subsets.repeat_interleave(settings.retrainings, 0), seeds)


def run_subset_retraining(settings: SubsetRetrainingSettings, run: Run) -> dict[str, float]:
    """Retrain this share of the subsets; returns the models' accuracy (%)."""
    task = ImageTask(settings, run)
    share = draw_share(settings, run, len(task.images.train.x))
    test = task.images.test
    logits = task.retrained_logits(share.places, share.seeds, test)
    y = test.y.cpu()
    share.save(run, losses(logits, y), margins(logits, y))
    return {"accuracy_pct": 100 * float((logits.argmax(2) == y).float().mean())}


def read_retrained(folders: list[Path]) -> Retrained:
    """All shares put together, in the order of the subsets.

    Raises: InputError if some are missing.
    """
    parts = [load_file(folder / FILE) for folder in folders]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = whole.pop("places").argsort()
    return Retrained(**{name: values[order] for name, values in whole.items()})


PROGRAM = Program(SubsetRetrainingSettings, run_subset_retraining)
