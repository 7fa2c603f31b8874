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


def metric_of(system: str, measure: str) -> str:
    """The metric of a system; of the run itself where ``system`` is empty."""
    return f"{system}_{measure}" if system else measure


def values_of(
    results: Results, place: Place, measure: str, system: str = ""
) -> npt.NDArray[np.float64]:
    """A system's values over seeds, shape (seeds,)."""
    return results.values(place.experiment, place.arm, metric_of(system, measure), place.case)


def row_of(
    results: Results,
    place: Place,
    title: str,
    measures: Iterable[Measure],
    *,
    system: str = "",
    table: str = "",
    published: str = "",
) -> list[Cell]:
    """A row: a cell for each measure that the records have; without records, empty ones.

    Args:
        title: of the row.
        system: whose measures; the run's own where it is empty.
        table, published: table_or_figure and row in published.csv, where the paper has it.
    """
    case = results.paper.experiments[place.experiment].cases[place.case]
    known = results.first_metrics(*place) if results.records(*place) else None
    return [
        cell(
            results,
            title,
            measure.title,
            **place._asdict(),
            metric=metric_of(system, measure.metric),
            label="",
            unit=measure.unit,
            published=(table, published, measure.column or case.published, measure.published),
        )
        for measure in measures
        if known is None or metric_of(system, measure.metric) in known
    ]
