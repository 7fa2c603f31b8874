"""CIFAR-10 from the official Python batches or from lossless PNG sheets with the same images."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

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
#: Images in one batch or sheet, and pixels along a side of an image and images along a sheet's.
BATCH: Final = 10_000
SIDE: Final = 32
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
        batches = [read_batch(official / name) for name in names]
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


def read_batch(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (10000, 32, 32, 3) and labels (10000,) of an official batch.

    Raises: InputError if it holds anything but plain values and arrays, or wrong shapes.
    """
    with reading(path), path.open("rb") as stream:
        try:
            batch = _ArraysOnly(stream, encoding="bytes").load()
        except (AttributeError, IndexError, TypeError) as error:  # what a broken pickle ends in
            raise InputError(f"{path}: not a pickle ({error})") from None
        if not isinstance(batch, dict):
            raise InputError(f"{path}: holds a {type(batch).__name__}; expected a dict")
        rows, labels = np.asarray(batch[b"data"]), labels_array(batch[b"labels"])
    expected = (BATCH, 3 * SIDE * SIDE)
    if rows.shape != expected or rows.dtype != np.uint8 or labels.shape != (BATCH,):
        raise InputError(
            f"{path}: data {rows.shape} {rows.dtype} with labels {labels.shape}; "
            f"expected {expected} uint8 with ({BATCH},)"
        )
    check_labels(labels, len(CLASS_NAMES), path)
    pixels = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), labels


#: How NumPy's own pickles begin an array: a function that has no public name.
_RECONSTRUCT: Final = np.empty(0).__reduce__()[0]


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that can rebuild NumPy arrays and call nothing else: a pickle may run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        # numpy.core became numpy._core in NumPy 2; the official files name the former.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _RECONSTRUCT
        raise pickle.UnpicklingError(f"{module}.{name} is refused; only NumPy arrays are read")
