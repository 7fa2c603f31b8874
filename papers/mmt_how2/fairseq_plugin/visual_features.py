"""Picture vectors of sentences: one row of a ``.npy`` file for each line of the text."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError


def open_features(path: Path) -> NDArray[Any]:
    """The array in ``path``, memory-mapped: (n, D), or (n, t, D) for t vectors a sentence.

    Raises:
        InputError: no such file, or not an array of floating-point numbers of that form.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; one row of numbers for each sentence") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a .npy array of numbers ({error})") from None
    check_form(path, array)
    return array  # type: ignore[no-any-return]


def check_form(path: Path, array: Any) -> None:
    """Raise InputError unless this is an array of floating-point numbers, (n, D) or (n, t, D)."""
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path}: holds {getattr(array, 'dtype', 'archives')}; allowed: floats")
    if array.ndim not in (2, 3) or 0 in array.shape[1:]:
        raise InputError(f"{path}: shape {array.shape}; allowed: (n, D) or (n, t, D)")


def folder_width(folder: Path, train_subset: str = "train") -> int:
    """D of the feature files in ``folder``: of the training set's, or else of the first by name.

    Raises:
        InputError: no such folder, or no feature file in it.
    """
    if not folder.is_dir():
        raise InputError(f"--visual-dir {folder}: no such folder; allowed: one with <split>.npy")
    files = sorted(folder.glob("*.npy"), key=lambda file: (file.stem != train_subset, file.name))
    if not files:
        raise InputError(f"--visual-dir {folder}: holds no <split>.npy")
    return int(open_features(files[0]).shape[-1])


def incongruent_order(rows: int, seed: int) -> NDArray[np.int64]:
    """For each sentence the row of another one: a random cycle through all rows, shape (rows,)."""
    cycle = np.random.default_rng(seed).permutation(rows)
    order = np.empty(rows, dtype=np.int64)
    order[cycle] = np.roll(cycle, 1)
    return order


def check_finite(path: Path, array: NDArray[Any], rows: int = 4096) -> None:
    """Raise InputError, naming the row, unless all numbers are finite in float32; in blocks."""
    for first in range(0, len(array), rows):
        with np.errstate(over="ignore"):
            block = np.asarray(array[first : first + rows], dtype=np.float32)
        finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite)) + 1
            raise InputError(f"{path}: row {row} holds NaN or infinity")


class VisualFeatures:
    """Rows of one feature file, by sentence number.

    Args:
        path: the ``.npy`` file.
        sentences: how many lines the text has; the file needs as many rows.
        width: D that the model reads.
        shuffle: seed of a permutation that gives every sentence another one's picture.
        array: the rows, where they are in no file and ``path`` is but their name.

    Raises:
        InputError: the file is absent or unusable, its rows or width are not these, or a number is
            NaN or infinite.
    """

    def __init__(
        self,
        path: Path,
        sentences: int,
        width: int,
        shuffle: int | None = None,
        array: NDArray[Any] | None = None,
    ) -> None:
        self.path = path
        if array is None:
            array = open_features(path)
        check_form(path, array)
        self.array = array
        rows = len(self.array)
        if rows != sentences:
            line = f"line {min(rows, sentences) + 1} of the " + (
                "text has no row" if rows < sentences else f"file's {rows} rows has no sentence"
            )
            raise InputError(f"{path}: {rows} rows for {sentences} sentences ({line})")
        if self.array.shape[-1] != width:
            raise InputError(
                f"{path}: rows of {self.array.shape[-1]} numbers; the model reads {width}"
            )
        check_finite(path, self.array)
        self.shuffle = shuffle
        self.order = None if shuffle is None else incongruent_order(rows, shuffle)

    def fingerprint(self) -> str:
        """SHA-256 of the file, and the seed of the permutation."""
        with self.path.open("rb") as stream:
            return f"{hashlib.file_digest(stream, 'sha256').hexdigest()}, shuffle {self.shuffle}"

    def rows(self, sentences: NDArray[np.int64]) -> Tensor:
        """Float32 features of these sentences, (B, D) or (B, t, D)."""
        which = sentences if self.order is None else self.order[sentences]
        return torch.from_numpy(np.asarray(self.array[which], dtype=np.float32))
