"""Training on weak labels: Table 1, and what a clean set is worth."""

from __future__ import annotations

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from common.results.figures import COLOURS, LINES, FigureWithCaption
from common.results.records import Results
from common.results.tables import Cell, Measure, Table, cell, grid, make_cell

ACCURACY = Measure("accuracy_pct", "Accuracy", "%")


#: Its name in published.csv.
WRENCH = "test accuracy (WRENCH, BERT-base)"


#: Rows of Table 1 that others ran: names there, and ours.
OTHERS = {
    "Finetune (orig, from WRENCH)": "Weak labels (WRENCH's authors)",
    "COSINE (from WRENCH)": "COSINE (WRENCH's authors)",
}


def table1(results: Results) -> Table:
    """Test accuracy by method; columns are digits, or WRENCH sets by what reads the texts."""
    made = partial(grid, results, "noisy_finetuning", columns="cases")
    if results.scale != "paper":
        return Table(row_header="Method", cells=made([ACCURACY]))
    study = results.paper.experiments["noisy_finetuning"]
    cells = made([ACCURACY._replace(published=WRENCH)], table="Table 1")
    methods = [arm.title for arm in study.arms.values()]
    texts = [name for name in study.cases if name in dict(study.runs("paper"))]
    return Table(
        row_header="Method",
        # Not every method runs in every case: rows are in the order of the arms all the same.
        cells=[
            *(vote(results, case) for case in texts),
            *(
                theirs(results, row, case)
                for row in OTHERS
                for case in ("trec_bert", "semeval_bert")
            ),
            *sorted(cells, key=lambda item: methods.index(item.row)),
        ],
        columns=[study.cases[case].title_at("paper") for case in texts],
        notes=[
            "The vote is that of the labelling functions on the test set, without a classifier.",
            "Published numbers stand beside the rows that restore the weights, as the method is"
            " written; whether the published runs did is not known (see the paper's README).",
        ],
    )


def vote(results: Results, case: str) -> Cell:
    """How often most labelling functions are right: a row that no arm has to itself."""
    title = results.paper.experiments["noisy_finetuning"].cases[case].title_at("paper")
    return cell(
        results,
        "Majority vote",
        title,
        experiment="noisy_finetuning",
        case=case,
        arm="weak",
        metric="vote_accuracy_pct",
        label=ACCURACY.title,
        unit=ACCURACY.unit,
    )


def theirs(results: Results, row: str, case: str) -> Cell:
    """A published number of what is not run here."""
    body = results.paper.experiments["noisy_finetuning"].cases[case]
    return make_cell(
        results,
        OTHERS[row],
        body.title_at("paper"),
        np.array([]),
        label=ACCURACY.title,
        unit=ACCURACY.unit,
        published=("Table 1", row, body.published or "", WRENCH),
    )


def table_noisy_labels(results: Results) -> Table:
    """What is made of right and wrong labels: mean weights, and labels right after correction."""
    study, case = results.paper.experiments["noisy_finetuning"], treated_case(results)
    running = [arm for name, arm in study.runs(results.scale) if name == case]
    made = partial(grid, results, "noisy_finetuning", columns="measures", cases=[case])

    def by(*methods: str) -> list[str]:
        return [arm for arm in running if study.arms[arm].settings["method"] in methods]

    weights = [
        Measure("weight_right", "Weight of right labels"),
        Measure("weight_wrong", "Weight of wrong labels"),
        Measure("label_accuracy_pct", "Labels right as given", "%"),
    ]
    corrected = [Measure("corrected_label_accuracy_pct", "Labels right as corrected", "%")]
    return Table(
        row_header="Method",
        cells=[*made(weights, arms=by("r", "cr")), *made(corrected, arms=by("cr"))],
    )


def treated_case(results: Results) -> str:
    """The case that is looked at closely."""
    return "trec" if results.scale == "paper" else "scaled"


#: Whose weights are drawn over training.
DRAWN = ("r_sama", "r_sama_nudge")


def figure_noisy_labels(results: Results) -> FigureWithCaption:
    """Accuracy by method, and the weights of right and wrong labels over training."""
    study, case = results.paper.experiments["noisy_finetuning"], treated_case(results)
    title = study.cases[case].title_at(results.scale)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.8), width_ratios=(1.2, 1))
    shown = [arm for name, arm in study.runs(results.scale) if name == case]
    for place, arm in enumerate(shown):
        values = results.values("noisy_finetuning", arm, "accuracy_pct", case)
        colour = COLOURS[1] if arm.endswith("nudge") else COLOURS[0]
        left.plot(values, np.full(len(values), place), "o", color=colour, alpha=0.55)
        if len(values):
            left.plot(values.mean(), place, "|", color=colour, markersize=16, markeredgewidth=2)
    left.set_yticks(range(len(shown)), [study.arms[arm].title for arm in shown])
    left.invert_yaxis()
    left.set(xlabel="test accuracy (%)", title=title)
    for arm, line in zip(DRAWN, LINES, strict=False):
        draw_weights(right, results, case, arm, line, study.arms[arm].title)
    right.set(xlabel="step", ylabel="mean weight", ylim=(0, None))
    right.legend(fontsize="x-small")
    return FigureWithCaption(
        figure,
        "Left: a point a seed, bars their mean; orange are methods that leave the weights where the"
        " meta step moved them. Right: mean weights of right and wrong labels, over seeds.",
        "Strip plot of test accuracy by method, and curves of two mean weights over training.",
    )


def draw_weights(ax: Axes, results: Results, case: str, arm: str, line: str, title: str) -> None:
    """Means over seeds of the weights of right and of wrong labels, by step."""
    histories = [
        record.read_csv("history.csv") for record in results.records("noisy_finetuning", arm, case)
    ]
    if not histories:
        return
    for metric, colour, label in (
        ("weight_right", COLOURS[2], "right"),
        ("weight_wrong", COLOURS[3], "wrong"),
    ):
        mean = np.mean([history[metric].to_numpy() for history in histories], axis=0)
        ax.plot(histories[0]["step"], mean, line, color=colour, label=f"{label}, {title}")
