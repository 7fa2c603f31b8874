"""What the adaptation and the identity do where the truth is known."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from common.results.figures import COLOURS, FigureWithCaption
from common.results.lineage import list_runs
from common.results.records import Results
from common.results.tables import Measure, Table, grid, make_cell


def table_identity(results: Results) -> Table:
    """Cosine to the exact meta gradient, and what descent along it reaches."""
    measures = [
        Measure("cosine", "Cosine to the exact meta gradient"),
        Measure("least_cosine", "least along the descent"),
        Measure("start_meta_loss", "Meta loss at the start"),
        Measure("final_meta_loss", "after the last step"),
    ]
    cells = grid(results, "identity_approximation", measures, columns="measures")
    return Table(row_header="Meta gradient", cells=cells)


def table_adaptation(results: Results) -> Table:
    """Angles by optimiser: with and without adaptation, short and long shift."""
    study, name = results.paper.experiments["adaptation_effect"], "adaptation_effect"
    columns = {
        "sama_cosine": "SAMA",
        "sama_na_cosine": "SAMA-NA",
        "least_sama_cosine": "SAMA, largest of a run",
        "least_sama_na_cosine": "SAMA-NA, largest of a run",
        "long_sama_cosine": "SAMA, alpha 1",
        "long_sama_na_cosine": "SAMA-NA, alpha 1",
    }
    running = study.runs(results.scale)
    several = len({case for case, _ in running}) > 1
    cells = []
    for case, arm in running:
        title = study.arms[arm].title
        row = f"{study.cases[case].title_at(results.scale)}: {title}" if several else title
        runs = list_runs(results.records(name, arm, case))
        for metric, column in columns.items():
            # Rounding takes the cosine of equal directions above 1.
            cosines = np.minimum(results.values(name, arm, metric, case), 1.0)
            angles = np.degrees(np.arccos(cosines))
            cells.append(make_cell(results, row, column, angles, label="", unit="°", runs=runs))
    return Table(
        row_header="Optimiser",
        cells=cells,
        notes=[
            "Angle of a run's mean (or least) cosine over the steps compared; alpha is 0.01 unless"
            " said otherwise. For plain SGD and momentum D is one number, so that both are the"
            " same. What is left of SAMA's angle is where the mixed derivative is taken: at the"
            " weights after the step, not before it.",
        ],
    )


def figure_adaptation(results: Results) -> FigureWithCaption:
    """1 - cosine by optimiser, adapted or not, one point a seed."""
    study = results.paper.experiments["adaptation_effect"]
    running = study.runs(results.scale)
    cases = [case for case in study.cases if case in dict(running)]
    figure, axes = plt.subplots(1, len(cases), figsize=(7.6, 3.8), sharey=True, squeeze=False)
    for ax, case in zip(axes[0], cases, strict=True):
        for place, arm in enumerate(study.arms):
            if (case, arm) not in running:
                continue
            for metric, colour, name in (
                ("sama_cosine", COLOURS[0], "SAMA"),
                ("sama_na_cosine", COLOURS[1], "SAMA-NA"),
            ):
                apart = 1 - results.values("adaptation_effect", arm, metric, case)
                label = name if arm == "adam" else None
                ax.plot(
                    np.maximum(apart, 1e-6),
                    np.full(len(apart), place),
                    "o",
                    color=colour,
                    alpha=0.6,
                    label=label,
                )
        ax.set(xscale="log", title=study.cases[case].title_at(results.scale))
        ax.set_xlabel("1 - cosine to the exact hypergradient")
    axes[0, 0].set_yticks(range(len(study.arms)), [arm.title for arm in study.arms.values()])
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend()
    return FigureWithCaption(
        figure,
        "How far the direction of the hypergradient is from that through the optimiser's last step;"
        " a point is a seed. The adaptation takes most of it away, but for SGD, where D is one"
        " number.",
        "Strip plot on a logarithmic axis: for each optimiser SAMA lies left of SAMA-NA.",
    )
