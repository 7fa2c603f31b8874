"""What the report shows of a table: what was run, and what may be set against the paper's numbers.

Rows and columns without any number of ours are named below it, with what they wait for. Cases that
are smaller than the paper's have the published numbers apart, without a difference, and rows that
share no column stand below one another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from common.results.records import Results
from common.results.tables import Cell, Table

NOT_RUN: Final = "Not run"
WAITS_FOR_GPU: Final = "Not run, waits for a GPU"

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Part:
    """Rows of a table; ``smaller`` says by what their case is smaller than the paper's, or ""."""

    table: Table
    smaller: str = ""


@dataclass(frozen=True)
class TableView:
    """A table in parts; ``not_run`` names its empty rows and columns by reason.

    ``published`` is what the paper gives for these; None where it gives nothing.
    """

    table: Table
    parts: list[Part]
    not_run: dict[str, list[str]]
    published: Table | None


def arrange(table: Table, results: Results) -> TableView:
    """What to show of ``table``, which was made of ``results``."""
    not_run: dict[str, list[str]] = {}
    rows = _by(lambda cell: cell.row, table.cells)
    empty = {row: cells for row, cells in rows.items() if _is_empty(cells)}
    for row, cells in empty.items():
        not_run.setdefault(_reason(table, cells, results), []).append(row)
    shown = [cell for cell in table.cells if cell.row not in empty]
    columns = _by(lambda cell: (cell.column, cell.metric), shown)
    for place, cells in columns.items():
        if _is_empty(cells):
            not_run.setdefault(_reason(table, cells, results), []).append(table.heading(*place))
            shown = [cell for cell in shown if (cell.column, cell.metric) != place]
    published = [cell for cell in table.cells if cell not in shown and cell.published_text]
    return TableView(
        table,
        _parts(_only(table, shown), results) if shown else [],
        not_run,
        _only(table, published) if published else None,
    )


def _parts(table: Table, results: Results) -> list[Part]:
    """Cases of the paper's size, then smaller ones, each without the columns of the others."""
    if results.scale != "paper":
        groups = {f"scale {results.scale}" if table.has_published else "": table.cells}
    else:
        groups = _by(lambda cell: cell.smaller, table.cells)
    return [
        Part(_only(table, block), smaller)
        for smaller in sorted(groups, key=bool)
        for block in _blocks(groups[smaller])
    ]


def _blocks(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells by rows that share no column with those of another block: beside them are dashes."""
    blocks: list[set[tuple[str, ...]]] = []
    for cell in cells:
        if cell.mean is not None or cell.published_text:
            ends = set(_ends(cell))
            touched = [block for block in blocks if block & ends]
            blocks = [block for block in blocks if not block & ends]
            blocks.append(ends.union(*touched))
    found = [[cell for cell in cells if block.issuperset(_ends(cell))] for block in blocks]
    return sorted(found, key=lambda block: cells.index(block[0]))


def _ends(cell: Cell) -> tuple[tuple[str, ...], ...]:
    return ("row", cell.row), ("column", cell.column, cell.metric)


def _by(key: Callable[[Cell], Key], cells: Iterable[Cell]) -> dict[Key, list[Cell]]:
    found: dict[Key, list[Cell]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return found


def _only(table: Table, cells: Iterable[Cell]) -> Table:
    return table.model_copy(update={"cells": list(cells)})


def _is_empty(cells: Sequence[Cell]) -> bool:
    """Whether nothing of ours is there; the paper's words alone, which nothing could fill, stay."""
    if any(cell.mean is not None for cell in cells):
        return False
    words = any(cell.published_text for cell in cells)
    numbers = any(cell.runs or cell.published is not None for cell in cells)
    return numbers or not words


def _reason(table: Table, cells: Iterable[Cell], results: Results) -> str:
    """Why cells are empty: a GPU, if every case that they may be of asks for one."""
    paper, scale = results.paper, results.scale
    named = {(run.experiment, run.case) for cell in cells for run in cell.runs}
    read = {run.experiment for run in table.runs}
    possible = paper.targets[table.target].experiments
    unread = [name for name in possible if name not in read] or possible
    others = {(name, case) for name in unread for case, _ in paper.experiments[name].runs(scale)}
    waits = all(paper.resources(*place, scale).gpu > 0 for place in named or others)
    return WAITS_FOR_GPU if waits else NOT_RUN
