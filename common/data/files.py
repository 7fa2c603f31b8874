"""Read files so that a bad one is an InputError that names it; arrays that nobody can change."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from common.errors import InputError

Array = TypeVar("Array", bound=npt.NDArray[Any])


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context in which ``path`` is opened and parsed; any failure becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except KeyError as error:
        raise InputError(f"{path}: has no entry {error}") from None
    except (
        EOFError,
        OSError,
        SyntaxError,  # what Pillow raises for a broken PNG
        ValueError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def read_bytes(path: Path) -> bytes:
    """Contents of ``path``, unpacked where its name ends in ``.gz``."""
    with reading(path):
        contents = path.read_bytes()
        return gzip.decompress(contents) if path.suffix == ".gz" else contents


def read_text(path: Path) -> str:
    """Contents of a UTF-8 file, unpacked where its name ends in ``.gz``; line ends as they are."""
    with reading(path):
        return read_bytes(path).decode("utf8")


def read_lines(path: Path) -> tuple[str, ...]:
    r"""Lines of a UTF-8 file without their ``\n``, the only line end: texts may hold U+2028."""
    lines = read_text(path).split("\n")
    return tuple(lines if lines[-1] else lines[:-1])


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    with reading(path):
        return json.loads(read_text(path))


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file whose header must hold ``columns``; a row with another length is refused.

    Returns: one mapping from column to cell for each row, in file order.
    """
    with reading(path):
        header, *rows = csv.reader(io.StringIO(read_text(path), newline=""))
    absent = [column for column in columns if column not in header]
    if absent:
        raise InputError(f"{path}: columns {absent} are missing; found {header}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InputError(f"{path}: row {number} has {len(row)} cells; expected {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_arrays(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """The named arrays of an ``.npz`` file, read-only; an array of Python objects is refused."""
    with reading(path):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path}: holds one bare array; expected an .npz of {list(names)[:3]}")
        with archive:
            return [frozen(archive[name]) for name in names]


def check_labels(labels: npt.NDArray[Any], classes: int, path: Path, lowest: int = 0) -> None:
    """Raise InputError unless every label is in ``lowest .. classes - 1``."""
    outside = labels[(labels < lowest) | (labels >= classes)]
    if outside.size:
        raise InputError(f"{path}: label {outside.flat[0]}; allowed {lowest} to {classes - 1}")


def frozen(array: Array) -> Array:
    """``array``, read-only from now on: what a loader gives is shared, never written to."""
    array.setflags(write=False)
    return array


def labels_array(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Read-only int64 copy of ``labels``. Raises ValueError unless they are whole numbers."""
    given = np.asarray(labels)
    if given.size and given.dtype.kind not in "iu":
        raise ValueError(f"labels are {given.dtype}; expected whole numbers")
    return frozen(given.astype(np.int64))
