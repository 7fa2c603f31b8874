"""Spectra along training, accuracy by depth, robustness, cost against accuracy."""

from __future__ import annotations

from typing import Final

import matplotlib.pyplot as plt
import numpy as np

from common.results.figures import FigureWithCaption, arm_styles
from common.results.records import Results

#: Methods whose spectra are shown as histograms, where they run.
SHOWN: Final = ("none", "so", "ojr_layers", "orthogonal_start")
#: What the first part of a case's name says.
ACTIVATIONS: Final = {"tanh": "tanh", "relu": "ReLU, gain 2", "maxmin": "MaxMin"}


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


def figure_histograms(results: Results) -> FigureWithCaption:
    """Histograms of singular values at several moments of training, 20 tanh layers."""
    study = results.paper.experiments["networks"]
    arms = [arm for case, arm in study.runs(results.scale) if case == "tanh_20" and arm in SHOWN]
    figure, axes = plt.subplots(
        1, len(arms), figsize=(2.6 * len(arms), 3.4), sharex=True, sharey=True, squeeze=False
    )
    for ax, arm in zip(axes[0], arms, strict=True):
        records = results.records("networks", arm, "tanh_20")
        values = np.stack([item.read_array("singular_values.npy") for item in records], axis=1)
        steps = records[0].read_csv("history.csv")["step"].to_numpy()
        moments = np.unique(np.linspace(0, len(steps) - 1, 4).round().astype(int))
        for place, moment in enumerate(moments):
            # The very small ones are rounding: they all go into the first bin.
            logarithms = np.log10(np.clip(values[moment].ravel(), 1e-8, None))
            shares, edges = np.histogram(logarithms, bins=np.linspace(-8, 2, 41))
            colour = plt.get_cmap("viridis")(0.9 * place / max(1, len(moments) - 1))
            ax.stairs(
                shares / shares.sum(), edges, color=colour, lw=1.5, label=f"step {steps[moment]}"
            )
        ax.axvline(0, color="0.6", lw=1)
        ax.set(title=study.arms[arm].title, xlabel="log10 of singular values")
    axes[0, 0].set(ylabel="share")
    axes[0, -1].legend()
    figure.tight_layout()
    return FigureWithCaption(
        figure,
        "Singular values of the map from the inputs to the last of 20 tanh layers at four moments"
        " of training, over test images and seeds; those below 1e-8 stand at the left edge. An"
        " isometry has all of them at the line.",
        "A panel a method with a histogram a moment; without a penalty they stay far to the left.",
    )


def figure_depth(results: Results) -> FigureWithCaption:
    """Accuracy against the number of layers, a panel for each activation."""
    styles = arm_styles(results.paper)
    study = results.paper.experiments["depth"]
    runs = study.runs(results.scale)
    kinds = list(dict.fromkeys(case.partition("_")[0] for case, _ in runs))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(1 + 3.4 * len(kinds), 3.9), sharey=True, squeeze=False
    )
    for ax, kind in zip(axes[0], kinds, strict=True):
        depths: list[int] = []
        for arm, body in study.arms.items():
            cases = [case for case, other in runs if other == arm and case.startswith(kind)]
            depths = [int(case.rpartition("_")[2]) for case in cases] or depths
            found = [results.values("depth", arm, "accuracy_pct", case) for case in cases]
            if found:
                means = [np.mean(one) for one in found]
                spreads = [np.std(one, ddof=1) if len(one) > 1 else 0.0 for one in found]
                ax.errorbar(depths, means, spreads, label=body.title, **styles[arm])
        ax.axhline(10, color="0.6", lw=1)
        ax.set(xlabel="layers", xscale="log", title=ACTIVATIONS[kind])
        ax.set_xticks(depths, [str(depth) for depth in depths], fontsize="x-small")
        ax.minorticks_off()
    axes[0, 0].set(ylabel="test accuracy (%)")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="lower center", ncols=3, fontsize="small")
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    others = ""
    if any(arm == "so" for _, arm in runs):
        others = " unless it is said to see all, soft orthogonality all of them"
    return FigureWithCaption(
        figure,
        "Accuracy by depth after 300 steps, mean and standard deviation over seeds; the line is"
        f" chance. OJR sees four layers at each step{others}.",
        "A panel an activation, a curve a method; without a penalty tanh falls to chance at 20"
        " layers.",
    )


