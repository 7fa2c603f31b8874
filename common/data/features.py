"""Features that somebody else computed: rows of numbers in ``.npy`` files, too large to copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.data.files import reading
from common.errors import InputError


def read_features(path: Path, size: int) -> npt.NDArray[Any]:
    """Rows of ``size`` numbers from an ``.npy`` file, (rows, size), mapped and not read.

    Raises: InputError if the file is absent, malformed, or holds anything else.
    """
    with reading(path):
        rows: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.ndim != 2 or rows.shape[1] != size or rows.dtype.kind != "f":
        raise InputError(
            f"{path}: {rows.dtype} of shape {rows.shape}; expected rows of {size} real numbers"
        )
    return rows
