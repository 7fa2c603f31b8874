"""The program ``classify``: logistic regression on half of some images, tested on the others."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from papers.example_paper.tasks.images import Name, load_halves
from pydantic import Field
from sklearn.linear_model import LogisticRegression

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run


class Classify(Settings):
    """How the classifier is fitted."""

    data: Name
    images: int = Field(gt=0, le=1797)
    max_iter: int = Field(gt=0)
    c: float = Field(gt=0)


def classify(settings: Classify, run: Run) -> Mapping[str, float]:
    """Fit on one half, score on the other."""
    halves = load_halves(settings.data, settings.images, run)
    model = LogisticRegression(C=settings.c, max_iter=settings.max_iter)
    model.fit(halves.train, halves.train_labels)
    right = model.predict(halves.test) == halves.test_labels
    run.write_rows("answers.csv", [{"right": int(answer)} for answer in right])
    time.sleep(float(os.environ.get("EXAMPLE_PAUSE_S", "0")))  # lets a test kill it half-way
    return {"accuracy": float(right.mean())}


PROGRAM = Program(Classify, classify)
