"""The paper's figures, and what rank, damping and Lemma 1 look like in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.results.figures import COLOURS, LINES, MARKERS, FigureWithCaption
from common.results.records import Results
from papers.logra.targets.drawing import add_on_layer, system
from papers.logra.targets.tables import running

#: Of every method in all figures; those of the paper have a colour each.
STYLES: Final[dict[str, dict[str, Any]]] = {
    arm: {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINES[place // len(COLOURS)],
    }
    for place, arm in enumerate(
        (
            "ekfac",
            "logra_pca",
            "logra_random",
            "gradient_dot",
            "trak",
            "representation",
            "random",
            "relatif",
            "no_hessian",
        )
    )
}
#: What becomes of the images whose most valuable samples are removed.
BRITTLE: Final = ("share of images misclassified", "mean loss of the images")
#: What LoGra with each kind of projection is drawn as.
DRAWN_AS: Final = {
    "random": "logra_random",
    "orthonormal": "no_hessian",
    "pca": "logra_pca",
    "ekfac": "ekfac",
}


def figure1(results: Results) -> FigureWithCaption:
    """The system, with the measured sizes of what it keeps."""
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    stored = float(
        results.values("efficiency", "logra_16_256", "storage_bytes", "transformer").mean()
    )
    system(ax, f"{stored / 1e6:.2g} MB")
    return FigureWithCaption(
        figure,
        "Logging runs once over the training data; each query then takes one matrix product with"
        " what was logged. The size is that of Table 1.",
        "Boxes for training data, model, log, Hessian, queries and scores, joined by arrows.",
    )


def figure2(results: Results) -> FigureWithCaption:
    """A linear layer's gradient and its two projections, with the measured sizes of both ways."""
    figure, ax = plt.subplots(figsize=(6.4, 3.2))
    sizes = {
        way: float(results.values("projection_cost", "projections", f"{way}_bytes").mean())
        for way in ("logra", "dense")
    }
    add_on_layer(ax)
    return FigureWithCaption(
        figure,
        "The projected gradient is made of projected inputs and projected output gradients; the"
        " whole one, dashed, is never formed. Both matrices of the layer measured here take"
        f" {sizes['logra'] / 1e3:.0f} kB, a dense matrix of equal rank {sizes['dense'] / 1e6:.1f}"
        " MB.",
        "A layer between input and output with a branch through P_i and P_o to a small gradient.",
    )


def figure4a(results: Results) -> FigureWithCaption:
    """Share of images flipped, and perplexity, against the number of samples removed."""
    sets, corpora = running(results, "brittleness"), running(results, "language_brittleness")
    panels = 2 * len(sets) + len(corpora)
    columns = min(panels, 4)
    rows = -(-panels // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.2 * rows + 0.2))
    axes = grid.flat[:panels]
    for ax in grid.flat[panels:]:
        ax.set_visible(False)
    images, texts = axes[: 2 * len(sets)].reshape(-1, 2), axes[2 * len(sets) :]
    for case, pair in zip(sets, images, strict=True):
        for ax, column, label in zip(pair, ("flipped", "loss"), BRITTLE, strict=True):
            curves(ax, results, "brittleness", case, column)
            ax.set_ylabel(label)
    for ax, case in zip(texts, corpora, strict=True):
        curves(ax, results, "language_brittleness", case, "perplexity")
        ax.set_ylabel("mean perplexity of the queries")
    for ax in axes:
        ax.set_xlabel("training samples removed")
    add_legend(figure, axes)
    return FigureWithCaption(
        figure,
        "Each image's (or all queries') most valuable samples are removed and models retrained."
        " Lines are means over attributed models, bars one standard deviation.",
        "Curves that rise with the number removed, fastest for influence functions, flat for"
        " random removal.",
    )


def add_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend below all axes, each label once."""
    handles = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)


def curves(ax: Axes, results: Results, experiment: str, case: str, column: str) -> None:
    """One line a method from its runs' curves."""
    for arm in running(results, experiment)[case]:
        found = [item.read_csv("curve.csv") for item in results.records(experiment, arm, case)]
        values = np.stack([frame[column] for frame in found])
        ax.errorbar(
            found[0]["removed"],
            values.mean(0),
            values.std(0, ddof=1) if len(values) > 1 else None,
            label=results.paper.experiments[experiment].arms[arm].title,
            capsize=2,
            **STYLES[arm],
        )
    ax.set_title(results.paper.experiments[experiment].cases[case].title_at(results.scale))


def figure4b(results: Results) -> FigureWithCaption:
    """Datamodeling score of every method, a point for each attributed model."""
    panels = [
        (experiment, metric, case, arms)
        for experiment, metric in (
            ("datamodeling", "lds"),
            ("language_datamodeling", "lds_by_loss"),
        )
        for case, arms in running(results, experiment).items()
    ]
    width = 1.2 + 4.2 * len(panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 3.6), squeeze=False)
    for ax, (experiment, metric, case, arms) in zip(axes[0], panels, strict=True):
        names = results.paper.experiments[experiment].arms
        for place, arm in enumerate(arms):
            values = results.values(experiment, arm, metric, case)
            colour = STYLES[arm]["color"]
            ax.plot(values, np.full(len(values), place), "o", color=colour, alpha=0.55)
            ax.plot(values.mean(), place, "|", color=colour, markersize=18, markeredgewidth=2)
        ax.set_yticks(range(len(arms)), [names[arm].title for arm in arms])
        ax.invert_yaxis()
        ax.axvline(0, color="0.6", linewidth=0.8)
        ax.set(
            title=results.paper.experiments[experiment].cases[case].title_at(results.scale),
            xlabel="linear datamodeling score",
        )
    return FigureWithCaption(
        figure,
        "Points are attributed models, bars their mean. The score correlates summed scores with"
        " margins (of sequences, losses) of models retrained on half of the data.",
        "Strip plot: EKFAC furthest right, LoGra close to it, then the baselines, random at 0.",
    )


