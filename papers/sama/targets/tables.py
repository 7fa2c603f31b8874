"""The paper's tables, from records."""

from __future__ import annotations

from functools import partial

from common.results.records import Results
from common.results.tables import Measure, Table, grid


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
    """Cosines by optimiser: with and without adaptation, short and long shift."""
    measures = [
        Measure("sama_cosine", "SAMA"),
        Measure("sama_na_cosine", "SAMA-NA"),
        Measure("least_sama_cosine", "SAMA, least of a run"),
        Measure("long_sama_cosine", "SAMA, alpha 1"),
        Measure("long_sama_na_cosine", "SAMA-NA, alpha 1"),
    ]
    return Table(
        row_header="Optimiser",
        cells=grid(results, "adaptation_effect", measures, columns="measures"),
        notes=[
            "Mean over steps of a training; alpha is 0.01 unless said otherwise. For plain"
            " SGD and momentum D is one number, so that both are the same.",
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
