"""Rows of tables. A run trains several systems, so its metrics begin with a system's name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.results.records import Results
from common.results.tables import Cell, Measure, cell


class Place(NamedTuple):
    """Whose records, as :meth:`~common.results.records.Results.records` and its like take it."""

    experiment: str
    arm: str
    case: str


class System(NamedTuple):
    """A system, or a set of features, as tables name it.

    ``name`` is what its metrics begin with, ``published`` its row in published.csv.
    """

    title: str
    name: str
    published: str = ""


def name_metric(system: str, measure: str) -> str:
    """The metric of a system; of the run itself where ``system`` is empty."""
    return f"{system}_{measure}" if system else measure


def read_values(
    results: Results, place: Place, measure: str, system: str = ""
) -> npt.NDArray[np.float64]:
    """A system's values over seeds, shape (seeds,)."""
    return results.values(place.experiment, place.arm, name_metric(system, measure), place.case)


def make_row(
    results: Results, place: Place, row: System, measures: Iterable[Measure], table: str = ""
) -> list[Cell]:
    """A row: a cell for each measure that the records have; without records, empty ones.

    Args:
        row: whose measures they are; the run's own where its name is empty.
        table: table_or_figure in published.csv, where the paper has the row.
    """
    case = results.paper.experiments[place.experiment].cases[place.case]
    known = results.first_metrics(*place) if results.records(*place) else None
    return [
        cell(
            results,
            row.title,
            measure.title,
            **place._asdict(),
            metric=name_metric(row.name, measure.metric),
            label="",
            unit=measure.unit,
            published=(table, row.published, measure.column or case.published, measure.published),
        )
        for measure in measures
        if known is None or name_metric(row.name, measure.metric) in known
    ]
