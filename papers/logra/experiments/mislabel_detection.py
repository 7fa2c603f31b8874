"""Finding wrong labels by how much training samples influence themselves.

A share of the training labels is flipped, a model is trained on them, and samples are inspected by
falling score. Loss and gradient norm, which need no H, are the controls.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.data.synthetic import noisy_labels
from common.runs.programs import Program
from common.runs.run import Run
from papers.logra.methods.attribution import InfluenceSettings, LoggedTrainingSet
from papers.logra.tasks.image_task import ImageTask, ImageTaskSettings
from papers.logra.tasks.samples import Samples, compute_logits, losses

#: Shares of the training set that are inspected.
INSPECTED = (0.1, 0.2)


class MislabelSettings(ImageTaskSettings):
    """How many labels are wrong, and what samples are ranked by."""

    flipped: float = Field(gt=0, lt=1, description="share of the training labels")
    ranking: Literal["self_influence", "gradient_norm", "loss"] = "self_influence"
    attribution: InfluenceSettings = InfluenceSettings()


def run_mislabel_detection(settings: MislabelSettings, run: Run) -> dict[str, float]:
    """Area under the ROC curve, and shares of the wrong labels found by inspecting some."""
    task = ImageTask(settings, run)
    samples, classes = task.images.train, task.images.classes
    truth = samples.y.cpu().numpy()
    given = torch.from_numpy(noisy_labels(truth, settings.flipped, classes, run.rng))
    wrong = given != torch.from_numpy(truth)
    model = task.model(run.seed, given)
    damaged = Samples(samples.x, given.to(task.device))
    suspicion = suspicions(settings, model, damaged, run.seed, run.work / "log")
    metrics = {"auc": roc_area(suspicion, wrong)}
    for share in INSPECTED:
        looked_at = suspicion.topk(round(share * len(wrong))).indices
        metrics[f"found_at_{100 * share:.0f}_pct"] = 100 * float(
            wrong[looked_at].sum() / wrong.sum()
        )
    return metrics


def suspicions(
    settings: MislabelSettings, model: nn.Module, samples: Samples, seed: int, folder: Path
) -> Tensor:
    """(n,) what samples are ranked by, on the CPU; a log lies in ``folder``."""
    if settings.ranking == "loss":
        return losses(compute_logits(model, samples), samples.y).cpu()
    logged = LoggedTrainingSet(settings.attribution, model, samples, seed, folder)
    if settings.ranking == "gradient_norm":
        return logged.gradient_norms()
    return logged.self_influences()


def roc_area(values: Tensor, positive: Tensor) -> float:
    """Chance that a positive sample has a larger value than another one; ties count half."""
    above = values[positive][:, None] - values[~positive][None, :]
    return float((above > 0).double().mean() + 0.5 * (above == 0).double().mean())


PROGRAM = Program(MislabelSettings, run_mislabel_detection)
