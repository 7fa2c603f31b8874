"""The head-to-head, robustness, cost, gain, ablations, convolutions and search, from records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.results.records import Results
from common.results.tables import Measure, Table, grid

ACCURACY: Final = Measure("accuracy_pct", "Accuracy", "%")
SPECTRUM: Final = Measure("mean_singular_value", "Mean singular value")
#: Of every network, those too large for a whole Jacobian among them.
RMS: Final = Measure("rms_singular_value", "Root mean square of singular values")
TIME: Final = Measure("train_s", "Time", "s")
RECONSTRUCTED: Final = (
    "The method is reconstructed; the paper's text, and so any number of it, is not available."
)


def table_networks(results: Results) -> Table:
    """Test accuracy and the Jacobian's mean singular value by method and network."""
    cells = grid(results, "networks", [ACCURACY, SPECTRUM], columns="cases")
    notes = [
        "Penalties and constraints of a column have the same gain, but for weight decay and the"
        " Frobenius penalty, which have none, and spectral normalisation, whose gain is 1.",
    ]
    return Table(row_header="Method", cells=cells, notes=notes)


def table_robustness(results: Results) -> Table:
    """Accuracy of the shallow networks under noise and attacks."""
    kinds = {
        "noise": ("noise, deviation", ("0.5", "1")),
        "fgsm": ("FGSM, change", ("0.05", "0.1")),
        "fgm": ("FGM, L2 radius", ("0.5", "1")),
        "pgd": ("PGD, L2 radius", ("0.5", "1")),
    }
    hard = [
        Measure(f"{kind}_{size}_accuracy_pct", f"{title} {size}", "%")
        for kind, (title, sizes) in kinds.items()
        for size in sizes
    ]
    shallow = ["tanh_5", "fashion_cpu"]
    measures = [ACCURACY, *hard, Measure("weight", "Weight")]
    cells = grid(results, "networks", measures, columns="measures", cases=shallow)
    notes = [
        "Weights were chosen by clean accuracy. FGSM is one step along the gradient's sign, FGM one"
        " along the gradient, scaled to the radius, PGD ten of these.",
    ]
    return Table(row_header="Method", cells=cells, notes=notes)


def table_convolutions(results: Results) -> Table:
    """Accuracy, clean and not, and the Jacobian's scale of convolutional networks."""
    hard = [
        Measure("noise_1_accuracy_pct", "noise, deviation 1", "%"),
        Measure("pgd_1_accuracy_pct", "PGD of 3 steps, L2 radius 1", "%"),
    ]
    cells = grid(results, "convolutions", [ACCURACY, *hard, RMS], columns="measures")
    return Table(row_header="Network and method", cells=cells)


def table_ablation(results: Results) -> Table:
    """One thing of the regulariser changed at a time."""
    hard = [
        Measure("noise_1_accuracy_pct", "noise, deviation 1", "%"),
        Measure("pgd_1_accuracy_pct", "PGD, L2 radius 1", "%"),
    ]
    cells = grid(results, "ablation", [ACCURACY, RMS, TIME], columns="measures")
    # Robustness is asked of the shallow network alone, whose rows are named as above.
    shallow = results.paper.experiments["ablation"].cases["tanh_5"].title_at(results.scale)
    cells += [
        each.model_copy(update={"row": f"{shallow}: {each.row}"})
        for each in grid(results, "ablation", hard, columns="measures", cases=["tanh_5"])
    ]
    return Table(row_header="Network and change", cells=cells)


def table_cost(results: Results) -> Table:
    """Seconds of training beside accuracy, 20 tanh layers."""
    measures = [TIME, ACCURACY, SPECTRUM]
    cells = grid(results, "networks", measures, columns="measures", cases=["tanh_20"])
    return Table(row_header="Method", cells=cells)


def table_operations(results: Results) -> Table:
    """Operations of a step, and over those of a plain one."""
    measures = [
        Measure("step_gflop", "Operations of a step", "GFLOP"),
        Measure("over_plain", "Over a plain step"),
    ]
    notes = [
        "Multiplications and additions of matrix products, counted, in a network of 1,024 inputs"
        " and five tanh layers of 256, a batch of 16. Activations are not counted.",
    ]
    cells = grid(results, "operations", measures, columns="cases")
    return Table(row_header="Penalty", cells=cells, notes=notes)


def table_gain(results: Results) -> Table:
    """OJR with two gains, and soft orthogonality with those that run at the scale."""
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


def _reconstructed(table: Callable[[Results], Table]) -> Callable[[Results], Table]:
    """The table, and first of its notes what is true of every one."""

    def noted(results: Results) -> Table:
        found = table(results)
        return found.model_copy(update={"notes": [RECONSTRUCTED, *found.notes]})

    return noted


TABLES = {
    name: _reconstructed(table)
    for name, table in {
        "table_networks": table_networks,
        "table_robustness": table_robustness,
        "table_convolutions": table_convolutions,
        "table_ablation": table_ablation,
        "table_cost": table_cost,
        "table_operations": table_operations,
        "table_gain": table_gain,
        "table_search": table_search,
    }.items()
}
