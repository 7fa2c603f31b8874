"""Figure 2: the passes of one meta gradient, as two processes went through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from common.results.figures import COLOURS, FigureWithCaption
from common.results.records import Results
from common.results.tables import Measure, Table, grid

STUDY, CASE = "meta_step_timeline", "several_buckets"
#: What the passes of SAMA are.
PASSES = ("1: meta loss at θ", "2: base loss at θ + εv", "3: base loss at θ − εv")
HATCH = {"forward": "", "backward": "///"}


def figure2(results: Results) -> FigureWithCaption:
    """Bars of passes and all-reduces over time, a pair of lanes for each process."""
    processes = results.first(STUDY, "sama", CASE).read_json("timeline.json")
    figure, ax = plt.subplots(figsize=(7.2, 0.9 * len(processes) + 1.6))
    lanes = []
    for rank, events in enumerate(processes):
        top = 2.0 * (len(processes) - rank)
        _draw_passes(ax, events, top)
        for what, start, end in events:
            if what == "sent":
                ax.broken_barh(
                    [(1e3 * start, 1e3 * (end - start))],
                    (top - 1.1, 0.6),
                    facecolors=COLOURS[6],
                    alpha=0.6,
                    edgecolor="white",
                )
        lanes += [(top, f"process {rank}"), (top - 0.8, "all-reduce")]
    ax.set_yticks([place for place, _ in lanes], [name for _, name in lanes])
    ax.set(xlabel="ms since the meta step began")
    for number, title in enumerate(PASSES):
        ax.bar(0, 0, color=COLOURS[number], label=title)
    ax.bar(0, 0, color=COLOURS[4], label="manual: v = D d, ε, shift of θ")
    ax.bar(0, 0, color="white", edgecolor="0.3", hatch=HATCH["backward"], label="backward")
    ax.bar(0, 0, color=COLOURS[6], alpha=0.6, label="∇λ is sent")
    figure.legend(loc="outside lower center", ncols=3)
    return FigureWithCaption(
        figure,
        "One meta gradient of SAMA in two processes, as measured on a CPU, the shortest of several."
        " The first two backward passes send nothing; in the third each bucket of the meta"
        " network's gradient is sent as soon as it is complete. The bars are wall time and"
        " so hold waiting for a core.",
        "Two lanes of bars in time: three pairs of forward and backward passes, and all-reduces"
        " that begin within the last pass and end after it.",
    )


def _draw_passes(ax: Axes, events: Sequence[Any], top: float) -> None:
    number, ended = -1, 0.0
    for what, start, end in events:
        if what not in HATCH:
            continue
        if what == "forward":
            number += 1
            if number == 1:  # between the first backward pass and the second forward one
                bar = [(1e3 * ended, 1e3 * (start - ended))]
                ax.broken_barh(bar, (top - 0.3, 0.6), facecolors=COLOURS[4])
        ended = end
        ax.broken_barh(
            [(1e3 * start, 1e3 * (end - start))],
            (top - 0.3, 0.6),
            facecolors=COLOURS[number],
            edgecolor="white",
            hatch=HATCH[what],
        )


def table_traffic(results: Results) -> Table:
    """Collectives and bytes of one meta step of a process."""
    measures = [
        Measure("collectives", "Collectives"),
        Measure("sent_bytes", "Sent", "kB", 1e-3),
        Measure("meta_bytes", "Meta network", "kB", 1e-3),
        Measure("base_bytes", "Base network", "kB", 1e-3),
    ]
    return Table(
        row_header="Meta step",
        cells=grid(results, STUDY, measures, columns="measures"),
        notes=["A collective is an all-reduce of a bucket of gradients, or of the base weights."],
    )
