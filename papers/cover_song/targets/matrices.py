"""Cross-similarity matrices of a cover and of another pair: where do they match?"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from common.results.figures import FigureWithCaption
from common.results.records import Results
from papers.cover_song.drawings import describe_passage, draw_evidence, draw_likeness

EXPERIMENT, ARM = "matrices", "shown"


def figure_matrices(results: Results) -> FigureWithCaption:
    """The median pair of each kind by alignment; the path found, and what the network sees."""
    case = results.paper.experiments[EXPERIMENT].runs(results.scale)[0][0]
    stored = results.first(EXPERIMENT, ARM, case)
    kept = {name: np.array(rows) for name, rows in stored.read_json("matrices.json").items()}
    figure, grid = plt.subplots(2, 2, figsize=(8, 6.6))
    for row, (kind, title) in enumerate((("cover", "Covers"), ("other", "Different works"))):
        plain, seen = grid[row]
        path = kept[f"{kind}_path"].reshape(-1, 2)
        for axes, image, (low, high) in (
            (plain, draw_likeness(plain, kept[f"{kind}_matrix"], path), ("far", "alike")),
            (
                seen,
                draw_evidence(seen, kept[f"{kind}_evidence"], path),
                ("against", "for a cover"),
            ),
        ):
            bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
            bar.set_ticks(list(image.get_clim()), labels=[low, high], fontsize=7)
            axes.set_xlabel("time in song B")
        plain.set_ylabel("time in song A")
        plain.set_title(f"{title}: {describe_passage(path)}", fontsize=8.5)
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