def figure_sensitivity(results: Results) -> FigureWithCaption:
    """Datamodeling score by rank and by damping, and the share of the trace kept."""
    study = results.paper.experiments["sensitivity"]
    figure, axes = plt.subplots(1, 4, figsize=(13.6, 3.4))
    panels = (
        ("ranks", "lds_rank_{:g}", "datamodeling score", "rank", 2),
        ("ranks", "ekfac_correlation_rank_{:g}", "correlation with EKFAC's scores", "rank", 2),
        ("ranks", "trace_share_rank_{:g}", "share of H's trace kept", "rank", 2),
        ("dampings", "lds_damping_{:g}", "datamodeling score", "relative damping", 10),
    )
    for ax, (setting, metric, label, across, base) in zip(axes, panels, strict=True):
        for arm, body in study.arms.items():
            raw = results.paper.settings("sensitivity", "images", arm, results.scale)
            xs = [float(value) for value in raw.get(setting, [])]
            if not xs or ("trace" in metric and arm == "random"):
                continue  # the published random matrices are not of length 1: no share
            values = np.stack(
                [results.values("sensitivity", arm, metric.format(value)) for value in xs]
            )
            deviation = values.std(1, ddof=1) if values.shape[1] > 1 else None
            ax.errorbar(
                xs, values.mean(1), deviation, label=body.title, capsize=2, **STYLES[DRAWN_AS[arm]]
            )
        ax.set_xscale("log", base=base)
        ax.set(xlabel=across, ylabel=label)
    add_legend(figure, axes)
    return FigureWithCaption(
        figure,
        "The score rises with the rank; PCA keeps more of H than random directions of equal rank."
        " Damping is relative to each layer's mean eigenvalue; the paper uses 0.1.",
        "Four panels of curves: three by rank, one by damping.",
    )


def figure_spectrum(results: Results) -> FigureWithCaption:
    """Eigenvalues of the last layer's H and the weights that damping gives its directions."""
    frame = results.first("spectrum", "head").read_csv("spectrum.csv")
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.2))
    for damping, part in frame.groupby("damping"):
        right.plot(part["direction"], part["weight"], label=f"{damping:g}")
    left.semilogy(part["direction"], part["eigenvalue"])
    left.set(xlabel="direction", ylabel="eigenvalue")
    right.set(xlabel="direction", ylabel="weight λᵢ / (λᵢ + λ)")
    right.legend(title="relative damping")
    return FigureWithCaption(
        figure,
        "Damping drops directions of small eigenvalues softly, a projection drops them hard.",
        "A falling spectrum, and S-shaped weights that fall earlier for more damping.",
    )


FIGURES = {
    "figure1": figure1,
    "figure2": figure2,
    "figure4a": figure4a,
    "figure4b": figure4b,
    "figure_sensitivity": figure_sensitivity,
    "figure_spectrum": figure_spectrum,
}
