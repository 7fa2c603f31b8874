"""The paper's tables, from records."""

from __future__ import annotations

from functools import partial

import numpy as np

from common.results.lineage import list_runs
from common.results.records import Results
from common.results.tables import Measure, Table, grid, make_cell


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


def table3(results: Results) -> Table:
    """Test F1 by method, and the weights that were learned."""
    f1 = Measure("f1_pct", "Test F1", "%")
    weight = Measure("mean_weight", "Mean weight")
    notes = [
        "Micro-F1 (accuracy) of digits and TREC-6, macro-F1 of AG News. Of digits that after the"
        " last step; of texts that at the best validation, as in the paper. Mean weight is that of"
        " the auxiliary losses after training: 1 for constant weights.",
    ]
    made = partial(grid, results, "auxiliary_reweighting", columns="cases", table="Table 3")
    micro, macro = (
        f1._replace(published=f"test {kind}-F1 (RoBERTa-base)") for kind in ("micro", "macro")
    )
    learned = ["sama_na", "sama", "sama_held_out"]
    here = ["half", "none", "all", "trec6", "agnews"]
    cells = [
        *made([micro], cases=["chemprot"]),
        *made([macro], cases=["hyperpartisan", "acl_arc", "scierc"]),
        *made([f1], cases=here),
        *made([weight], cases=here, arms=learned),
    ]
    # Not every method runs in every case: rows are in the order of the arms all the same.
    methods = [
        arm.title for arm in results.paper.experiments["auxiliary_reweighting"].arms.values()
    ]
    cells.sort(key=lambda item: methods.index(item.row))
    return Table(row_header="Method", cells=cells, notes=notes)


def table_adaptation(results: Results) -> Table:
    """Angles by optimiser: with and without adaptation, short and long shift."""
    study, name = results.paper.experiments["adaptation_effect"], "adaptation_effect"
    columns = {
        "sama_cosine": "SAMA",
        "sama_na_cosine": "SAMA-NA",
        "least_sama_cosine": "SAMA, largest of a run",
        "least_sama_na_cosine": "SAMA-NA, largest of a run",
        "long_sama_cosine": "SAMA, alpha 1",
        "long_sama_na_cosine": "SAMA-NA, alpha 1",
    }
    running = study.runs(results.scale)
    several = len({case for case, _ in running}) > 1
    cells = []
    for case, arm in running:
        title = study.arms[arm].title
        row = f"{study.cases[case].title_at(results.scale)}: {title}" if several else title
        runs = list_runs(results.records(name, arm, case))
        for metric, column in columns.items():
            # Rounding takes the cosine of equal directions above 1.
            cosines = np.minimum(results.values(name, arm, metric, case), 1.0)
            angles = np.degrees(np.arccos(cosines))
            cells.append(make_cell(results, row, column, angles, label="", unit="°", runs=runs))
    return Table(
        row_header="Optimiser",
        cells=cells,
        notes=[
            "Angle of a run's mean (or least) cosine over the steps compared; alpha is 0.01 unless"
            " said otherwise. For plain SGD and momentum D is one number, so that both are the"
            " same. What is left of SAMA's angle is where the mixed derivative is taken: at the"
            " weights after the step, not before it.",
        ],
    )


def table_few_shot(results: Results) -> Table:
    """Accuracy on tasks of classes that were never trained on."""
    accuracy = Measure("accuracy_pct", "Accuracy", "%")
    return Table(
        row_header="Method",
        cells=grid(results, "few_shot", [accuracy], columns="cases"),
        notes=[
            "5-way 1-shot. The mixed derivative of the proximal term is a multiple of the identity,"
            " so that SAMA-NA is first-order MAML, and SAMA equals it where D is one number (SGD).",
        ],
    )


TABLES = {
    "table3": table3,
    "table_adaptation": table_adaptation,
    "table_few_shot": table_few_shot,
    "table_identity": table_identity,
}
