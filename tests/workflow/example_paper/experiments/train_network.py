"""The program ``train_network``: a network trained by the core, beside the linear classifiers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from papers.example_paper.perceptron import perceptron
from papers.example_paper.tasks.images import Name, load_halves
from pydantic import Field
from torch import nn
from torch.utils.data import TensorDataset

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core, CoreSettings


class TrainNetwork(Settings):
    """How the network is trained."""

    data: Name
    images: int = Field(gt=0)
    width: int = Field(gt=0)
    epochs: int = Field(gt=0)
    lr: float = Field(0.01, gt=0)
    core: CoreSettings


def train_network(settings: TrainNetwork, run: Run) -> Mapping[str, float]:
    """Train on one half, score on the other; what the linear classifiers scored is subtracted."""
    core = Core(settings.core, run)
    halves = load_halves(settings.data, settings.images, run)
    train = TensorDataset(*map(torch.from_numpy, (halves.train, halves.train_labels)))
    test = TensorDataset(*map(torch.from_numpy, (halves.test, halves.test_labels)))
    loader = core.loader(train)
    classes = int(halves.train_labels.max()) + 1
    model = perceptron(halves.train.shape[1], settings.width, classes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, **core.fused)
    model, optimiser = core.prepare(model, optimiser)
    core.track(model=model, optimiser=optimiser)
    for _, batches in core.epochs(loader, settings.epochs):
        for rows, labels in batches:
            with core.accumulate(model):
                core.backward(nn.functional.cross_entropy(model(rows), labels))
            core.step(model, optimiser)
    with torch.no_grad():
        right = [
            core.gather(model(rows).argmax(1) == labels)
            for rows, labels in core.evaluation_loader(test, batch_size=300)
        ]
    core.finish(model)
    accuracy = torch.cat(right).float().mean().item()
    linear = [
        pd.read_csv(folder / "answers.csv")["right"].mean() for folder in run.needed("linear")
    ]
    return {"accuracy": accuracy, "gain_over_linear": accuracy - sum(linear) / len(linear)}


PROGRAM = Program(TrainNetwork, train_network)
