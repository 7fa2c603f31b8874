"""The paper's figures, and ours, from records."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from common.results.figures import COLOURS, LINES, FigureWithCaption
from common.results.records import Results
from papers.sama.targets.tables import treated_case

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
    left.set(xlabel=f"test accuracy (%), {title}")
    for arm, line in zip(DRAWN, LINES, strict=False):
        draw_weights(right, results, case, arm, line, study.arms[arm].title)
    right.set(xlabel="step", ylabel="mean weight", ylim=(0, None))
    right.legend(fontsize="x-small")
    return FigureWithCaption(
        figure,
        "Left: a point a seed, bars their mean; with a nudge the weights stay where the meta step"
        " moved them. Right: mean weights of right and wrong training labels, over seeds.",
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


FIGURES = {"figure_noisy_labels": figure_noisy_labels}
