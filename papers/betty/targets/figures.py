"""The paper's drawings, the graphs of the experiments' programs, and what the nudge does."""

from __future__ import annotations

from typing import Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.results.figures import COLOURS, FigureWithCaption
from common.results.records import Results
from papers.betty.graph import DataflowGraph
from papers.betty.targets.drawing import arrow, boxes, by_level, draw_graph, imports

#: Parts of the library, in the order of the drawing.
PARTS: Final = ("engine", "problems", "distribution", "hypergradient", "graph", "envs", "configs")
#: One experiment of each shape of graph: (experiment, case, arm, title).
PROGRAMS: Final = (
    ("meta_weight_net", "if50", "darts", "Meta-Weight-Net"),
    ("label_correction", "main", "rwt_crt", "Label correction"),
    ("domain_adaptation", "main", "rwt", "Three levels"),
)
#: Arms that leave the weights perturbed.
NUDGED: Final = ("nudge", "nudge5")


def figure1(_results: Results) -> FigureWithCaption:
    """Parts of the library and which of them uses which, read from their imports."""
    uses = imports(PARTS)

    def level(part: str) -> int:
        return max((1 + level(other) for other in uses[part]), default=0)

    places = by_level({part: level(part) for part in PARTS})
    figure, ax = plt.subplots(figsize=(6.4, 3.4))
    for part, others in uses.items():
        for other in others:
            arrow(ax, places[part], places[other], COLOURS[0], "-", 0.0)
    boxes(ax, places, "square,pad=0.4")
    return FigureWithCaption(
        figure,
        "The library's parts; an arrow leads to what a part imports. The engine runs problems in"
        " the order of the graph, and a problem asks hypergradient for derivatives.",
        "Boxes for the engine, problems, hypergradient and smaller parts, with arrows for imports.",
    )


def figure2(_results: Results) -> FigureWithCaption:
    """The example of a dataflow graph with four problems, and its paths from p4 to p3."""
    graph = DataflowGraph(
        ["p1", "p2", "p3", "p4"],
        u2l={"p4": ["p3", "p1"], "p3": ["p2"]},
        l2u={"p1": ["p3"], "p2": ["p3"], "p3": ["p4"]},
    )
    figure, ax = plt.subplots(figsize=(5.6, 3.8))
    draw_graph(ax, graph)
    legend(figure, ax)
    paths = "; ".join(" <- ".join(path) for path in graph.paths("p4"))
    return FigureWithCaption(
        figure,
        f"A dataflow graph of four problems, drawn from the library's own graph. Its"
        f" hypergradient for p4 follows {paths}.",
        "Four problems on three levels; p4 reaches p3 directly and through p1.",
    )


def figure_programs(results: Results) -> FigureWithCaption:
    """Dataflow graphs of three experiments, as their runs had them."""
    figure, axes = plt.subplots(1, len(PROGRAMS), figsize=(8.4, 3.2))
    for ax, (experiment, case, arm, title) in zip(axes, PROGRAMS, strict=True):
        edges = results.first(experiment, arm, case).read_json("graph.json")
        draw_graph(ax, DataflowGraph(**edges))
        ax.set_title(title)
    legend(figure, axes[0])
    return FigureWithCaption(
        figure,
        "Programs of the experiments: two levels, two upper problems at once, three levels where"
        " the uppermost reads both others.",
        "Three small graphs of two, three and three problems with arrows up and dashed ones down.",
    )


def legend(figure: Figure, ax: Axes) -> None:
    """What the two kinds of arrows mean, below the drawings."""
    ax.plot([], [], color=COLOURS[0], label="l2u: optimum of a lower problem")
    ax.plot([], [], color=COLOURS[1], linestyle="--", label="u2l: value of an upper parameter")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center")


def figure_nudge(results: Results) -> FigureWithCaption:
    """Accuracy of every method and the baselines, one point a seed."""
    figure, ax = plt.subplots(figsize=(6.4, 3.6))
    study = results.paper.experiments["meta_weight_net"]
    shown = [arm for case, arm in study.runs(results.scale) if case == "if50"]
    for place, arm in enumerate(shown):
        values = results.values("meta_weight_net", arm, "accuracy_pct", "if50")
        colour = COLOURS[1] if arm in NUDGED else COLOURS[0]
        ax.plot(values, np.full(len(values), place), "o", color=colour, alpha=0.55)
        ax.plot(values.mean(), place, "|", color=colour, markersize=18, markeredgewidth=2)
    ax.set_yticks(range(len(shown)), [study.arms[arm].title for arm in shown])
    ax.invert_yaxis()
    ax.set(xlabel="test accuracy (%), IF 50")
    return FigureWithCaption(
        figure,
        "Points are seeds, bars their mean. Methods that restore the weights lie together; those"
        " that leave them perturbed take a step on the meta set's own loss each time.",
        "Strip plot of accuracy for nine methods; the two with the nudge lie to the right.",
    )


FIGURES = {
    "figure1": figure1,
    "figure2": figure2,
    "figure_programs": figure_programs,
    "figure_nudge": figure_nudge,
}
