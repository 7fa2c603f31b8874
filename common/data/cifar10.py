"""CIFAR-10 from the official Python batches or from lossless PNG sheets with the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.data.cifar_pickles import SIDE, read_batch
from common.data.files import check_labels, frozen, labels_array, read_arrays, reading
from common.data.images import Images
from common.data.registry import find
from common.errors import InputError

CLASS_NAMES: Final = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
#: Images in one batch or sheet, and along a side of a sheet.
BATCH: Final = 10_000
GRID: Final = 100
#: Labels of the sheets' images, and which of these are not exact.
INDEX: Final = "labels_and_index.npz"


def cifar10(train: bool = True, root: Path | None = None) -> Images:
    """Colour images, official order: (50000, 32, 32, 3) for training, (10000, 32, 32, 3) for test.

    ``cifar10/cifar-10-batches-py/`` is read where it is there, else the six PNG sheets beside it,
    in which a few images are not exact (:func:`cifar10_exact`).

    Raises: InputError if a file is absent or malformed. Source: Krizhevsky 2009.
    """
    folder = find("cifar10", root)
    official = folder / "cifar-10-batches-py"
    if official.is_dir():
        names = [f"data_batch_{k}" for k in range(1, 6)] if train else ["test_batch"]
        batches = [
            read_batch(official / name, b"labels", BATCH, len(CLASS_NAMES)) for name in names
        ]
        pixels = np.concatenate([part for part, _ in batches])
        labels = np.concatenate([part for _, part in batches])
    else:
        names = [f"train_batch_{k}.png" for k in range(1, 6)] if train else ["test_batch.png"]
        pixels = np.concatenate([read_sheet(folder / name) for name in names])
        labels = _index(folder, "train_labels" if train else "test_labels", len(CLASS_NAMES))
        if len(labels) != len(pixels):
            raise InputError(
                f"{folder / INDEX}: {len(labels)} labels; expected {len(pixels)} for {names}"
            )
    return Images(frozen(pixels), labels_array(labels), CLASS_NAMES)


def cifar10_exact(train: bool = True, root: Path | None = None) -> npt.NDArray[np.int64]:
    """Indices (m,) of the images whose pixels are bit for bit the published ones, ascending.

    All of them in the official batches. The sheets were assembled from copies of the set; 86
    training and 25 test images could only be had as JPEG and differ by a few grey levels.
    """
    folder = find("cifar10", root)
    everything = np.arange(5 * BATCH if train else BATCH)
    if (folder / "cifar-10-batches-py").is_dir():
        return everything
    lossy = _index(folder, "train_lossy_idx" if train else "test_lossy_idx", len(everything))
    return np.setdiff1d(everything, lossy)


def _index(folder: Path, name: str, limit: int) -> npt.NDArray[np.int64]:
    path = folder / INDEX
    with reading(path):
        values = labels_array(read_arrays(path, [name])[0])
    check_labels(values, limit, path)
    return values


def read_sheet(path: Path) -> npt.NDArray[np.uint8]:
    """The (10000, 32, 32, 3) images of a sheet: a grid of 100 by 100, row by row."""
    with reading(path), Image.open(path) as image:
        sheet = np.asarray(image)
    expected = (GRID * SIDE, GRID * SIDE, 3)
    if sheet.shape != expected or sheet.dtype != np.uint8:
        raise InputError(
            f"{path}: pixels {sheet.shape} {sheet.dtype}; expected {expected} uint8 (RGB)"
        )
    grid = sheet.reshape(GRID, SIDE, GRID, SIDE, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)
