"""Cross-similarity matrices of a cover and of another pair: where do they match?"""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from common.results.figures import COLOURS, FigureWithCaption
from common.results.records import Results

EXPERIMENT, ARM = "matrices", "shown"
#: Of the aligned passage, on the matrix and on both axes.
PASSAGE: Final = COLOURS[1]
#: Share of cells whose evidence is shown unsaturated: a few cells have ten times that of the rest.
SHOWN: Final = 0.995


def figure_matrices(results: Results) -> FigureWithCaption:
    """The median pair of each kind by alignment; the path found, and what the network sees."""
    case = results.paper.experiments[EXPERIMENT].runs(results.scale)[0][0]
    stored = results.first(EXPERIMENT, ARM, case)
    kept = {name: np.array(rows) for name, rows in stored.read_json("matrices.json").items()}
    figure, grid = plt.subplots(2, 2, figsize=(8, 6.6))
    for row, (kind, title) in enumerate((("cover", "Covers"), ("other", "Different works"))):
        plain, seen = grid[row]
        path, evidence = kept[f"{kind}_path"], kept[f"{kind}_evidence"]
        alike = plain.imshow(kept[f"{kind}_matrix"], cmap="gray", origin="lower")
        most = max(float(np.quantile(np.abs(evidence), SHOWN)), 1e-9)
        shares = seen.imshow(evidence, cmap="RdBu", origin="lower", vmin=-most, vmax=most)
        for axes, image, (low, high) in (
            (plain, alike, ("far", "alike")),
            (seen, shares, ("against", "for a cover")),
        ):
            axes.grid(False)
            bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
            bar.set_ticks(list(image.get_clim()), labels=[low, high], fontsize=7)
            _mark_passage(axes, path, len(evidence))
            axes.set_xlabel("time in song B")
        plain.plot(path[:, 1], path[:, 0], color=PASSAGE, linewidth=1.2)
        plain.set_ylabel("time in song A")
        plain.set_title(f"{title}: {_told(path)}", fontsize=8.5)
        seen.set_title("What the network's log-odds rest on", fontsize=8.5)
    return FigureWithCaption(
        figure,
        "Left: how alike each second of song A is to each of song B; the line is the passage that"
        " Qmax aligns. The same passage is marked on both time axes, left and right, with its"
        " beginning and end. Right: gradient times input of the network's log-odds, blue for a"
        " cover, red against one; its strongest 0.5 % of cells are shown alike. Of each kind the"
        " pair with the median length of alignment, first seed.",
        "A pair of covers with a diagonal stripe and a pair of different works without one",
    )


def _mark_passage(axes: Axes, path: NDArray[Any], seconds: int) -> None:
    """Bars along both axes, and ticks where the passage begins and ends."""
    axes.set_xlim(-0.5, seconds - 0.5)
    axes.set_ylim(-0.5, seconds - 0.5)
    if not len(path):
        return
    (a, b), (c, d) = path[0], path[-1]
    thick: dict[str, Any] = {"color": PASSAGE, "linewidth": 5, "solid_capstyle": "butt"}
    axes.plot([b - 0.5, d + 0.5], [-0.5, -0.5], **thick)
    axes.plot([-0.5, -0.5], [a - 0.5, c + 0.5], **thick)
    for axis, ends in ((axes.xaxis, (b, d)), (axes.yaxis, (a, c))):
        places = [*range(0, seconds, 60 if seconds > 90 else 20), *map(int, ends)]
        # A round time that stands too near to an end of the passage would hide it.
        near = [min(abs(place - end) for end in ends) for place in places]
        shown = sorted(
            {place for place, gap in zip(places, near, strict=True) if not 0 < gap < seconds // 9}
        )
        axis.set_ticks(shown, labels=[_clock(place) for place in shown])
        for label, place in zip(axis.get_ticklabels(), shown, strict=True):
            label.set_fontsize(7)
            if place in ends:
                label.set_color(PASSAGE)


def _told(path: NDArray[Any]) -> str:
    """As ``A 0:02-0:31 with B 0:10-0:40``."""
    if not len(path):
        return "nothing aligns"
    (a, b), (c, d) = path[0], path[-1]
    return f"A {_clock(a)}-{_clock(c)} with B {_clock(b)}-{_clock(d)}"


def _clock(second: float) -> str:
    minutes, rest = divmod(int(second), 60)
    return f"{minutes}:{rest:02d}"
