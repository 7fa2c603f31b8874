"""Spectra along training, accuracy by depth, robustness."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from common.results.figures import FigureWithCaption, arm_styles
from common.results.records import Results


def figure_spectrum(results: Results) -> FigureWithCaption:
    """Mean singular value along training, and where smallest and largest lie at the end."""
    styles = arm_styles(results.paper)
    study = results.paper.experiments["networks"]
    runs = [(case, arm) for case, arm in study.runs(results.scale) if case == "tanh_20"]
    figure, (along, last) = plt.subplots(1, 2, figsize=(9.6, 3.8), width_ratios=(3, 2))
    for place, (case, arm) in enumerate(runs):
        histories = [
            item.read_csv("history.csv") for item in results.records("networks", arm, case)
        ]
        values = np.stack([one["mean_singular_value"].to_numpy() for one in histories])
        along.plot(histories[0]["step"], np.exp(np.log(values).mean(0)), **styles[arm])
        ends = [
            float(np.mean([one[f"{kind}_singular_value"].iloc[-1] for one in histories]))
            for kind in ("smallest", "mean", "largest")
        ]
        last.plot(ends[::2], [place, place], color=styles[arm]["color"], lw=3, alpha=0.6)
        last.plot(ends[1], place, "o", color=styles[arm]["color"])
    along.axhline(1, color="0.6", lw=1)
    along.set(xlabel="steps", ylabel="mean singular value", yscale="log")
    last.axvline(1, color="0.6", lw=1)
    last.set(xscale="log", xlabel="smallest, mean and largest at the end")
    last.set_yticks(range(len(runs)), [study.arms[arm].title for _, arm in runs])
    last.invert_yaxis()
    figure.tight_layout()
    return FigureWithCaption(
        figure,
        "Singular values of the map from the inputs to the last of 20 tanh layers, means over test"
        " images and seeds. A network that trains has lifted them by orders of magnitude.",
        "Curves by method on the left, ranges on the right; the line at 1 is an isometry.",
    )


def figure_depth(results: Results) -> FigureWithCaption:
    """Accuracy against the number of layers."""
    styles = arm_styles(results.paper)
    study = results.paper.experiments["depth"]
    depths = {
        case: int(case.rpartition("_")[2])
        for case in dict.fromkeys(case for case, _ in study.runs(results.scale))
    }
    figure, ax = plt.subplots(figsize=(5.4, 3.6))
    for arm, body in study.arms.items():
        means, spreads = [], []
        for case in depths:
            values = [
                item.record.metrics["accuracy_pct"] for item in results.records("depth", arm, case)
            ]
            means.append(np.mean(values))
            spreads.append(np.std(values))
        ax.errorbar(list(depths.values()), means, spreads, label=body.title, **styles[arm])
    ax.axhline(10, color="0.6", lw=1)
    ax.set(xlabel="layers", ylabel="test accuracy (%)", xscale="log")
    ax.set_xticks(list(depths.values()), [str(depth) for depth in depths.values()])
    ax.minorticks_off()
    ax.legend()
    return FigureWithCaption(
        figure,
        "Accuracy by depth after 300 steps, mean and standard deviation over seeds; the line is"
        " chance. Soft orthogonality sees every layer at each step, OJR four of them.",
        "One curve a method; without a penalty it falls to chance at 20 layers.",
    )


def figure_robustness(results: Results) -> FigureWithCaption:
    """Accuracy against the size of noise and of attacks, five layers."""
    styles = arm_styles(results.paper)
    study = results.paper.experiments["networks"]
    runs = [(case, arm) for case, arm in study.runs(results.scale) if case == "tanh_5"]
    kinds = {"noise": "deviation of noise", "fgsm": "length of FGSM", "pgd": "length of PGD"}
    figure, axes = plt.subplots(1, len(kinds), figsize=(10, 3.4), sharey=True)
    for ax, (kind, label) in zip(axes, kinds.items(), strict=True):
        for case, arm in runs:
            records = [item.record.metrics for item in results.records("networks", arm, case)]
            sizes = sorted(
                float(name.split("_")[1]) for name in records[0] if name.startswith(f"{kind}_")
            )
            names = ["accuracy_pct", *(f"{kind}_{size:g}_accuracy_pct" for size in sizes)]
            means = [np.mean([metrics[name] for metrics in records]) for name in names]
            ax.plot([0, *sizes], means, label=study.arms[arm].title, **styles[arm])
        ax.set(xlabel=label)
    axes[0].set(ylabel="test accuracy (%)")
    axes[0].legend()
    return FigureWithCaption(
        figure,
        "Accuracy of five tanh layers under noise and under attacks of a Euclidean length, in units"
        " of the inputs' standard deviation; means over seeds.",
        "Three panels of falling curves, one curve a method.",
    )


FIGURES = {
    "figure_spectrum": figure_spectrum,
    "figure_depth": figure_depth,
    "figure_robustness": figure_robustness,
}
