"""Reads the columns of a CSV file and refuses what cannot be meant."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from common.errors import InputError


class Kind(NamedTuple):
    """What a cell of a column must be: a parser that raises ValueError, and its description."""

    parse: Callable[[str], Any]
    allowed: str


def _between(
    parse: Callable[[str], Any],
    lowest: float,
    highest: float = sys.float_info.max,
    strict: bool = False,
) -> Callable[[str], Any]:
    """``parse``, then a ValueError for what lies outside, infinity and NaN among it."""

    def checked(text: str) -> Any:
        value = parse(text)
        if not lowest <= value <= highest or (strict and value == lowest):
            raise ValueError(text)
        return value

    return checked


TEXT: Final = Kind(str, "text")
POSITIVE: Final = Kind(_between(float, 0.0, strict=True), "a number > 0")
NON_NEGATIVE: Final = Kind(_between(float, 0.0), "a number >= 0")
COUNT: Final = Kind(_between(int, 1), "a whole number >= 1")


def whole_up_to(most: int) -> Kind:
    """A whole number from 0 to ``most``."""
    return Kind(_between(int, 0, most), f"a whole number 0..{most}")


def read_columns(path: Path, kinds: Mapping[str, Kind]) -> dict[str, list[Any]]:
    """The named columns of a CSV file with a header, in file order; other columns are ignored.

    Returns:
        Cells of each column, and under "line" the line of the file where each row ends.

    Raises:
        InputError: no such file, no row, a missing column or a bad cell; names file, line,
            column, value and what is allowed.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(path, csv.reader(file), kinds)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from None


def refuse(path: Path, line: int, column: str, value: object, allowed: str) -> InputError:
    """The error that names a bad cell."""
    return InputError(f"{path}, line {line}: column '{column}': {value!r}; allowed: {allowed}")


def _read(path: Path, rows: Any, kinds: Mapping[str, Kind]) -> dict[str, list[Any]]:
    header: list[str] = next(rows, [])
    missing = [name for name in kinds if name not in header]
    if missing:
        raise InputError(
            f"{path}, line 1: column '{missing[0]}' is missing; needed: {', '.join(kinds)}"
        )
    twice = [name for name in kinds if header.count(name) > 1]
    if twice:
        raise InputError(f"{path}, line 1: column '{twice[0]}' is given twice; allowed: once")
    wanted = [(header.index(name), kind.parse) for name, kind in kinds.items()]
    values: list[list[Any]] = []
    for row in rows:
        if len(row) != len(header):
            if not row:
                continue
            raise InputError(
                f"{path}, line {rows.line_num}: {len(row)} cells; allowed: {len(header)}"
            )
        try:
            values.append([rows.line_num, *(parse(row[index]) for index, parse in wanted)])
        except ValueError:
            raise _bad_cell(path, rows.line_num, row, header, kinds) from None
    if not values:
        raise InputError(f"{path}: no rows; at least one is needed")
    return dict(zip(("line", *kinds), map(list, zip(*values, strict=True)), strict=True))


def _bad_cell(
    path: Path, line: int, row: list[str], header: list[str], kinds: Mapping[str, Kind]
) -> InputError:
    for name, kind in kinds.items():
        text = row[header.index(name)]
        try:
            kind.parse(text)
        except ValueError:
            return refuse(path, line, name, text, kind.allowed)
    raise AssertionError("no bad cell in the row")
