"""A network trained by one method with what its search chose, and judged on test images."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from common.experiments.documents import read_json
from common.experiments.settings import validated
from common.runs.programs import Program
from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from common.training.local_gpu import claimed_device
from papers.ojr.methods.measures import accuracy_pct
from papers.ojr.methods.robustness import (
    attack_accuracy_pct,
    noise_accuracy_pct,
    sign_accuracy_pct,
)
from papers.ojr.methods.training import Trained, TrainingSettings, Trial
from papers.ojr.tasks.images import Part, load_images


class JudgedSettings(TrainingSettings):
    """What is measured of the network; ``trial`` is for cases without a search."""

    trial: Trial | None = None
    noise: list[float] = Field([0.5, 1.0, 1.5], description="deviations of Gaussian noise")
    sign_attacks: list[float] = Field([0.05, 0.1, 0.2], description="sizes of FGSM's step")
    attacks: list[float] = Field([0.5, 1.0, 2.0], description="Euclidean lengths of FGM, PGD")
    attack_steps: int = Field(10, gt=0, description="of PGD")
    attacked: int | None = Field(None, gt=0, description="test images under attack; none: all")


def run_networks(settings: JudgedSettings, run: Run) -> dict[str, float]:
    """Train, and return accuracy, robustness, singular values and cost."""
    run.precision = "float32"
    device = run.hold(claimed_device(settings.device, run))
    split = load_images(settings.images, run)
    trial = settings.trial
    if trial is None:
        (folder,) = run.needed("search")
        path = folder / "chosen.json"
        trial = validated(Trial, read_json(path, "what a search chose"), str(path))
    bar = run.progress(settings.steps, "steps", "step")
    checkpoint = Checkpoint(run, "training")
    trained = Trained(
        settings, trial, split.train, split.test, run.seed, checkpoint, bar.update, device
    )
    bar.close()
    run.write_rows("history.csv", trained.history)
    if trained.spectra:
        np.save(run.path("singular_values.npy"), torch.stack(trained.spectra).numpy())
    network, test = trained.network, split.test
    attacked = Part(test.x[: settings.attacked], test.y[: settings.attacked])
    curves = {
        **{
            f"noise_{size:g}": noise_accuracy_pct(network, test, size, run.seed)
            for size in settings.noise
        },
        **{
            f"fgsm_{size:g}": sign_accuracy_pct(network, attacked, size)
            for size in settings.sign_attacks
        },
        **{
            f"fgm_{size:g}": attack_accuracy_pct(network, attacked, size, 1)
            for size in settings.attacks
        },
        **{
            f"pgd_{size:g}": attack_accuracy_pct(network, attacked, size, settings.attack_steps)
            for size in settings.attacks
        },
    }
    last = trained.history[-1]
    return {
        "accuracy_pct": accuracy_pct(network, test),
        **{f"{name}_accuracy_pct": value for name, value in curves.items()},
        **{name: value for name, value in last.items() if name.endswith("singular_value")},
        "lr": trial.lr,
        "weight": trial.weight,
        "train_s": trained.seconds,
    }


PROGRAM = Program(JudgedSettings, run_networks)
