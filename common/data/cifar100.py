"""CIFAR-100 from the official Python files, with its hundred fine classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from common.data.cifar10 import SIDE, _ArraysOnly
from common.data.files import check_labels, frozen, labels_array, reading
from common.data.images import Images
from common.data.registry import find
from common.errors import InputError

FOLDER = "cifar-100-python"
CLASSES = 100


def cifar100(train: bool = True, root: Path | None = None) -> Images:
    """Colour images, official order: (50000, 32, 32, 3) for training, (10000, 32, 32, 3) for test.

    Raises: InputError if a file is absent or malformed. Source: Krizhevsky 2009.
    """
    folder = find("cifar100", root) / FOLDER
    path = folder / ("train" if train else "test")
    found = _read(path, b"data", b"fine_labels")
    rows, labels = np.asarray(found[0]), labels_array(found[1])
    expected = (50_000 if train else 10_000, 3 * SIDE * SIDE)
    if rows.shape != expected or rows.dtype != np.uint8 or labels.shape != expected[:1]:
        raise InputError(
            f"{path}: data {rows.shape} {rows.dtype} with labels {labels.shape}; expected"
            f" {expected} uint8 with {expected[:1]}"
        )
    check_labels(labels, CLASSES, path)
    (names,) = _read(folder / "meta", b"fine_label_names")
    pixels = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Images(
        frozen(np.ascontiguousarray(pixels)), labels, tuple(name.decode() for name in names)
    )


def _read(path: Path, *keys: bytes) -> list[Any]:
    """Entries of a pickled dictionary of plain values and arrays."""
    with reading(path), path.open("rb") as stream:
        try:
            values = _ArraysOnly(stream, encoding="bytes").load()
        except (AttributeError, IndexError, TypeError) as error:  # what a broken pickle ends in
            raise InputError(f"{path}: not a pickle ({error})") from None
    if not isinstance(values, dict) or any(key not in values for key in keys):
        names = ", ".join(key.decode() for key in keys)
        raise InputError(f"{path}: no dictionary with {names}")
    return [values[key] for key in keys]
