"""Both papers' figures, from records, with what could be read off the papers' own plots."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from common.results.figures import COLOURS, MARKERS, FigureWithCaption
from common.results.records import Results
from papers.mmt_how2.targets import correction_figures, translation_figures
from papers.mmt_how2.targets.correction_tables import KINDS
from papers.mmt_how2.targets.rows import read_values
from papers.mmt_how2.targets.tables import KNOBS, LEADING, PICTURES, RECOGNISER, place_features

#: Cases of Figure 2 and their styles.
STYLES: Final[dict[str, dict[str, Any]]] = {
    "how2": {"color": COLOURS[0], "marker": MARKERS[0]},
    "multi30k": {"color": COLOURS[1], "marker": MARKERS[1]},
}
#: Components of the upper panel that were read off the paper's plot.
READ_OFF: Final = (0, 1, 2, 3, 4, 5, 9, 14, 19, 29, 49, 74, 99)
PRINTED_SPLITS: Final = ("train", "validation", "test")


def nmt_figure2(results: Results) -> FigureWithCaption:
    """Percent of variance by component, added up, and what moves it."""
    figure, (top, bottom, knobs) = plt.subplots(1, 3, figsize=(11.6, 3.4))
    origin = "ours" if results.scale == "paper" else "made up"
    cases = results.paper.experiments["training_features"].cases
    for case, look in STYLES.items():
        place, name = place_features(case), cases[case].title_at(results.scale)
        frame = results.first(*place).read_csv("spectrum.csv")
        colour, marker = look["color"], look["marker"]
        top.plot(
            frame["component"] + 1, frame["share_pct"], color=colour, label=f"{name}, {origin}"
        )
        ours = [
            float(read_values(results, place, f"top{count}_pct", "features").mean())
            for count in LEADING
        ]
        bottom.plot(LEADING, ours, color=colour, marker=marker)
        theirs = [
            (
                place + 1,
                printed(
                    results, "NMT Figure 2 top", name, f"component {place}", "variance explained"
                ),
            )
            for place in READ_OFF
        ]
        style = {"color": colour, "marker": marker, "fillstyle": "none", "linestyle": ":"}
        top.plot(*np.transpose(theirs), label=f"{name}, the paper", **style)
        shares = [
            printed(
                results,
                "NMT Figure 2 bottom",
                name,
                f"Top {count}",
                "cumulative variance explained",
            )
            for count in LEADING
        ]
        bottom.plot(LEADING, shares, **style)
    top.set(xscale="log", xlabel="component", ylabel="percent of variance")
    top.set_xticks([1, 10, 100], ["1", "10", "100"])
    bottom.set(xlabel="leading components", ylabel="percent of variance, added up")
    top.legend(fontsize="small")
    knob_bars(knobs, results)
    return FigureWithCaption(
        figure,
        "Shares of the variance of all dimensions, ours and as read off the paper's plot (dotted)."
        " On the right, made-up pictures: what the ten leading directions hold, and, as dots, how"
        " many pictures tell their scene. Common directions and repeated pictures raise the share."
        " Noise lowers it and hides scenes; pictures of unrelated scenes look like good ones.",
        "Falling curves of variance by component; rising curves of their sums, How2 above Multi30k;"
        " bars for made-up pictures with dots for accuracy.",
    )


def knob_bars(ax: Axes, results: Results) -> None:
    """Share of the ten leading directions of each made-up set, and the scenes told."""
    places = np.arange(len(KNOBS))[::-1]

    def means(measure: str) -> list[float]:
        return [float(read_values(results, PICTURES, measure, knob.name).mean()) for knob in KNOBS]

    ax.barh(places, means("top10_pct"), color=COLOURS[2], label="top 10")
    ax.plot(means("scene_accuracy_pct"), places, "o", color=COLOURS[6], label="scenes told")
    ax.set_yticks(places, [knob.title for knob in KNOBS])
    ax.tick_params(axis="y", labelsize="x-small")
    ax.set(xlim=(0, 105), xlabel="percent")
    ax.legend(fontsize="small", loc="lower right")


def asr_figure1(results: Results) -> FigureWithCaption:
    """Shares of insertions, deletions and substitutions."""
    figure, ax = plt.subplots(figsize=(6.4, 3.2))
    rows = {
        f"the paper,\n{split}": [
            printed(results, "ASR Figure 1", split, kind, "share of all errors") for kind in KINDS
        ]
        for split in PRINTED_SPLITS
    }
    ours = "ours, test" if results.scale == "paper" else "ours, made up"
    rows[ours.replace(", ", ",\n")] = [
        float(read_values(results, RECOGNISER, f"{kind}_share_pct").mean()) for kind in KINDS
    ]
    left = np.zeros(len(rows))
    places = np.arange(len(rows))[::-1]
    for kind, colour, shares in zip(
        KINDS, COLOURS, np.transpose(list(rows.values())), strict=False
    ):
        bars = ax.barh(places, shares, left=left, color=colour, label=kind, height=0.6)
        ax.bar_label(bars, fmt="%.1f", label_type="center", color="white", fontsize="small")
        left += shares
    ax.set_yticks(places, list(rows))
    ax.set(xlabel="percent of all errors", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=len(KINDS))
    return FigureWithCaption(
        figure,
        "Kinds of errors of the paper's recogniser, read off its plot, and of another one of the"
        " same test split (scale paper). At the other scales a noise channel makes the errors at"
        " that recogniser's rates, so the shares are put in, not found.",
        "Four bars, each a fifth insertions, a sixth deletions and three fifths substitutions.",
    )


def printed(results: Results, place: str, row: str, column: str, metric: str) -> float:
    """A published number; NaN where there is none."""
    found = results.published_value(place, row, column, metric)
    return float("nan") if found is None or found.value is None else found.value


FIGURES: Final = {
    **translation_figures.FIGURES,
    "nmt_figure2": nmt_figure2,
    "asr_figure1": asr_figure1,
    **correction_figures.FIGURES,
}
