"""The example's program ``classify``: logistic regression on scikit-learn's digits."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run


class Classify(Settings):
    """How the classifier is fitted."""

    images: int = Field(gt=0, le=1797)
    max_iter: int = Field(gt=0)
    c: float = Field(gt=0)


def classify(settings: Classify, run: Run) -> Mapping[str, float]:
    """Fit on half of a random subset of the digits, score on the other half."""
    pixels, digit = load_digits(return_X_y=True)
    run.uses(DataIdentity(name="digits", real=True, source="bundled"))
    chosen = run.rng.permutation(len(pixels))[: settings.images]
    train, test = chosen[::2], chosen[1::2]
    model = LogisticRegression(C=settings.c, max_iter=settings.max_iter)
    model.fit(pixels[train] / 16, digit[train])
    guesses = model.predict(pixels[test] / 16)
    run.write_rows(
        "guesses.csv",
        [{"digit": int(a), "guess": int(b)} for a, b in zip(digit[test], guesses, strict=True)],
    )
    time.sleep(float(os.environ.get("EXAMPLE_PAUSE_S", "0")))  # lets a test kill it half-way
    return {"accuracy": float((guesses == digit[test]).mean())}


PROGRAM = Program(Classify, classify)
