"""The example's table of accuracies."""

from __future__ import annotations

from common.results.records import Results
from common.results.tables import Table, cell


def table1(results: Results) -> Table:
    """Accuracy of both arms."""
    return Table(
        row_header="arm",
        cells=[
            cell(
                results,
                row=arm,
                column="digits",
                experiment="digits",
                arm=arm,
                metric="accuracy",
                published=("table1", arm, "digits", "accuracy"),
            )
            for arm in results.paper.experiments["digits"].arms
        ],
    )
