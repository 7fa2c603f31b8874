"""Data pruning, Figure 3: its table, and accuracies relative to all data by seed."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from common.results.figures import COLOURS, LINES, MARKERS, FigureWithCaption
from common.results.lineage import Runs, list_runs
from common.results.records import Results
from common.results.tables import Cell, Table, cell, make_cell

TRAINING: Final = "pruned_training"


SEARCH: Final = "pruning_scores"


FULL: Final = "full"


Values = NDArray[np.float64]


#: (experiment, arm, metric).
Measured = tuple[str, str, str]


def arms_by_case(results: Results) -> dict[str, list[str]]:
    """Methods that run at the scale of ``results``, the full training aside."""
    found: dict[str, list[str]] = {}
    for case, arm in results.paper.experiments[TRAINING].runs(results.scale):
        found.setdefault(case, []).extend([arm] if arm != FULL else [])
    return found


def pruned_shares(results: Results, case: str, arm: str) -> list[int]:
    """Shares (%) that a method leaves out, as its settings say."""
    settings = results.paper.settings(TRAINING, case, arm, results.scale)
    return list(settings["pruned_pct"])


def accuracy_metric(pct: int) -> str:
    """The metric of a share."""
    return f"accuracy_pruned_{pct}_pct"


def ratios(results: Results, case: str, top: Measured, bottom: Measured) -> Values:
    """One value a seed, of the seeds that have both."""
    above, below = (
        results.metric(experiment, arm, metric, case) for experiment, arm, metric in (top, bottom)
    )
    return np.array([above[seed] / below[seed] for seed in above if seed in below])


def relative_accuracy_pct(results: Results, case: str, arm: str, pct: int) -> Values:
    """Accuracy with ``pct`` per cent pruned, in per cent of that with all data of the same seed."""
    top, bottom = (TRAINING, arm, accuracy_metric(pct)), (TRAINING, FULL, accuracy_metric(0))
    return 100 * ratios(results, case, top, bottom)


def relative_search_time(results: Results, case: str, arm: str) -> Values:
    """Time of the search over that of one full training of the same seed; empty without search."""
    if arm not in results.paper.experiments[SEARCH].arms:
        return np.array([])
    return ratios(results, case, (SEARCH, arm, "search_s"), (TRAINING, FULL, "train_s"))


def table_pruning(results: Results) -> Table:
    """Test accuracy by pruned share, a row for each method and data set; time of the search."""
    cells: list[Cell] = []
    for case, arms in arms_by_case(results).items():
        cells.append(_accuracy(results, case, FULL, 0))
        for arm in arms:
            shares = pruned_shares(results, case, arm)
            cells += [_accuracy(results, case, arm, pct) for pct in shares]
            times = relative_search_time(results, case, arm)
            if len(times):
                cells.append(
                    make_cell(
                        results,
                        _pruning_row(results, case, arm),
                        "Search",
                        times,
                        label="time relative to full training",
                        runs=_runs(results, case, arm),
                    )
                )
    return Table(
        row_header="Data and method",
        cells=cells,
        notes=[
            "Times are of this process alone: processor seconds on a CPU, seconds on the wall on a"
            " GPU. Those of the search are of the proxy's training and of scoring."
        ],
    )


def _accuracy(results: Results, case: str, arm: str, pct: int) -> Cell:
    return cell(
        results,
        _pruning_row(results, case, arm),
        f"{pct} % pruned" if pct else "All data",
        experiment=TRAINING,
        case=case,
        arm=arm,
        metric=accuracy_metric(pct),
        label="Accuracy",
        unit="%",
    )


def _pruning_row(results: Results, case: str, arm: str) -> str:
    study = results.paper.experiments[TRAINING]
    return f"{study.cases[case].title_at(results.scale)}: {study.arms[arm].title}"


def _runs(results: Results, case: str, arm: str) -> list[Runs]:
    """Records that a relative time is of."""
    found = results.records(SEARCH, arm, case)
    return list_runs([*found, *results.records(TRAINING, FULL, case)])


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
    arms = arms_by_case(results)
    cases = [case for case in arms if results.records(TRAINING, FULL, case)]
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
    study = results.paper.experiments[TRAINING]
    for arm in arms_by_case(results)[case]:
        shares = pruned_shares(results, case, arm)
        values = [relative_accuracy_pct(results, case, arm, pct) for pct in shares]
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
    titles = results.paper.experiments[SEARCH].arms
    shown: list[str] = []
    for arm in arms:
        each = [relative_search_time(results, case, arm) for case in cases]
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