def figure_robustness(results: Results) -> FigureWithCaption:
    """Accuracy against the size of noise and of attacks, five layers."""
    styles = arm_styles(results.paper)
    study = results.paper.experiments["networks"]
    runs = [run for run in study.runs(results.scale) if run[0] in ("tanh_5", "fashion_cpu")]
    cases = list(dict.fromkeys(case for case, _ in runs))
    kinds = {
        "noise": "deviation of noise",
        "fgsm": "size of FGSM",
        "fgm": "L2 radius of FGM",
        "pgd": "L2 radius of PGD",
    }
    figure, axes = plt.subplots(
        len(cases), len(kinds), figsize=(12.5, 0.4 + 3 * len(cases)), sharey="row", squeeze=False
    )
    for row, of_row in zip(axes, cases, strict=True):
        for ax, (kind, label) in zip(row, kinds.items(), strict=True):
            for arm in [arm for case, arm in runs if case == of_row]:
                records = [item.record.metrics for item in results.records("networks", arm, of_row)]
                sizes = sorted(
                    float(name.split("_")[1]) for name in records[0] if name.startswith(f"{kind}_")
                )
                names = ["accuracy_pct", *(f"{kind}_{size:g}_accuracy_pct" for size in sizes)]
                means = [np.mean([metrics[name] for metrics in records]) for name in names]
                ax.plot([0, *sizes], means, label=study.arms[arm].title, **styles[arm])
            ax.set(xlabel=label)
        row[0].set(ylabel="test accuracy (%)")
        row[1].set(title=study.cases[of_row].title_at(results.scale))
    axes[0, 0].legend()
    figure.tight_layout()
    return FigureWithCaption(
        figure,
        "Accuracy of five tanh layers under noise and under attacks of a size in each input or"
        " within an L2 radius, in units of the inputs' standard deviation; means over seeds.",
        "Four panels of falling curves a data set, one curve a method.",
    )


def figure_cost(results: Results) -> FigureWithCaption:
    """Accuracy against a training's time over that without a penalty, by seed."""
    styles = arm_styles(results.paper)
    study = results.paper.experiments["networks"]
    runs = study.runs(results.scale)
    cases = [case for case in ("tanh_20", "tanh_5") if (case, "none") in runs]
    figure, axes = plt.subplots(
        1, len(cases), figsize=(1 + 4.2 * len(cases), 3.8), sharex=True, squeeze=False
    )
    for ax, of_panel in zip(axes[0], cases, strict=True):
        plain = results.values("networks", "none", "train_s", of_panel)
        for arm in [arm for case, arm in runs if case == of_panel]:
            ratios = results.values("networks", arm, "train_s", of_panel) / plain
            accuracies = results.values("networks", arm, "accuracy_pct", of_panel)
            style = {**styles[arm], "linestyle": "none"}
            ax.plot(ratios, accuracies, alpha=0.4, **style)
            ax.plot(
                ratios.mean(),
                accuracies.mean(),
                markersize=10,
                label=study.arms[arm].title,
                **style,
            )
        ax.set(xlabel="time over that without a penalty")
        ax.set(title=study.cases[of_panel].title_at(results.scale))
    axes[0, 0].set(ylabel="test accuracy (%)")
    axes[0, -1].legend(fontsize="x-small")
    figure.tight_layout()
    return FigureWithCaption(
        figure,
        "What a method costs and what it buys: test accuracy against the processor time of a"
        " training over one without a penalty of the same seed; large marks are means, pale ones"
        " seeds.",
        "Two scatter plots, a colour a method.",
    )


FIGURES = {
    "figure_spectrum": figure_spectrum,
    "figure_histograms": figure_histograms,
    "figure_depth": figure_depth,
    "figure_robustness": figure_robustness,
    "figure_cost": figure_cost,
}
