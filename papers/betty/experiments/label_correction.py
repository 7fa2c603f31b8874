"""Correcting and reweighting corrupted labels: Table 3.

A classifier is trained on labels that are often wrong. One upper problem weights its samples,
another corrects their labels; both ask for a low loss of the classifier on a small clean set.
Source: Choe et al. 2023, Sec. 4.2.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.batches import Batches, Split
from common.tasks.networks import Correction, MetaWeightNet, mlp
from common.tasks.scores import accuracy
from common.tasks.weak_supervision import WeakData, WeakSettings, load_weak
from common.training import Core, CoreSettings
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem, Problem
from papers.betty.configs import Strategy
from papers.betty.tasks.training import choose_strategy, run_engine

CorrectionMethod = Literal["baseline", "clean_only", "rwt", "rwt_crt"]


class LabelCorrectionSettings(WeakSettings):
    """Labels, networks and optimisers. Those of the paper are not stated."""

    core: CoreSettings = CoreSettings(global_batch_size=64)
    method: CorrectionMethod
    unroll_steps: int = Field(5, gt=0, description="classifier steps for each upper step")
    iterations: int = Field(gt=0, description="steps of the classifier")
    validate_every: int = Field(gt=0)
    batch_size: int = Field(64, gt=0)
    meta_batch_size: int = Field(100, gt=0)
    hidden: int = Field(128, gt=0, description="width of the classifier and of the correction")
    lr: float = Field(2e-3, gt=0)
    meta_lr: float = Field(3e-3, gt=0, description="of the weights")
    correct_lr: float = Field(2e-3, gt=0, description="of the correction")
    meta_hidden: int = Field(100, gt=0)
    alpha: float = Field(0.01, gt=0, description="perturbation of finite differences")
    normalise: bool = Field(True, description="divide the weights by their mean over the batch")


class CorrectedClassifier(ImplicitProblem):
    """Cross-entropy with the given labels, corrected by ``correct`` and weighted by ``reweight``.

    Each of the two only where the program has that problem.
    """

    corrects = False
    reweights = False
    normalise = True

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Weighted mean loss."""
        losses = self.losses(*batch)
        if not self.reweights:
            return losses.mean()
        return (self.weights(self.held("losses", losses)) * losses).mean()

    def losses(self, x: Tensor, given: Tensor) -> Tensor:
        """(n,) loss of each sample."""
        targets = self.correct(x, given) if self.corrects else given  # type: ignore[attr-defined]
        return functional.cross_entropy(self.module(x), targets, reduction="none")

    def weights(self, losses: Tensor) -> Tensor:
        """(n,) weight of each sample, of mean 1 if normalised."""
        weights: Tensor = self.reweight(losses)  # type: ignore[attr-defined]
        return weights / weights.mean() if self.normalise else weights


class ReweightLabels(ImplicitProblem):
    """Upper problem: loss of the classifier on the clean meta set, by the weights."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss."""
        x, y = batch
        return functional.cross_entropy(self.classifier(x), y)  # type: ignore[attr-defined]


class Correct(ImplicitProblem):
    """Upper problem: that loss by the correction, and what the correction predicts itself."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Sum of both mean losses."""
        x, y = batch
        own = functional.cross_entropy(self.module.predict(x), y)
        return functional.cross_entropy(self.classifier(x), y) + own  # type: ignore[attr-defined]


def run_label_correction(settings: LabelCorrectionSettings, run: Run) -> dict[str, float]:
    """Train, and return test accuracy (%), accuracy of labels (%), mean weights and time (s)."""
    core = Core(settings.core, run)
    data = load_weak(settings, run, core.device)
    engine = program(settings, data, run.seed, choose_strategy(core))
    classifier = engine.problem("classifier")
    assert isinstance(classifier, CorrectedClassifier)
    test = Split(*(part.to(core.device) for part in data.test))

    def evaluate() -> dict[str, float]:
        return {"accuracy_pct": accuracy(classifier(test.x), test.y)}

    history = run_engine(engine, core, evaluate, settings.validate_every)
    run.write_rows("history.csv", history.rows)
    core.finish()
    reached = [row["accuracy_pct"] for row in history.rows]
    right = data.train.y == data.truth
    metrics = {
        "accuracy_pct": reached[-1],
        "best_accuracy_pct": max(reached),
        "label_accuracy_pct": 100 * float(right.float().mean()),
        "train_s": history.seconds,
    }
    if data.vote_pct is not None:
        metrics["vote_accuracy_pct"] = data.vote_pct
    engine.eval()
    return metrics | treatment(classifier, data)


@torch.no_grad()
def treatment(classifier: CorrectedClassifier, data: WeakData) -> dict[str, float]:
    """What a trained program makes of the training set: corrected labels, and mean weights.

    Weights have mean 1 over the training set where they are normalised.
    """
    metrics = {}
    x, given, truth = (part.to(classifier.device) for part in (*data.train, data.truth))
    right = given == truth
    if classifier.corrects:
        corrected = classifier.correct(x, given)  # type: ignore[attr-defined]
        metrics["corrected_label_accuracy_pct"] = accuracy(corrected, truth)
    if classifier.reweights:
        weights = classifier.weights(classifier.losses(x, given))
        metrics["weight_clean"] = float(weights[right].mean())
        metrics["weight_noisy"] = float(weights[~right].mean())
    return metrics


def program(
    settings: LabelCorrectionSettings, data: WeakData, seed: int, strategy: Strategy = "cpu"
) -> Engine:
    """The classifier with the upper problems that the method has."""
    features, method = data.train.x.shape[1], settings.method
    source = data.meta if method == "clean_only" else data.train
    network = mlp(features, settings.hidden, data.classes)
    classifier = CorrectedClassifier(
        "classifier",
        Config(type="darts", unroll_steps=settings.unroll_steps, darts_alpha=settings.alpha),
        network,
        torch.optim.Adam(network.parameters(), lr=settings.lr),
        train_data_loader=Batches(*source, size=settings.batch_size, seed=seed),
    )
    classifier.reweights = method in ("rwt", "rwt_crt")
    classifier.corrects = method == "rwt_crt"
    classifier.normalise = settings.normalise

    def upper(kind: type[Problem], name: str, module: nn.Module, lr: float, place: int) -> Problem:
        optimizer = torch.optim.Adam(module.parameters(), lr=lr)
        batches = Batches(*data.meta, size=settings.meta_batch_size, seed=seed + place)
        return kind(name, Config(), module, optimizer, train_data_loader=batches)

    uppers = []
    if classifier.reweights:
        weights = MetaWeightNet(settings.meta_hidden)
        uppers.append(upper(ReweightLabels, "reweight", weights, settings.meta_lr, 1))
    if classifier.corrects:
        correction = Correction(features, settings.hidden, data.classes)
        uppers.append(upper(Correct, "correct", correction, settings.correct_lr, 2))
    config = EngineConfig(train_iters=settings.iterations, strategy=strategy)
    dependencies: Any = {
        "u2l": {one: [classifier] for one in uppers},
        "l2u": {classifier: uppers},
    }
    return Engine([*uppers, classifier], config, dependencies)


PROGRAM = Program(LabelCorrectionSettings, run_label_correction)
