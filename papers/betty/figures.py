"""The paper's example graph, and what the nudge does."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from common.results.figures import COLOURS, FigureWithCaption
from common.results.records import Results
from papers.betty.graph import DataflowGraph
from papers.betty.tables import METHODS

#: Where the example's problems stand: lower ones below.
PLACES = {"p1": (0.0, 0.0), "p2": (2.0, 0.0), "p3": (1.0, 1.0), "p4": (1.0, 2.0)}


def figure2(_results: Results) -> FigureWithCaption:
    """The example of a dataflow graph with four problems, and its paths from p4 to p3."""
    graph = DataflowGraph(
        ["p1", "p2", "p3", "p4"],
        u2l={"p4": ["p3", "p1"], "p3": ["p2"]},
        l2u={"p1": ["p3"], "p2": ["p3"], "p3": ["p4"]},
    )
    figure, ax = plt.subplots(figsize=(5.6, 3.8))
    for low, uppers in graph.l2u.items():
        for up in uppers:
            arrow(ax, low, up, COLOURS[0], "-", 0.12)
    for up, lowers in graph.u2l.items():
        for low in lowers:
            arrow(ax, up, low, COLOURS[1], "--", 0.25)
    for name, (x, y) in PLACES.items():
        ax.text(x, y, name, ha="center", va="center", bbox={"boxstyle": "circle", "fc": "white"})
    ax.plot([], [], color=COLOURS[0], label="l2u: optimum of a lower problem")
    ax.plot([], [], color=COLOURS[1], linestyle="--", label="u2l: value of an upper parameter")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=1)
    ax.set(xlim=(-0.6, 2.6), ylim=(-0.4, 2.4))
    ax.axis("off")
    paths = "; ".join(" <- ".join(path) for path in graph.paths("p4"))
    return FigureWithCaption(
        figure,
        f"A dataflow graph of four problems, drawn from the library's own graph. Its"
        f" hypergradient for p4 follows {paths}.",
        "Four problems on three levels; p4 reaches p3 directly and through p1.",
    )


def arrow(ax: Axes, start: str, end: str, colour: str, style: str, bend: float) -> None:
    """An arrow between two problems."""
    ax.annotate(
        "",
        PLACES[end],
        PLACES[start],
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linestyle": style,
            "shrinkA": 16,
            "shrinkB": 16,
            "connectionstyle": f"arc3,rad={bend}",
        },
    )


def figure_nudge(results: Results) -> FigureWithCaption:
    """Accuracy of every method and the baselines, one point a seed."""
    figure, ax = plt.subplots(figsize=(6.4, 3.6))
    names = []
    for place, method in enumerate(METHODS):
        values = results.values("meta_weight_net", f"{method.arm}-50", "accuracy_pct")
        colour = COLOURS[1] if "nudge" in method.arm else COLOURS[0]
        ax.plot(values, np.full(len(values), place), "o", color=colour, alpha=0.55)
        ax.plot(values.mean(), place, "|", color=colour, markersize=18, markeredgewidth=2)
        names.append(method.name)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set(xlabel="test accuracy (%), IF 50")
    return FigureWithCaption(
        figure,
        "Points are seeds, bars their mean. Methods that restore the weights lie together; those"
        " that leave them perturbed take a step on the meta set's own loss each time.",
        "Strip plot of accuracy for nine methods; the two with the nudge lie to the right.",
    )


FIGURES = {"figure2": figure2, "figure_nudge": figure_nudge}
