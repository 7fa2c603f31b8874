"""A table of the paper: our number, the published one and their difference, in four formats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from common.errors import InputError
from common.experiments.schema import Arm, Case
from common.experiments.settings import Settings
from common.results.lineage import Runs, list_runs
from common.results.records import Confidence, Results
from common.results.targets import Target, built, context_notes, read_as

MISSING: Final = "—"
#: How a published number is marked by its confidence.
MARKS: Final[dict[str, str]] = {
    "verified": "",
    "artifact": "authors' artifact",
    "upstream-readme": "upstream README",
    "recalled": "unverified",
}


class Cell(Settings):
    """One entry of a table: mean and standard deviation over ``n`` seeds, and the paper's number.

    ``mean`` is None where nothing was run; ``std`` needs two seeds. ``published_text`` is the
    entry as printed in the paper, ``published`` its value where it is a number. ``runs`` are the
    records that ``mean`` is of; without, they are among those of the table. Where nothing was run,
    they name case and arm, without seeds.
    """

    row: str
    column: str
    metric: str
    unit: str = ""
    mean: float | None = None
    std: float | None = None
    n: int = Field(0, ge=0)
    published: float | None = None
    published_std: float | None = None
    published_text: str = ""
    confidence: Confidence | None = None
    runs: list[Runs] = Field([])
    smaller: str = Field("", description="what is less than in the paper in the case that it is of")

    @property
    def difference(self) -> float | None:
        """Ours minus published; None where one is missing, or ours is of a smaller case."""
        if self.mean is None or self.published is None or self.smaller:
            return None
        return self.mean - self.published

    @property
    def ours_text(self) -> str:
        """``mean ± std (n)``, or an em dash."""
        if self.mean is None:
            return MISSING
        # Two digits of our own number, however large the published one is.
        decimals = max(self._decimals, _significant(self.mean, 2))
        spread = "" if self.std is None else f" ± {self._number(self.std, decimals)}"
        return f"{self._number(self.mean, decimals)}{spread} ({self.n})"

    @property
    def published_shown(self) -> str:
        """The published number as printed; four digits of one that was computed from files."""
        if self.confidence != "artifact" or self.published is None:
            return self.published_text
        return f"{self.published:.{_significant(self.published, 4)}f}"

    @property
    def published_with_std(self) -> str:
        """The published number with its deviation, or an em dash."""
        if not self.published_text:
            return MISSING
        if self.published_std is None:
            return self.published_shown
        if self.published_shown == self.published_text:
            return f"{self.published_text} ± {self.published_std:g}"
        return f"{self.published_shown} ± {self.published_std:.{_decimals(self.published_shown)}f}"

    @property
    def mark(self) -> str:
        """Where the published number comes from, if not read in the paper itself."""
        return MARKS[self.confidence] if self.confidence else ""

    @property
    def difference_text(self) -> str:
        """Signed difference and, where it makes sense, in percent of the published number."""
        if self.difference is None or self.published is None:
            return MISSING
        text = _signed(self.difference, self._number(abs(self.difference), self._decimals))
        if self.published:
            share = 100 * self.difference / abs(self.published)
            text += f" ({_signed(share, f'{abs(share):.0f}')} %)"
        return text

    @property
    def _largest(self) -> float:
        return max(abs(self.mean or 0), abs(self.published or 0))

    @property
    def _decimals(self) -> int:
        return max(_decimals(self.published_shown), _significant(self._largest))

    def _number(self, value: float, decimals: int) -> str:
        if value and not 1e-3 <= max(self._largest, abs(value)) < 1e7:
            return f"{value:.2e}"
        return f"{value:.{decimals}f}"


def _signed(value: float, shown: str) -> str:
    """``shown`` with the sign of ``value``; without one where it is rounded to zero."""
    if not shown.strip("0.e+-"):
        return shown
    return ("+" if value >= 0 else "−") + shown


def _decimals(text: str) -> int:
    """Digits after the point of a number as printed; 0 for other text."""
    whole, point, digits = text.partition(".")
    return len(digits) if point and whole.lstrip("+-").isdigit() and digits.isdigit() else 0


def _significant(value: float, digits: int = 3) -> int:
    """Decimals that show ``digits`` significant digits of ``value``."""
    if not value:
        return 0
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


class Table(Target):
    """A table laid out as in the paper: rows x columns of cells.

    Rows stand in the order of their first cell; so do columns, unless ``columns`` orders them. A
    column may hold several metrics, which then stand side by side.
    """

    cells: list[Cell] = Field(min_length=1)
    row_header: str = ""
    columns: list[str] = Field([])

    @model_validator(mode="after")
    def _check(self) -> Table:
        keys = [(cell.row, cell.column, cell.metric) for cell in self.cells]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"cells: {twice[0]} is given twice")
        unknown = sorted({cell.column for cell in self.cells} - set(self.columns))
        if self.columns and unknown:
            raise ValueError(f"columns: {unknown} of cells are not among {self.columns}")
        return self

    @property
    def rows(self) -> list[str]:
        """Row names, in order."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def layout(self) -> list[tuple[str, str]]:
        """(column, metric) pairs, in order."""
        pairs = list(dict.fromkeys((cell.column, cell.metric) for cell in self.cells))
        names = self.columns or list(dict.fromkeys(column for column, _ in pairs))
        return sorted(pairs, key=lambda pair: names.index(pair[0]))

    def heading(self, column: str, metric: str) -> str:
        """Heading of a column: its name, the metric where it holds several, and the unit."""
        several = len({other for name, other in self.layout if name == column}) > 1
        units = {cell.unit for cell in self._placed(column, metric)}
        text = f"{column}: {metric}" if column and several else column or metric
        unit = units.pop() if len(units) == 1 else ""
        return f"{text} ({unit})" if unit and f"({unit})" not in text else text

    def cell(self, row: str, column: str, metric: str) -> Cell:
        """The cell at a place; an empty one where the table has none."""
        for cell in self.cells:
            if (cell.row, cell.column, cell.metric) == (row, column, metric):
                return cell
        return Cell(row=row, column=column, metric=metric)

    def runs_behind(self, cell: Cell) -> list[Runs]:
        """Records that our number in a cell was made from; none where there is none."""
        return [] if cell.mean is None else cell.runs or self.runs

    @property
    def has_published(self) -> bool:
        """Whether any cell has a published number."""
        return any(cell.published_text for cell in self.cells)

    def compares(self, column: str, metric: str) -> bool:
        """Whether a column has a published number."""
        return any(cell.published_text for cell in self._placed(column, metric))

    def describes(self, column: str, metric: str) -> bool:
        """Whether a column holds the paper's words alone: nothing that could be reproduced."""
        placed = self._placed(column, metric)
        numbers = any(cell.mean is not None or cell.published is not None for cell in placed)
        return self.compares(column, metric) and not numbers

    def mark(self, column: str, metric: str) -> str:
        """The mark that all published numbers of a column share; empty where they differ."""
        marks = {cell.mark for cell in self._placed(column, metric) if cell.published_text}
        return marks.pop() if len(marks) == 1 else ""

    def _placed(self, column: str, metric: str) -> list[Cell]:
        return [cell for cell in self.cells if (cell.column, cell.metric) == (column, metric)]

    def all_notes(self) -> list[str]:
        """What must be said below the table, the made-from line first."""
        if self.context is None:
            return self.notes
        smaller = dict.fromkeys(cell.smaller for cell in self.cells if cell.smaller)
        told = [
            f"A smaller case than the paper's, so no difference is taken: {text}."
            for text in smaller
        ]
        return [*context_notes(self.context, self.has_published), *told, *self.notes]


