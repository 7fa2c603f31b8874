"""Figures of what the paper tells in words: the adaptation's effect, the weight of bad losses."""

from __future__ import annotations

from typing import Final

import matplotlib.pyplot as plt
import numpy as np

from common.errors import InputError
from common.results.figures import COLOURS, FigureWithCaption
from common.results.records import Results

#: Cases of digits by the share of random auxiliary labels.
SHARES: Final = {"none": 0.0, "half": 0.5, "all": 1.0}


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


def figure_auxiliary(results: Results) -> FigureWithCaption:
    """Mean weight against the share of random labels; on texts weight against loss."""
    figure, ax = plt.subplots(figsize=(5.2, 3.4))
    study = results.paper.experiments["auxiliary_reweighting"]
    running = study.runs(results.scale)
    on_digits = any((case, "sama") in running for case in SHARES)
    for number, arm in enumerate(("sama", "sama_na")):
        title, colour = study.arms[arm].title, COLOURS[number]
        if on_digits:
            points = [
                (share, value)
                for case, share in SHARES.items()
                if (case, arm) in running
                for value in results.values("auxiliary_reweighting", arm, "mean_weight", case)
            ]
            if points:
                ax.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.6, label=title)
            continue
        for case, style in (("trec6", "-"), ("agnews", "--")):
            curves = []
            for record in results.records("auxiliary_reweighting", arm, case):
                rows = record.read_csv("weights.csv")
                curves.append(rows["weight"].to_numpy())
                losses = rows["loss"].to_numpy()
            if curves:
                label = f"{study.cases[case].title_at(results.scale)}, {title}"
                ax.plot(losses, np.mean(curves, axis=0), style, color=colour, label=label)
    if not ax.lines:
        raise InputError("figure_auxiliary: no weights were learned; run auxiliary_reweighting")
    ax.axhline(1, color="0.6", linewidth=0.8)
    ax.set_ylabel("weight of the auxiliary loss" if not on_digits else "mean weight")
    ax.set_xlabel("share of random auxiliary labels" if on_digits else "loss of a masked word")
    ax.legend()
    return FigureWithCaption(
        figure,
        "The weight starts at 1 (line). On digits each point is a seed: the less the auxiliary"
        " labels say, the less their losses weigh."
        if on_digits
        else "The learned weight of a masked word's loss, mean over seeds; it starts at 1 (line).",
        "Mean weight against the share of random labels, falling from above 1 to near 0."
        if on_digits
        else "Curves of weight against loss for two sets of texts.",
    )


FIGURES = {"figure_adaptation": figure_adaptation, "figure_auxiliary": figure_auxiliary}
