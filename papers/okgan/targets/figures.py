"""The paper's figures, and how balance comes about under three bandwidth schedules."""

from __future__ import annotations

from typing import Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from common.results.figures import COLOURS, FigureWithCaption
from common.results.records import Results, StoredRecord
from papers.okgan.tasks.plane import mixture

#: Images in a row.
SHOWN = 12
#: Methods whose bandwidths are studied, by their names in settings.
METHODS: Final = {"okgan": "OKGAN", "drifting": "Drifting"}
ALL = "reverse KL, all samples (nats)"


def figure1(results: Results) -> FigureWithCaption:
    """Paths of discriminators along their two first principal components."""
    study = results.paper.experiments["cycling"]
    runs = study.runs(results.scale)
    figure, axes = plt.subplots(1, len(runs), figsize=(2.9 * len(runs), 3.3), squeeze=False)
    for ax, (case, arm) in zip(axes[0], runs, strict=True):
        record = results.first("cycling", arm, case)
        draw_path(ax, record.read_csv("path.csv").to_numpy())
        planarity = record.record.metrics["planarity"]
        where = "" if case == "alike" else "\nas the authors drew it"
        ax.set_title(
            f"{study.arms[arm].title}{where}\n{100 * planarity:.0f} % of variance shown", fontsize=9
        )
    return FigureWithCaption(
        figure,
        "A discriminator's values on 500 real points along training, in the plane of their two"
        " first principal components, light at first and dark at last. A loop in a plane that"
        " explains nearly all variance is cycling.",
        "One path a discriminator: the authors' network turns in a loop, the kernel's jitters.",
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
    """Samples of OKGAN, of the GAN, and the training sets."""
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
    runs = study.runs(results.scale)
    cases = list(dict.fromkeys(case for case, _ in runs))
    methods = list(dict.fromkeys(_method(results, case, arm) for case, arm in runs))
    figure, axes = plt.subplots(
        len(methods),
        len(cases),
        figsize=(4.4 * len(cases), 3.4 * len(methods)),
        sharey="col",
        squeeze=False,
    )
    for row, method in zip(axes, methods, strict=True):
        for ax, case in zip(row, cases, strict=True):
            arms = [
                arm for name, arm in runs if name == case and _method(results, case, arm) == method
            ]
            for place, arm in enumerate(arms):
                records = results.records("bandwidth", arm, case)
                if not records:
                    continue
                # By iteration, for a run that has diverged has fewer.
                rows = pd.concat([record.read_csv("history.csv") for record in records])
                means = rows.groupby("iteration")["reverse_kl_all"].mean()
                ax.plot(means.index, means, color=COLOURS[place], label=study.arms[arm].title)
            ax.set(
                xlabel="iterations",
                ylabel=ALL,
                yscale="log",
                title=f"{study.cases[case].title_at(results.scale)}, {METHODS[method]}",
            )
        row[0].legend()
    return FigureWithCaption(
        figure,
        "Mass balance over modes along training for fixed, linear and exponential bandwidths; means"
        " over seeds. Lower is more even.",
        "Curves of reverse KL against iterations, one a schedule, a row of panels a method.",
    )


def _method(results: Results, case: str, arm: str) -> str:
    return str(results.paper.settings("bandwidth", case, arm, results.scale)["method"])


def figure_training(results: Results) -> FigureWithCaption:
    """The ring along training, by OKGAN and by the GAN: an animation."""
    study = results.paper.experiments["plane"]
    arms = [arm for arm in ("okgan", "gan") if ("ring", arm) in study.runs(results.scale)]
    records = [results.first("plane", arm, "ring") for arm in arms]
    count = min(len(frames_of(record)) for record in records)
    # Without kept frames, as at scale paper, the last samples stand alone.
    numbers: list[int | None] = list(range(count)) or [None]
    drawn = []
    for number in numbers:
        figure, axes = plt.subplots(1, len(arms), figsize=(2.8 * len(arms), 3.6), squeeze=False)
        for ax, arm, record in zip(axes[0], arms, records, strict=True):
            name = "samples.csv" if number is None else frames_of(record)[number]
            ax.plot(*mixture("ring", 0).means.T, "+", color=COLOURS[1], markersize=9)
            points = record.read_csv(name).to_numpy()
            ax.plot(*points.T, ".", color=COLOURS[0], alpha=0.4, markersize=3, rasterized=True)
            ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[], yticks=[], aspect="equal")
            rows = record.read_csv("history.csv")
            at = int(rows["iteration"].iloc[-1 if number is None else number])
            ax.set_title(f"{study.arms[arm].title}\niteration {at}", fontsize=9)
        drawn.append(figure)
    return FigureWithCaption(
        drawn[-1],
        "Samples of the ring along training, of the first seed; crosses are the modes.",
        "Two panels of points that gather at eight crosses on a circle.",
        tuple(drawn[:-1]),
    )


def frames_of(record: StoredRecord) -> list[str]:
    """Names of the artifacts that hold samples along training, in order."""
    return sorted(name for name in record.record.artifacts if name.startswith("frames/"))


def figure_images(results: Results) -> FigureWithCaption:
    """Rows of real images and of each method's, by case."""
    study = results.paper.experiments["images"]
    runs = [
        (case, arm)
        for case, arm in study.runs(results.scale)
        if results.records("images", arm, case)
    ]
    rows = []
    for case in dict.fromkeys(case for case, _ in runs):
        title = study.cases[case].title_at(results.scale)
        arms = [arm for name, arm in runs if name == case]
        first = results.first("images", arms[0], case)
        rows.append((f"{title}: real", first.read_array("real.npy")))
        for arm in arms:
            record = results.first("images", arm, case)
            rows.append((study.arms[arm].title, record.read_array(frames_of(record)[-1])))
    figure, axes = plt.subplots(len(rows), 1, figsize=(6.4, 0.62 * len(rows)), squeeze=False)
    for ax, (label, images) in zip(axes[:, 0], rows, strict=True):
        ax.imshow(strip_of(images, SHOWN), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return FigureWithCaption(
        figure,
        "Images as generated, of the first seed, not chosen: the first twelve of its last samples.",
        "Rows of small grey images, each method's below real ones.",
    )


def strip_of(images: np.ndarray, count: int) -> np.ndarray:
    """(n, h, w, c) -> (h, about count w) or with 3 colours: the first ones side by side."""
    count = max(1, round(count * images.shape[1] / images.shape[2]))
    joined = np.concatenate(list(images[:count]), axis=1)
    return joined[..., 0] if joined.shape[-1] == 1 else joined


FIGURES = {
    "figure1": figure1,
    "figure2": figure2,
    "figure_balance": figure_balance,
    "figure_training": figure_training,
    "figure_images": figure_images,
}
