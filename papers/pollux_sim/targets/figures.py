"""The paper's figures, from records and their artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.results.figures import COLOURS, LINES, MARKERS, FigureWithCaption
from common.results.records import Results, StoredRecord
from common.results.tables import Cell, Table, grid
from papers.pollux_sim.applications.applications import APPLICATIONS
from papers.pollux_sim.targets.tables import HOUR, LOAD, TIMES, table_fig8b, table_fig8c

#: The policies with hand-tuned jobs keep their colour in every figure.
POLICIES: Final = ("pollux", "optimus", "tiresias")
COLOUR: Final = dict(zip(POLICIES, COLOURS, strict=False))
APPLICATION_COLOUR: Final = dict(zip(APPLICATIONS, COLOURS, strict=False))
BIN_S: Final = 1800
#: Place of a legend that would cover lines inside its axes.
BELOW: Final[dict[str, Any]] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
#: Place of one legend for all panels.
OUTSIDE: Final[dict[str, Any]] = {"loc": "outside lower center", "ncols": 3, "fontsize": 8}
PUBLISHED: Final[dict[str, Any]] = {
    "color": "#444444",
    "marker": "_",
    "markersize": 14,
    "linestyle": "none",
}


def panels(rows: int, columns: int, height: float = 2.5, width: float = 6.4) -> list[Axes]:
    """Axes of a grid, row by row."""
    _, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False)
    return list(axes.flat)


def find_figure(axes: Sequence[Axes]) -> Figure:
    """The figure that ``axes`` belong to."""
    figure = axes[0].get_figure()
    assert isinstance(figure, Figure)
    return figure


def first_study(results: Results) -> StoredRecord:
    """The first record of the model study: figures 1 to 3 show one seed."""
    return results.first("model_study", "goodput")


def find_title(results: Results, experiment: str, arm: str) -> str:
    """The title of an arm."""
    return results.paper.experiments[experiment].arms[arm].title


def figure1(results: Results) -> FigureWithCaption:
    """Scalability by batch size, and the best batch size by GPUs and stage of training."""
    scaling = first_study(results).read_csv("fig1_scalability.csv")
    best = first_study(results).read_csv("fig1_best_batch.csv")
    left, right = axes = panels(1, 2, height=3.6)
    for index, (size, rows) in enumerate(scaling.groupby("batch_size")):
        left.plot(rows.num_gpus, rows.throughput, **line(index), label=f"batch {size}")
    left.set(xlabel="GPUs", ylabel="images / s", title="Throughput", ylim=(0, None))
    left.legend(**BELOW, ncols=2)
    for index, (stage, rows) in enumerate(best.groupby("stage", sort=False)):
        right.plot(rows.num_gpus, rows.batch_size, **line(index), label=f"{stage} in training")
    right.set(xlabel="GPUs", ylabel="total batch size", title="Best batch", ylim=(0, None))
    right.legend(**BELOW, ncols=1)
    return FigureWithCaption(
        find_figure(axes),
        "ResNet18 on CIFAR-10. Larger batches scale to more GPUs; the batch with the best goodput"
        " grows with the GPUs and, as gradients get noisier, with training.",
        "Two line charts: throughput against GPUs for several batch sizes; best total batch size"
        " against GPUs early, in the middle and late in training.",
    )


def line(index: int) -> dict[str, Any]:
    """Style of the index-th line of an axes."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def figure2(results: Results) -> FigureWithCaption:
    """Statistical efficiency over training, measured and predicted from one batch size."""
    rows = first_study(results).read_csv("fig2_efficiency.csv")
    axes = panels(3, 2, height=2.1)
    for ax, (name, mine) in zip(axes, rows.groupby("application", sort=False), strict=True):
        sizes = sorted(mine.batch_size.unique())
        for index, size in enumerate((sizes[0], sizes[len(sizes) // 2], sizes[-1])):
            chosen = mine[mine.batch_size == size]
            share = chosen.epoch / chosen.epoch.max()
            ax.plot(share, chosen.efficiency, color=COLOURS[index], label=str(size))
            ax.plot(share, chosen.predicted_efficiency, color=COLOURS[index], linestyle=":")
        ax.set(title=str(name), ylim=(0, 1.05), xlim=(0, 1))
        ax.legend(title="batch", fontsize=8, title_fontsize=8, loc="lower right")
    for ax in axes[-2:]:
        ax.set_xlabel("share of epochs")
    for ax in axes[::2]:
        ax.set_ylabel("efficiency")
    return FigureWithCaption(
        find_figure(axes),
        "Statistical efficiency at the smallest, an intermediate and the largest batch size: solid"
        " as measured at that size, dotted as predicted from the noise scale measured at the"
        " intermediate one.",
        "Six small line charts, one a model: efficiency against the share of epochs at three batch"
        " sizes, measured and predicted lines close to each other.",
    )


def figure3(results: Results) -> FigureWithCaption:
    """Throughput measured and predicted, by GPUs."""
    rows = first_study(results).read_csv("fig3_throughput.csv")
    rows = rows[rows.sweep == "gpus"]
    axes = panels(3, 2, height=2.1)
    for ax, (name, mine) in zip(axes, rows.groupby("application", sort=False), strict=True):
        ax.plot(mine.num_gpus, mine.throughput, linestyle="none", marker="o", label="measured")
        ax.plot(mine.num_gpus, mine.predicted_throughput, color=COLOURS[1], label="model")
        local_bsz = mine.local_bsz.iloc[0]
        ax.set(title=f"{name}, {local_bsz} per GPU", xscale="log", yscale="log")
        ax.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
        ax.minorticks_off()
    axes[0].legend()
    for ax in axes[-2:]:
        ax.set_xlabel("GPUs")
    for ax in axes[::2]:
        ax.set_ylabel("samples / s")
    return FigureWithCaption(
        find_figure(axes),
        "Throughput at a fixed batch per GPU against GPUs, four to a node: points as measured,"
        " line by the fitted model. Most models lose speed where a second node joins (4 to 8"
        " GPUs).",
        "Six log-log charts, one a model: measured throughput as points and the fitted line.",
    )


def figure5(results: Results) -> FigureWithCaption:
    """GPUs in use and their mean statistical efficiency, in bins of half an hour."""
    top, bottom = axes = panels(2, 1, height=2.2)
    for index, policy in enumerate(POLICIES):
        rows = results.first("testbed", policy).read_csv("timeline.csv")
        rows = rows.assign(weighted=rows.gpus_used * rows.efficiency)
        bins = rows.groupby(rows.time_s // BIN_S)[["gpus_used", "weighted"]].mean()
        hours = (bins.index + 0.5) * BIN_S / HOUR
        style: dict[str, Any] = {
            "color": COLOUR[policy],
            "linestyle": LINES[index],
            "label": find_title(results, "testbed", policy),
        }
        top.plot(hours, bins.gpus_used, **style)
        running = bins.gpus_used > 0
        bottom.plot(hours[running], (bins.weighted / bins.gpus_used)[running], **style)
    top.set(ylabel="GPUs in use", ylim=(0, None), title="GPUs")
    bottom.set(ylabel="efficiency", xlabel="hours", ylim=(0, 1.05), title="Statistical efficiency")
    find_figure(axes).legend(*top.get_legend_handles_labels(), **OUTSIDE)
    return FigureWithCaption(
        find_figure(axes),
        "GPUs in use and their statistical efficiency (weighted by GPUs) over time, hand-tuned"
        " jobs, in bins of 30 minutes. The paper's curves are from the testbed.",
        "Two line charts over hours for three policies: GPUs in use, and efficiency.",
    )


def figure6(results: Results) -> FigureWithCaption:
    """The three largest jobs over time under Pollux."""
    record = results.first("testbed", "pollux")
    jobs, spans = record.read_csv("jobs.csv"), record.read_csv("allocations.csv")
    order = [*APPLICATIONS].index
    largest = jobs.assign(rank=jobs.application.map(order)).sort_values(
        ["rank", "gpu_seconds"], ascending=[True, False]
    )
    first = largest.iloc[0]
    others = largest[largest.application != first.application].iloc[:2]
    chosen = pd.concat([largest.iloc[:1], others])
    timeline = record.read_csv("timeline.csv")
    axes = panels(4, 1, height=1.7)
    axes[0].plot(timeline.time_s / HOUR, timeline.active_jobs, color="#444444")
    axes[0].set(ylabel="active jobs", ylim=(0, None))
    by_time = spans.groupby(["job", "start_s", "end_s"], as_index=False).agg(
        gpus=("gpus", "sum"), batch_size=("batch_size", "first"), efficiency=("efficiency", "first")
    )
    for index, job in enumerate(chosen.name):
        mine = by_time[by_time.job == job].sort_values("start_s")
        hours = np.repeat(mine[["start_s", "end_s"]].to_numpy().ravel() / HOUR, 1)
        for ax, column in zip(axes[1:], ("gpus", "batch_size", "efficiency"), strict=True):
            ax.plot(hours, np.repeat(mine[column], 2), color=COLOURS[index], label=job)
    axes[1].set(ylabel="GPUs", ylim=(0, None))
    axes[1].legend(ncols=3, fontsize=8)
    axes[2].set(ylabel="batch size", yscale="log")
    axes[3].set(ylabel="efficiency", ylim=(0, 1.05), xlabel="hours")
    return FigureWithCaption(
        find_figure(axes),
        "The largest job and the two largest of other models under Pollux: GPUs held, total batch"
        " size and statistical efficiency, with the number of active jobs above. Batch and"
        " efficiency are those at the end of each allocation.",
        "Four stacked step charts over hours: active jobs; GPUs, batch size and efficiency of"
        " three jobs.",
    )


def figure7(results: Results) -> FigureWithCaption:
    """Distribution of finish-time fairness."""
    curves = (
        ("job_load", "pollux", COLOUR["pollux"], "-"),
        ("fairness", "p1", COLOURS[5], "--"),
        ("fairness", "p-10", COLOURS[3], ":"),
        ("job_load", "optimus", COLOUR["optimus"], "-"),
        ("job_load", "tiresias", COLOUR["tiresias"], "-"),
    )
    (ax,) = axes = panels(1, 1, height=3.6)
    for experiment, arm, colour, style in curves:
        records = results.records(experiment, arm, LOAD)
        rho = np.sort(np.concatenate([item.read_csv("jobs.csv").rho for item in records]))
        share = np.arange(1, len(rho) + 1) / len(rho)
        label = f"{find_title(results, experiment, arm)} (max {rho[-1]:.1f})"
        ax.step(rho, share, where="post", color=colour, linestyle=style, label=label)
    ax.axvline(1, color="#888888", linewidth=0.8)
    ax.set(
        xlabel="finish-time fairness ρ (below 1: better than an equal share)",
        ylabel="share of jobs",
        xscale="log",
        ylim=(0, 1.01),
    )
    ax.set_xticks(
        [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64], ["¼", "½", "1", "2", "4", "8", "16", "32", "64"]
    )
    ax.minorticks_off()
    ax.legend(loc="lower right")
    return FigureWithCaption(
        find_figure(axes),
        "Cumulative share of jobs by finish-time fairness, all workloads together; p=-1 where none"
        " is named. The definition of ρ's equal share is ours (see the paper's README).",
        "Five cumulative curves; those of Pollux rise left of the baselines' and end earlier.",
    )


def points(
    ax: Axes, results: Results, cells: Sequence[Cell], ticks: Sequence[str], policy: str
) -> None:
    """Our mean and deviation over workloads as points, the artifact's number as a dash."""
    places = np.arange(len(cells))
    means = np.array([cell.mean for cell in cells], dtype=float)
    ran = np.isfinite(means)
    ax.errorbar(
        places[ran],
        means[ran],
        np.array([cell.std or 0.0 for cell in cells])[ran],
        color=COLOUR[policy],
        marker="o",
        capsize=3,
        label=find_title(results, "job_load", policy),
    )
    if results.scale == "paper":
        ax.plot(places, np.array([cell.published for cell in cells], dtype=float), **PUBLISHED)
    ax.set_xticks(places, list(ticks))


def figure8a(results: Results) -> FigureWithCaption:
    """Average completion time by job load."""
    left, right = axes = panels(1, 2, height=3.2)
    for measure, ax in ((TIMES[0], left), (TIMES[-1], right)):
        for policy in POLICIES:
            cells = grid(
                results, "job_load", [measure], columns="cases", table="fig8a", arms=[policy]
            )
            points(ax, results, cells, [cell.column for cell in cells], policy)
    left.set(ylabel="hours", title="Average JCT", ylim=(0, None))
    right.set(title="Makespan", ylim=(0, None))
    find_figure(axes).legend(*left.get_legend_handles_labels(), **OUTSIDE)
    return FigureWithCaption(
        find_figure(axes),
        "Average job completion time and makespan against the load: mean and standard deviation"
        f" over workloads{artifact_note(results)}.",
        "Two line charts with error bars for three policies; Pollux is lowest at every load.",
    )


def artifact_note(results: Results) -> str:
    """What the dashes in a panel are, where there are any."""
    return "; dashes are the authors' artifact" if results.scale == "paper" else ""


def single_panel(
    table: Callable[[Results], Table], label: str, said: str
) -> Callable[[Results], FigureWithCaption]:
    """A panel of Figure 8 that shows Pollux alone, with the first column of ``table``."""

    def draw(results: Results) -> FigureWithCaption:
        (ax,) = axes = panels(1, 1, height=3.2)
        cells = [cell for cell in table(results).cells if cell.column == TIMES[0].title]
        points(ax, results, cells, [cell.row for cell in cells], "pollux")
        ax.set(ylabel="average JCT (hours)", xlabel=label, ylim=(0, None))
        caption = f"{said} Mean and standard deviation over workloads{artifact_note(results)}."
        return FigureWithCaption(
            find_figure(axes), caption, f"Average job completion time of Pollux against {label}."
        )

    return draw


def figure9(results: Results) -> FigureWithCaption:
    """Nodes and efficiency of one auto-scaled job."""
    top, bottom = axes = panels(2, 1, height=2.2)
    for index, (arm, body) in enumerate(results.paper.experiments["autoscaling"].arms.items()):
        rows = results.first("autoscaling", arm).read_csv("timeline.csv")
        rows = rows[rows.gpus_used > 0]
        style: dict[str, Any] = {
            "color": COLOURS[index],
            "linestyle": LINES[index],
            "label": body.title,
        }
        hours = rows.time_s / HOUR
        top.step(hours, rows.num_nodes, where="post", **style)
        bottom.plot(hours, rows.efficiency, **style)
    top.set(ylabel="nodes", ylim=(0, None), title="Cluster size")
    bottom.set(ylabel="efficiency", xlabel="hours", ylim=(0, 1.05), title="Statistical efficiency")
    bottom.legend(loc="lower right")
    return FigureWithCaption(
        find_figure(axes),
        "One job whose cluster grows by goodput or by throughput. Goodput adds nodes when noisier"
        " gradients make large batches worth it; throughput takes them all at once.",
        "Two charts over hours: number of nodes, and statistical efficiency, for three rules.",
    )


def figure_gantt(results: Results) -> FigureWithCaption:
    """Who held which GPUs, by node, under each policy."""
    axes = panels(3, 1, height=2.6, width=6.4)
    ends = []
    for ax, policy in zip(axes, POLICIES, strict=True):
        record = results.first("testbed", policy)
        spans, jobs = record.read_csv("allocations.csv"), record.read_csv("jobs.csv")
        application = jobs.set_index("name").application
        lanes = packed_lanes(spans)
        ends.append(spans.end_s.max() / HOUR)
        for name, mine in spans.assign(lane=lanes).groupby(spans.job.map(application)):
            lengths = (mine.end_s - mine.start_s) / HOUR
            ax.barh(
                mine.lane + mine.gpus / 2,
                lengths,
                left=mine.start_s / HOUR,
                height=mine.gpus,
                color=APPLICATION_COLOUR[name],
                edgecolor="white",
                linewidth=0.15,
                alpha=0.9,
            )
        ax.set(title=find_title(results, "testbed", policy), ylabel="GPU", ylim=(0, None))
        ax.grid(False)
    for ax in axes:
        ax.set_xlim(0, max(ends))
    axes[-1].set_xlabel("hours")
    handles = [Patch(color=colour, label=name) for name, colour in APPLICATION_COLOUR.items()]
    find_figure(axes).legend(handles=handles, **OUTSIDE)
    return FigureWithCaption(
        find_figure(axes),
        "Allocations of one workload: a bar is a job on GPUs of one node, coloured by model.",
        "Three Gantt charts, one a policy: GPUs from bottom to top, hours from left to right.",
    )


def packed_lanes(spans: pd.DataFrame, gpus_per_node: int = 4) -> list[int]:
    """Lowest GPU of each span on its node, so that spans of one time do not overlap."""
    columns = (spans[name].tolist() for name in ("start_s", "end_s", "node", "gpus"))
    rows = sorted((*row, place) for place, row in enumerate(zip(*columns, strict=True)))
    lanes = [0] * len(rows)
    held: dict[int, list[tuple[int, list[int]]]] = {}
    for start, end, node, gpus, place in rows:
        there = [(until, slots) for until, slots in held.get(node, []) if until > start]
        used = {slot for _, slots in there for slot in slots}
        taken = [slot for slot in range(gpus_per_node) if slot not in used][:gpus]
        held[node] = [*there, (end, taken)]
        lanes[place] = node * gpus_per_node + taken[0]
    return lanes


def figure_utilisation(results: Results) -> FigureWithCaption:
    """Active jobs and GPUs at useful work over time."""
    top, bottom = axes = panels(2, 1, height=2.2)
    for index, policy in enumerate(POLICIES):
        rows = results.first("testbed", policy).read_csv("timeline.csv")
        style: dict[str, Any] = {
            "color": COLOUR[policy],
            "linestyle": LINES[index],
            "label": find_title(results, "testbed", policy),
        }
        hours = rows.time_s / HOUR
        useful = (rows.gpus_used * rows.efficiency).rolling(30, min_periods=1).mean()
        top.plot(hours, rows.active_jobs, **style)
        bottom.plot(hours, useful, **style)
    top.set(ylabel="active jobs", ylim=(0, None), title="Unfinished jobs")
    top.legend()
    bottom.set(
        ylabel="GPUs x efficiency", xlabel="hours", ylim=(0, None), title="GPUs at useful work"
    )
    return FigureWithCaption(
        find_figure(axes),
        "Unfinished jobs, and GPUs in use times their statistical efficiency (mean over half an"
        " hour), of one workload.",
        "Two line charts over hours for three policies: unfinished jobs, and efficient GPUs.",
    )


FIGURES = {
    "figure1": figure1,
    "figure2": figure2,
    "figure3": figure3,
    "figure5": figure5,
    "figure6": figure6,
    "figure7": figure7,
    "figure8a": figure8a,
    "figure8b": single_panel(
        table_fig8b,
        "scheduling interval",
        "Pollux by how often it re-allocates.",
    ),
    "figure8c": single_panel(
        table_fig8c,
        "interference of jobs that share a node",
        "Pollux with interference avoidance, and without it at three injected slowdowns.",
    ),
    "figure9": figure9,
    "figure_gantt": figure_gantt,
    "figure_utilisation": figure_utilisation,
}
