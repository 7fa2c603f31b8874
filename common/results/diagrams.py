"""Diagrams: boxes with arrows from border to border."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from common.results.figures import COLOURS

Places = Mapping[str, tuple[float, float]]


def graph(
    ax: Axes, places: Places, arrows: Sequence[tuple[str, str]], never: str | None = None
) -> None:
    """Names in boxes at their places, joined by arrows; one that is ``never`` made is dashed."""
    boxes = {}
    for name, (x, y) in places.items():
        box = {
            "boxstyle": "round,pad=0.4",
            "facecolor": "white",
            "edgecolor": "0.4",
            "linestyle": "--" if name == never else "-",
        }
        boxes[name] = ax.text(x, y, name, ha="center", va="center", fontsize="small", bbox=box)
    for start, end in arrows:
        shape = {
            "arrowstyle": "-|>",
            "color": COLOURS[0],
            "patchA": boxes[start].get_bbox_patch(),
            "patchB": boxes[end].get_bbox_patch(),
            "shrinkA": 1,
            "shrinkB": 1,
        }
        ax.annotate("", places[end], places[start], arrowprops=shape)
    across, up = zip(*places.values(), strict=True)
    ax.set(xlim=(min(across) - 0.5, max(across) + 0.5), ylim=(min(up) - 0.3, max(up) + 0.4))
    ax.axis("off")
