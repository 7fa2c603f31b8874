"""The head-to-head, robustness, cost, gain and search, from records."""

from __future__ import annotations

from typing import Final

from common.results.records import Results
from common.results.tables import Measure, Table, grid

ACCURACY: Final = Measure("accuracy_pct", "Accuracy", "%")
SPECTRUM: Final = Measure("mean_singular_value", "Mean singular value")
RECONSTRUCTED: Final = (
    "The method is reconstructed; the paper's text, and so any number of it, is not available."
)


def table_networks(results: Results) -> Table:
    """Test accuracy and the Jacobian's mean singular value by method and network."""
    cells = grid(results, "networks", [ACCURACY, SPECTRUM], columns="cases")
    notes = [RECONSTRUCTED, "All penalties and constraints of a column have the same gain."]
    return Table(row_header="Method", cells=cells, notes=notes)


def table_robustness(results: Results) -> Table:
    """Accuracy of the shallow network under noise and attacks."""
    kinds = {"noise": "noise, deviation", "fgsm": "FGSM, length", "pgd": "PGD, length"}
    hard = [
        Measure(f"{kind}_{size}_accuracy_pct", f"{title} {size}", "%")
        for kind, title in kinds.items()
        for size in ("0.5", "1")
    ]
    cells = grid(results, "networks", [ACCURACY, *hard], columns="measures", cases=["tanh_5"])
    return Table(row_header="Method", cells=cells, notes=[RECONSTRUCTED])


def table_cost(results: Results) -> Table:
    """Seconds of training beside accuracy, 20 tanh layers."""
    measures = [Measure("train_s", "Time", "s"), ACCURACY, SPECTRUM]
    cells = grid(results, "networks", measures, columns="measures", cases=["tanh_20"])
    return Table(row_header="Method", cells=cells)


def table_gain(results: Results) -> Table:
    """The same two penalties with two gains."""
    cells = grid(results, "gain", [ACCURACY, SPECTRUM], columns="measures")
    return Table(row_header="Penalty", cells=cells)


def table_search(results: Results) -> Table:
    """Step size and weight that validation chose for each method and network."""
    measures = [
        Measure("chosen_lr", "Step size"),
        Measure("chosen_weight", "Weight"),
        Measure("validation_accuracy_pct", "Validation accuracy", "%"),
        Measure("trials", "Trials"),
    ]
    cells = grid(results, "search", measures, columns="cases")
    return Table(row_header="Method", cells=cells)


TABLES = {
    "table_networks": table_networks,
    "table_robustness": table_robustness,
    "table_cost": table_cost,
    "table_gain": table_gain,
    "table_search": table_search,
}
