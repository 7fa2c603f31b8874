"""Drawings of where two songs match: of the report's figure and of the tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

#: Of the aligned passage, on the matrix and on both axes.
PASSAGE: Final = "#d55e00"
#: Share of cells whose evidence is shown unsaturated: a few cells have ten times that of the rest.
SHOWN: Final = 0.995


def draw_likeness(axes: Axes, matrix: NDArray[Any], path: NDArray[Any]) -> AxesImage:
    """How alike seconds are, (n, m), brighter is more alike; the passage (k, 2) as a line."""
    image = axes.imshow(matrix, cmap="gray", origin="lower")
    _mark_passage(axes, path, matrix.shape)
    axes.plot(path[:, 1], path[:, 0], color=PASSAGE, linewidth=1.2)
    return image


def draw_evidence(axes: Axes, evidence: NDArray[Any], path: NDArray[Any]) -> AxesImage:
    """What a network's log-odds rest on, (n, m): blue for a cover, red against one."""
    path = path[(path < evidence.shape).all(axis=1)]  # a network may see a song's beginning alone
    most = max(float(np.quantile(np.abs(evidence), SHOWN)), 1e-9)
    image = axes.imshow(evidence, cmap="RdBu", origin="lower", vmin=-most, vmax=most)
    _mark_passage(axes, path, evidence.shape)
    return image


def describe_passage(path: NDArray[Any]) -> str:
    """As ``A 0:02-0:31 with B 0:10-0:40``."""
    if not len(path):
        return "nothing aligns"
    (a, b), (c, d) = path[0], path[-1]
    return f"A {_clock(a)}-{_clock(c)} with B {_clock(b)}-{_clock(d)}"


def save_match(
    file: Path,
    titles: tuple[str, str],
    matrix: NDArray[Any],
    path: NDArray[Any],
    evidence: NDArray[Any] | None = None,
) -> None:
    """A PNG of :func:`draw_likeness`, and beside it :func:`draw_evidence` where there is one.

    Args:
        titles: of the song whose time goes up, and of the other.
    """
    from matplotlib.figure import Figure

    count = 1 if evidence is None else 2
    figure = Figure(figsize=(5.2 * count, 5.0), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    draw_likeness(panels[0], matrix, path)
    panels[0].set_title(describe_passage(path), fontsize=9)
    panels[0].set_ylabel(f"A: {titles[0]}")
    if evidence is not None:
        draw_evidence(panels[1], evidence, path)
        panels[1].set_title("what the network's log-odds rest on", fontsize=9)
    for axes in panels:
        axes.set_xlabel(f"B: {titles[1]}")
    figure.savefig(file, dpi=110)


def _mark_passage(axes: Axes, path: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Bars along both axes, and ticks where the passage begins and ends."""
    axes.grid(False)
    axes.set_xlim(-0.5, shape[1] - 0.5)
    axes.set_ylim(-0.5, shape[0] - 0.5)
    ends = (path[0], path[-1]) if len(path) else ()
    thick: dict[str, Any] = {"color": PASSAGE, "linewidth": 5, "solid_capstyle": "butt"}
    for axis, seconds, column in ((axes.xaxis, shape[1], 1), (axes.yaxis, shape[0], 0)):
        passage = [int(end[column]) for end in ends]
        if passage:
            along, across = [passage[0] - 0.5, passage[1] + 0.5], [-0.5, -0.5]
            axes.plot(*((along, across) if column else (across, along)), **thick)
        places = [*range(0, seconds, 60 if seconds > 90 else 20), *passage]
        # A round time that stands too near to an end of the passage would hide it.
        shown = sorted(
            place
            for place in set(places)
            if place in passage or all(abs(place - end) >= seconds // 9 for end in passage)
        )
        axis.set_ticks(shown, labels=[_clock(place) for place in shown])
        for label, place in zip(axis.get_ticklabels(), shown, strict=True):
            label.set_fontsize(7)
            if place in passage:
                label.set_color(PASSAGE)


def _clock(second: float) -> str:
    minutes, rest = divmod(int(second), 60)
    return f"{minutes}:{rest:02d}"
