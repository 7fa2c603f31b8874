"""Official Python files of CIFAR-10 and CIFAR-100: pickles, of which only arrays are rebuilt."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.data.files import check_labels, labels_array, reading
from common.errors import InputError

#: Pixels along a side of an image.
SIDE: Final = 32


def read_batch(
    path: Path, labels_key: bytes, count: int, classes: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (count, 32, 32, 3) and labels (count,), below ``classes``, of an official file.

    Raises: InputError if it holds anything but plain values and arrays, or wrong shapes.
    """
    found = read_entries(path, b"data", labels_key)
    rows, labels = np.asarray(found[0]), labels_array(found[1])
    expected = (count, 3 * SIDE * SIDE)
    if rows.shape != expected or rows.dtype != np.uint8 or labels.shape != (count,):
        raise InputError(
            f"{path}: data {rows.shape} {rows.dtype} with labels {labels.shape}; "
            f"expected {expected} uint8 with ({count},)"
        )
    check_labels(labels, classes, path)
    pixels = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pixels), labels


def read_entries(path: Path, *keys: bytes) -> list[Any]:
    """Entries of a pickled dictionary of plain values and arrays.

    Raises: InputError if it is none, holds anything else, or lacks a key.
    """
    with reading(path), path.open("rb") as stream:
        try:
            values = _ArraysOnly(stream, encoding="bytes").load()
        except (AttributeError, IndexError, TypeError) as error:  # what a broken pickle ends in
            raise InputError(f"{path}: not a pickle ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}; expected a dict")
    missing = [key.decode() for key in keys if key not in values]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)}")
    return [values[key] for key in keys]


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
