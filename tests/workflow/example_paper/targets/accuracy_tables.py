"""The example's table of accuracies."""

from __future__ import annotations

from common.results.records import Results
from common.results.tables import Measure, Table, grid


def table1(results: Results) -> Table:
    """Accuracy by regularisation and data, and the network's."""
    accuracy = [Measure("accuracy", published="accuracy")]
    return Table(
        row_header="Classifier",
        cells=[
            *grid(results, "regularisation", accuracy, columns="cases", table="table1"),
            *grid(results, "hidden_layer", accuracy, columns="cases"),
        ],
    )
