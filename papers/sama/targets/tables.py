"""The paper's tables, from records."""

from __future__ import annotations

from common.results.records import Results
from common.results.tables import Measure, Table, grid
from papers.sama.targets.cost import table2, table_cost
from papers.sama.targets.timeline import table_traffic


def table_identity(results: Results) -> Table:
    """Cosine to the exact meta gradient, and what descent along it reaches."""
    measures = [
        Measure("cosine", "Cosine to the exact meta gradient"),
        Measure("least_cosine", "least along the descent"),
        Measure("start_meta_loss", "Meta loss at the start"),
        Measure("final_meta_loss", "after the last step"),
    ]
    cells = grid(results, "identity_approximation", measures, columns="measures")
    return Table(row_header="Meta gradient", cells=cells)


TABLES = {
    "table2": table2,
    "table_cost": table_cost,
    "table_traffic": table_traffic,
    "table_identity": table_identity,
}
