"""CIFAR-100 from the official Python files, with its hundred fine classes."""

from __future__ import annotations

from pathlib import Path

from common.data.cifar_pickles import read_batch, read_entries
from common.data.files import frozen
from common.data.images import Images
from common.data.registry import find

FOLDER = "cifar-100-python"
CLASSES = 100


def cifar100(train: bool = True, root: Path | None = None) -> Images:
    """Colour images, official order: (50000, 32, 32, 3) for training, (10000, 32, 32, 3) for test.

    Raises: InputError if a file is absent or malformed. Source: Krizhevsky 2009.
    """
    folder = find("cifar100", root) / FOLDER
    path = folder / ("train" if train else "test")
    pixels, labels = read_batch(path, b"fine_labels", 50_000 if train else 10_000, CLASSES)
    (names,) = read_entries(folder / "meta", b"fine_label_names")
    return Images(frozen(pixels), labels, tuple(name.decode() for name in names))
