"""Drawings of dataflow graphs and of the library's modules, for figures."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes

from common.results.figures import COLOURS
from papers.betty.graph import DataflowGraph

FOLDER: Final = Path(__file__).resolve().parents[1]
Places = Mapping[str, tuple[float, float]]


def draw_graph(ax: Axes, graph: DataflowGraph) -> None:
    """Problems by level, lower ones below; l2u edges drawn through, u2l edges dashed."""
    levels = {name: level(graph, name) for name in graph.names}
    places = by_level(levels)

    def edge(start: str, end: str, colour: str, style: str, bend: float) -> None:
        # What passes a level by goes around the boxes there.
        far = 0.3 * (abs(levels[start] - levels[end]) - 1)
        arrow(ax, places[start], places[end], colour, style, bend + far)

    for low, uppers in graph.l2u.items():
        for up in uppers:
            edge(low, up, COLOURS[0], "-", 0.14)
    for up, lowers in graph.u2l.items():
        for low in lowers:
            edge(up, low, COLOURS[1], "--", 0.22)
    boxes(ax, places, "round,pad=0.4")


def level(graph: DataflowGraph, name: str) -> int:
    """Hops of the longest way up to ``name``: 0 for a problem that waits for no other."""
    return max((1 + level(graph, low) for low in graph.below(name)), default=0)


def by_level(levels: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """(x, y) of each name: a row for each level, evenly spread over the same width."""
    rows: dict[int, list[str]] = defaultdict(list)
    for name, row in levels.items():
        rows[row].append(name)
    width = max(map(len, rows.values()))
    return {
        name: ((place + 0.5) * width / len(names), float(row))
        for row, names in rows.items()
        for place, name in enumerate(names)
    }


def boxes(ax: Axes, places: Places, style: str) -> None:
    """Names in boxes at their places, and room around them."""
    for name, (x, y) in places.items():
        box = {"boxstyle": style, "facecolor": "white", "edgecolor": "0.4"}
        ax.text(x, y, name, ha="center", va="center", fontsize="small", bbox=box)
    across, up = zip(*places.values(), strict=True)
    ax.set(xlim=(min(across) - 0.6, max(across) + 0.6), ylim=(min(up) - 0.4, max(up) + 0.4))
    ax.axis("off")


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    style: str,
    bend: float,
) -> None:
    """An arrow between two boxes."""
    shape = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "shrinkA": 16, "shrinkB": 16}
    ax.annotate("", end, start, arrowprops={**shape, "connectionstyle": f"arc3,rad={bend}"})


def imports(parts: Sequence[str]) -> dict[str, list[str]]:
    """Which of the library's ``parts`` (modules or sub-packages) each of them imports when run."""
    found = {}
    for part in parts:
        path = FOLDER / part
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        names = {name for file in files for name in _imported(ast.parse(file.read_text("utf8")))}
        found[part] = [other for other in parts if other in names and other != part]
    return found


def _imported(tree: ast.Module) -> set[str]:
    """Names after ``papers.betty.`` in the module's own imports, not those for type checkers."""
    return {
        node.module.split(".")[2]
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        and node.module is not None
        and node.module.startswith("papers.betty.")
    }