def cell(
    results: Results,
    row: str,
    column: str,
    *,
    experiment: str,
    arm: str,
    metric: str,
    case: str | None = None,
    label: str | None = None,
    unit: str = "",
    factor: float = 1.0,
    published: tuple[str, str, str, str] | None = None,
) -> Cell:
    """A cell from records: mean and sample deviation of ``metric`` over seeds, times ``factor``.

    Args:
        row, column: place in the table.
        experiment, arm, metric, case: which numbers; the case may be left out if there is one.
        label: the metric's name in the table (default: ``metric``).
        unit: unit after multiplication by ``factor``.
        factor: e.g. 1 / 3600 for a metric in seconds shown in hours.
        published: key in published.csv: (table_or_figure, row, column, metric).
    """
    case = results.paper.experiments[experiment].case(case, experiment)
    return make_cell(
        results,
        row,
        column,
        results.values(experiment, arm, metric, case) * factor,
        label=metric if label is None else label,
        unit=unit,
        published=published,
        runs=list_runs(results.records(experiment, arm, case))
        or [Runs(experiment=experiment, case=case, arm=arm, seeds=[])],
    )


def make_cell(
    results: Results,
    row: str,
    column: str,
    values: npt.NDArray[np.float64],
    *,
    label: str,
    unit: str = "",
    published: tuple[str, str, str, str] | None = None,
    runs: Sequence[Runs] = (),
) -> Cell:
    """As :func:`cell`, from one value a seed: what is computed of several metrics."""
    theirs = results.published_value(*published) if published else None
    return Cell(
        row=row,
        column=column,
        metric=label,
        unit=unit,
        mean=float(values.mean()) if len(values) else None,
        std=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        n=len(values),
        published=theirs.value if theirs else None,
        published_std=theirs.std if theirs else None,
        published_text=theirs.text if theirs else "",
        confidence=theirs.confidence if theirs else None,
        runs=list(runs),
    )


