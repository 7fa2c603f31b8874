"""The paper's figures, from records."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from common.results.figures import COLOURS, LINES, MARKERS, FigureWithCaption
from common.results.records import Results
from papers.sama.targets import pruning

#: Of methods of data pruning, in all panels.
PRUNING_STYLES: Final[dict[str, dict[str, Any]]] = {
    arm: {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINES[1] if arm == "random" else LINES[0],
    }
    for place, arm in enumerate(
        ("sama", "el2n", "grand", "forgetting", "margin", "sama_soft", "random")
    )
}


def figure3(results: Results) -> FigureWithCaption:
    """Accuracy relative to all data against the pruned share, and the search's relative time.

    A panel for each data set that was run.
    """
    arms = pruning.arms_by_case(results)
    cases = [case for case in arms if results.records(pruning.TRAINING, pruning.FULL, case)]
    columns = 2 if len(cases) < 3 else 3
    rows = -(-(len(cases) + 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.9 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )
    places = axes.flat
    for case, ax in zip(cases, places, strict=False):
        _draw_accuracies(ax, results, case)
    _draw_times(places[len(cases)], results, cases)
    for ax in places[len(cases) + 1 :]:
        ax.axis("off")
    handles: dict[str, Any] = {}
    for ax in places[: len(cases)]:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=8
    )
    return FigureWithCaption(
        figure,
        "Accuracy after training on what is left, in per cent of that with all data of the same"
        " seed; means, and bars of a standard deviation over seeds. Last panel: time of the search"
        " over that of one training on all data.",
        "A panel for each data set with a line for each method that falls with the pruned share,"
        " and horizontal bars of search times.",
    )


def _draw_accuracies(ax: Axes, results: Results, case: str) -> None:
    study = results.paper.experiments[pruning.TRAINING]
    for arm in pruning.arms_by_case(results)[case]:
        shares = pruning.pruned_shares(results, case, arm)
        values = [pruning.relative_accuracy_pct(results, case, arm, pct) for pct in shares]
        ax.errorbar(
            shares,
            [each.mean() if len(each) else np.nan for each in values],
            yerr=[each.std(ddof=1) if len(each) > 1 else 0.0 for each in values],
            label=study.arms[arm].title,
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            **PRUNING_STYLES[arm],
        )
    ax.axhline(100, color="0.7", linewidth=0.8, zorder=0)
    ax.set(
        xlabel="pruned (%)",
        ylabel="relative accuracy (%)",
    )
    ax.set_title(study.cases[case].title_at(results.scale), fontsize=9)


def _draw_times(ax: Axes, results: Results, cases: list[str]) -> None:
    """Means over cases, and one dot a case."""
    arms = [arm for arm in PRUNING_STYLES if arm != "random"]
    titles = results.paper.experiments[pruning.SEARCH].arms
    shown: list[str] = []
    for arm in arms:
        each = [pruning.relative_search_time(results, case, arm) for case in cases]
        means = [values.mean() for values in each if len(values)]
        if means:
            place = len(shown)
            shown.append(titles[arm].title)
            colour = PRUNING_STYLES[arm]["color"]
            ax.barh(place, float(np.mean(means)), color=colour, alpha=0.55)
            ax.plot(means, [place] * len(means), "o", color=colour, markersize=3)
    ax.set_yticks(range(len(shown)), shown, fontsize=7)
    ax.invert_yaxis()
    ax.set(xlabel="time relative to full training")
    ax.set_title("Search", fontsize=9)


FIGURES = {"figure3": figure3}
