"""The paper's figures, and how balance comes about under three bandwidth schedules."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from common.results.figures import COLOURS, LINES, FigureWithCaption
from common.results.records import Results
from papers.okgan.tasks.plane import mixture

ALL = "reverse KL, all samples (nats)"


def figure1(results: Results) -> FigureWithCaption:
    """Paths of discriminators along their two first principal components."""
    study = results.paper.experiments["cycling"]
    arms = [arm for _, arm in study.runs(results.scale)]
    figure, axes = plt.subplots(1, len(arms), figsize=(2.9 * len(arms), 3.1), squeeze=False)
    for ax, arm in zip(axes[0], arms, strict=True):
        record = results.first("cycling", arm)
        draw_path(ax, record.read_csv("path.csv").to_numpy())
        planarity = record.record.metrics["planarity"]
        ax.set_title(f"{study.arms[arm].title}\n{100 * planarity:.0f} % of variance shown")
    return FigureWithCaption(
        figure,
        "A discriminator's values on 500 real points along training, in the plane of their two"
        " first principal components, light at first and dark at last. A loop in a plane that"
        " explains nearly all variance is cycling.",
        "One path a discriminator; the network's turns in a smooth curve, the kernel's jitters.",
    )


def draw_path(ax: Axes, path: np.ndarray) -> None:
    """A polyline (T, 2) that darkens with time."""
    lines = np.stack([path[:-1], path[1:]], axis=1)
    ax.add_collection(
        LineCollection(list(lines), array=np.linspace(0.15, 1, len(lines)), cmap="Blues", lw=1.2)
    )
    ax.plot(*path[-1], "o", color=COLOURS[1], markersize=4)
    ax.autoscale()
    ax.set(xticks=[], yticks=[], xlabel="first component", ylabel="second")


def figure2(results: Results) -> FigureWithCaption:
    """Samples of OKGAN, of the GAN under the same schedule, and the training sets."""
    running = dict.fromkeys(
        case for case, _ in results.paper.experiments["plane"].runs(results.scale)
    )
    cases = [case for case in ("ring", "grid", "circle") if case in running]
    arms = {"okgan": "OKGAN", "gan": "GAN"}
    rows = ["training set", *arms.values()]
    figure, axes = plt.subplots(
        len(rows), len(cases), figsize=(2.6 * len(cases), 7.6), squeeze=False
    )
    for column, case in enumerate(cases):
        target = mixture(case, 0)  # type: ignore[arg-type]
        rng = np.random.default_rng(0)
        sets = [target.draw(rng)]
        for arm in arms:
            record = results.first("plane", arm, case)
            sets.append(record.read_csv("samples.csv").to_numpy())
        limit = 1.25 * float(np.abs(sets[0]).max())
        for row, points in enumerate(sets):
            ax = axes[row, column]
            ax.plot(*points.T, ".", color=COLOURS[0], alpha=0.15, markersize=2, rasterized=True)
            ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[])
            ax.set_aspect("equal")
            if not column:
                ax.set_ylabel(rows[row])
        axes[0, column].set_title(case)
    return FigureWithCaption(
        figure,
        "Training set and 2,500 samples of each generator, of the first seed.",
        "Panels of points; both generators cover all modes, in clouds wider than the modes.",
    )


def figure_balance(results: Results) -> FigureWithCaption:
    """Balance over modes along training, by the schedule of the kernel's bandwidth."""
    study = results.paper.experiments["bandwidth"]
    cases = list(dict.fromkeys(case for case, _ in study.runs(results.scale)))
    figure, axes = plt.subplots(1, len(cases), figsize=(4.4 * len(cases), 3.6), squeeze=False)
    for ax, case in zip(axes[0], cases, strict=True):
        arms = [arm for name, arm in study.runs(results.scale) if name == case]
        for place, arm in enumerate(arms):
            records = results.records("bandwidth", arm, case)
            if not records:
                continue
            runs = [record.read_csv("history.csv") for record in records]
            values = np.array([run["reverse_kl_all"] for run in runs])
            ax.plot(
                runs[0]["iteration"],
                values.mean(axis=0),
                color=COLOURS[place % len(COLOURS)],
                linestyle=LINES[place // len(COLOURS)],
                label=study.arms[arm].title,
            )
        ax.set(
            xlabel="iterations",
            ylabel=ALL,
            yscale="log",
            title=study.cases[case].title_at(results.scale),
        )
    axes[0, 0].legend()
    return FigureWithCaption(
        figure,
        "Mass balance over modes along training for fixed, linear and exponential bandwidths; means"
        " over seeds. A narrow kernel from the start locks in unequal masses; a broad one balances"
        " but never sharpens.",
        "Curves of reverse KL against iterations, one a schedule.",
    )


FIGURES = {"figure1": figure1, "figure2": figure2, "figure_balance": figure_balance}
