"""The example's figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from common.results.records import Results


def figure1(results: Results) -> Figure:
    """Accuracy of each arm, one point a seed."""
    from papers.example_paper.targets import drawing

    figure, axes = plt.subplots()
    for place, arm in enumerate(results.paper.experiments["digits"].arms):
        drawing.points(axes, place, results.values("digits", arm, "accuracy"), arm)
    axes.set_ylabel("accuracy")
    axes.legend()
    return figure


FIGURES = {"figure1": figure1}
