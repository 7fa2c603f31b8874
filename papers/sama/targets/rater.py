"""The data rater: what choosing texts and training on them read."""

from __future__ import annotations

from common.results.records import Results
from common.results.tables import Measure, Table, grid


def table_rater(results: Results) -> Table:
    """What choosing and training read until the goal; whether it was reached, what was kept."""
    measures = [
        Measure("train_tokens", "Training", "million characters", 1e-6),
        Measure("search_tokens", "Search", "million characters", 1e-6),
        Measure("total_tokens", "Both", "million characters", 1e-6),
        Measure("reached", "Reached the goal", "share of seeds"),
        Measure("clean_among_kept_pct", "Uncorrupted among the kept", "%"),
    ]
    return Table(
        row_header="Texts to train on",
        cells=grid(results, "data_rater", measures, columns="measures"),
        notes=[
            "A meta step counts as three passes over a batch, choosing as one over all texts. A"
            " training that did not reach the goal counts with all that it read."
        ],
    )