class Measure(NamedTuple):
    """A metric of runs as tables show it.

    ``label`` is its name (default: ``metric``); ``published`` its metric in published.csv, and
    ``column`` its column there, where that is not the case's.
    """

    metric: str
    label: str | None = None
    unit: str = ""
    factor: float = 1.0
    published: str = ""
    column: str = ""

    @property
    def title(self) -> str:
        """The heading of a column of its own."""
        return self.metric if self.label is None else self.label


def grid(
    results: Results,
    experiment: str,
    measures: Sequence[Measure],
    *,
    columns: Literal["cases", "measures"],
    table: str = "",
    cases: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
) -> list[Cell]:
    """Cells of an experiment: a row for each arm, a column for each case or each measure.

    Titles and their names in published.csv are those of ``experiments.yaml``. Only what runs at the
    scale of ``results`` is there. Where columns are measures, a row is named by its case too if
    there are several.

    Args:
        columns: what the columns are. Several measures of one case stand side by side.
        table: table_or_figure in published.csv; without, nothing is looked up there.
        cases, arms: which ones, in order (default: all).

    Raises:
        InputError: the experiment has no such case or arm.
    """
    study = results.paper.experiments[experiment]
    for kind, given, known in (("case", cases, study.cases), ("arm", arms, study.arms)):
        unknown = sorted(set(given or ()) - set(known))
        if unknown:
            raise InputError(f"{experiment}: no {kind} {unknown[0]!r}; it has {', '.join(known)}")
    running = study.runs(results.scale)
    present = [case for case in cases or study.cases if case in dict(running)]
    several = len(present) > 1

    def place(case: Case, arm: Arm, measure: Measure) -> tuple[str, str]:
        if columns == "cases":
            return arm.title, case.title_at(results.scale)
        row = f"{case.title_at(results.scale)}: {arm.title}" if several else arm.title
        return row, measure.title

    def published(case: Case, arm: Arm, measure: Measure) -> tuple[str, str, str, str] | None:
        if not (table and measure.published):
            return None
        column = measure.column or case.published or case.title_at(results.scale)
        return table, arm.published or arm.title, column, measure.published

    return [
        cell(
            results,
            *place(study.cases[case], study.arms[arm], measure),
            experiment=experiment,
            case=case,
            arm=arm,
            metric=measure.metric,
            label=measure.title if columns == "cases" else "",
            unit=measure.unit,
            factor=measure.factor,
            published=published(study.cases[case], study.arms[arm], measure),
        )
        for case in present
        for arm in arms or study.arms
        if (case, arm) in running
        for measure in measures
    ]


def build(function: Callable[[Results], Table], results: Results, target: str) -> Table:
    """The finished table that a paper's function makes of ``results``.

    Raises:
        InputError: it is not a table, as where two rows have one name.
    """
    try:
        made = built(function, results, target)
    except ValidationError as error:
        reason = "; ".join(detail["msg"] for detail in error.errors())
        raise InputError(f"targets/tables.py: {target}: {reason}") from None
    if results.scale != "paper":
        return made  # all is smaller there, and the page and every file say so
    cells = [
        cell.model_copy(update={"smaller": _smaller(made.runs_behind(cell) or cell.runs, results)})
        for cell in made.cells
    ]
    return made.model_copy(update={"cells": cells})


def _smaller(runs: Iterable[Runs], results: Results) -> str:
    """By what the cases of ``runs`` are smaller than the paper's; empty if by nothing."""
    studies = results.paper.experiments
    texts = dict.fromkeys(studies[run.experiment].cases[run.case].smaller for run in runs)
    return "; ".join(filter(None, texts))


def read(path: Path) -> Table:
    """The table in a JSON file. Raises InputError if it is not one."""
    return read_as(Table, path, "a table")
