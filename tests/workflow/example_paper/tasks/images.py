"""The images that the example is tried on."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.data import images
from common.data.registry import identity
from common.runs.record import DataIdentity
from common.runs.run import Run

Name = Literal["digits", "fashion_mnist"]


class Halves(NamedTuple):
    """Images as rows of numbers between 0 and 1, and their labels, for training and for test."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load_halves(name: Name, count: int, run: Run) -> Halves:
    """Both halves of ``count`` images that the run's seed draws."""
    if name == "digits":
        found, white = images.digits(), 16
        run.uses(DataIdentity(name="digits", real=True, source="bundled"))
    else:
        found, white = images.fashion_mnist(), 255
        run.uses(identity("fashion_mnist"))
    chosen = run.rng.permutation(len(found))[:count]
    rows = found.pixels[chosen].reshape(count, -1).astype(np.float32) / white
    labels = found.labels[chosen]
    return Halves(rows[::2], labels[::2], rows[1::2], labels[1::2])
