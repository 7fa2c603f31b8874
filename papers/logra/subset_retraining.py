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

from common.config import Program
from common.errors import InputError
from common.run import Run
from papers.logra.image_task import ImageTask, ImageTaskSettings
from papers.logra.samples import losses, margins

FILE = "outputs.safetensors"
#: Of the draw of subsets, and so that no retrained model starts as an attributed one does.
MASK_SEED, RETRAINING_SEED = 20240522, 1_000_000


class SubsetRetrainingSettings(ImageTaskSettings):
    """Which subsets, and how often."""

    subsets: int = Field(gt=1, description="half subsets, of all runs together")
    retrainings: int = Field(gt=0, description="models of each subset")
    shares: int = Field(gt=0, description="runs, of seeds 0, 1, ..., that share the subsets")


class Retrained(NamedTuple):
    """Outputs of retrained models.

    Attributes:
        masks: (subsets, n) which training samples each subset has.
        losses, margins: (subsets, retrainings, queries).
    """

    masks: Tensor
    losses: Tensor
    margins: Tensor


def half_subsets(count: int, samples: int, seed: int = MASK_SEED) -> Tensor:
    """(count, samples // 2) places of random halves, ascending."""
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(count, samples, generator=generator).argsort(1)
    return orders[:, : samples // 2].sort(1).values


def run_subset_retraining(settings: SubsetRetrainingSettings, run: Run) -> dict[str, float]:
    """Retrain this share of the subsets; returns the models' accuracy (%)."""
    if run.seed >= settings.shares:
        raise InputError(f"--seed {run.seed}: allowed: 0 to {settings.shares - 1}, one each share")
    task = ImageTask(settings, run)
    train, test = task.images.train, task.images.test
    chosen = torch.arange(run.seed, settings.subsets, settings.shares)
    subsets = half_subsets(settings.subsets, len(train.x))[chosen]
    # A model's seed follows from its subset and repetition alone, not from who trains it.
    repeated = subsets.repeat_interleave(settings.retrainings, 0)
    seeds = [
        RETRAINING_SEED + subset * settings.retrainings + again
        for subset in chosen.tolist()
        for again in range(settings.retrainings)
    ]
    logits = task.retrained_logits(repeated, seeds, test)
    y = test.y.cpu()
    shape = (len(chosen), settings.retrainings, len(y))
    masks = torch.zeros(len(chosen), len(train.x), dtype=torch.bool)
    tensors = {
        "places": chosen,
        "masks": masks.scatter_(1, subsets, True),
        "losses": losses(logits, y).view(shape),
        "margins": margins(logits, y).view(shape),
    }
    save_file(tensors, run.path(FILE))
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
