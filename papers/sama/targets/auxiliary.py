"""Auxiliary losses and few shots, Table 3: tables and figures."""

from __future__ import annotations

from functools import partial
from typing import Final

import matplotlib.pyplot as plt
import numpy as np

from common.errors import InputError
from common.results.figures import COLOURS, FigureWithCaption
from common.results.records import Results
from common.results.tables import Measure, Table, grid


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


#: Cases of digits by the share of random auxiliary labels.
SHARES: Final = {"none": 0.0, "half": 0.5, "all": 1.0}


def figure_auxiliary(results: Results) -> FigureWithCaption:
    """Mean weight against the share of random labels; on texts weight against loss."""
    figure, ax = plt.subplots(figsize=(5.2, 3.4))
    study = results.paper.experiments["auxiliary_reweighting"]
    running = study.runs(results.scale)
    on_digits = any((case, "sama") in running for case in SHARES)
    for number, arm in enumerate(("sama", "sama_na")):
        title, colour = study.arms[arm].title, COLOURS[number]
        if on_digits:
            points = [
                (share, value)
                for case, share in SHARES.items()
                if (case, arm) in running
                for value in results.values("auxiliary_reweighting", arm, "mean_weight", case)
            ]
            if points:
                ax.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.6, label=title)
            continue
        for case, style in (("trec6", "-"), ("agnews", "--")):
            curves = []
            for record in results.records("auxiliary_reweighting", arm, case):
                rows = record.read_csv("weights.csv")
                curves.append(rows["weight"].to_numpy())
                losses = rows["loss"].to_numpy()
            if curves:
                label = f"{study.cases[case].title_at(results.scale)}, {title}"
                ax.plot(losses, np.mean(curves, axis=0), style, color=colour, label=label)
    if not ax.lines:
        raise InputError("figure_auxiliary: no weights were learned; run auxiliary_reweighting")
    ax.axhline(1, color="0.6", linewidth=0.8)
    ax.set_ylabel("weight of the auxiliary loss" if not on_digits else "mean weight")
    ax.set_xlabel("share of random auxiliary labels" if on_digits else "loss of a masked word")
    ax.legend()
    return FigureWithCaption(
        figure,
        "The weight starts at 1 (line). On digits each point is a seed: the less the auxiliary"
        " labels say, the less their losses weigh."
        if on_digits
        else "The learned weight of a masked word's loss, mean over seeds; it starts at 1 (line).",
        "Mean weight against the share of random labels, falling from above 1 to near 0."
        if on_digits
        else "Curves of weight against loss for two sets of texts.",
    )
