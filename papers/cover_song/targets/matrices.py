"""Cross-similarity matrices of a cover and of another pair."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from common.results.figures import FigureWithCaption
from common.results.records import Results

EXPERIMENT, ARM = "matrices", "shown"


def figure_matrices(results: Results) -> FigureWithCaption:
    """The median pair of each kind by alignment; the path found, and what the network sees."""
    case = results.paper.experiments[EXPERIMENT].runs(results.scale)[0][0]
    stored = results.first(EXPERIMENT, ARM, case)
    kept = {name: np.array(rows) for name, rows in stored.read_json("matrices.json").items()}
    figure, grid = plt.subplots(2, 2, figsize=(6, 6), sharex=True, sharey=True)
    for row, (kind, title) in enumerate((("cover", "covers"), ("other", "different works"))):
        plain, seen = grid[row]
        plain.imshow(kept[f"{kind}_matrix"], cmap="gray", origin="lower")
        path = kept[f"{kind}_path"]
        plain.plot(path[:, 1], path[:, 0], color="#D55E00", linewidth=1.2)
        plain.set_ylabel(f"{title}\nsecond of one song")
        seen.imshow(kept[f"{kind}_evidence"], cmap="RdBu", origin="lower", vmin=-1, vmax=1)
        for axes in (plain, seen):
            axes.grid(False)
    grid[0, 0].set_title("alike, aligned")
    grid[0, 1].set_title("evidence")
    for axes in grid[1]:
        axes.set_xlabel("second of the other song")
    figure.tight_layout()
    return FigureWithCaption(
        figure,
        "Left: standardised similarity, light is alike, with the passage that Qmax aligns. Right:"
        " gradient times input of the network's log-odds over its largest, blue speaks for a cover,"
        " red against one. Of each kind the pair with the median"
        " length of alignment, first seed.",
        "A pair of covers with a diagonal stripe and a pair of different works without one",
    )
