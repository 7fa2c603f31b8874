"""The example's figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from common.results.records import Results


def figure1(results: Results) -> Figure:
    """Accuracy of each arm on digits, one point a seed."""
    from papers.example_paper.targets import drawing

    figure, axes = plt.subplots()
    for place, arm in enumerate(results.paper.experiments["regularisation"].arms):
        values = results.values("regularisation", arm, "accuracy", case="digits")
        drawing.points(axes, place, values, arm)
    axes.set_ylabel("accuracy")
    axes.legend()
    return figure


FIGURES = {"figure1": figure1}
