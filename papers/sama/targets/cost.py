"""Table 2 and Figure 1: memory and throughput, from records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from common.results.figures import FigureWithCaption, arm_styles
from common.results.records import Results
from common.results.tables import Cell, Measure, Table, cell, grid

STUDY = "meta_gradient_cost"
#: Metrics in published.csv.
MEMORY = Measure(
    "peak_bytes", "Memory", "GB", 1e-9, "memory per GPU (AGNews, BERT-base, V100)", "Memory"
)
THROUGHPUT = Measure(
    "samples_per_s",
    "Throughput",
    "samples/s",
    1.0,
    "throughput (AGNews, BERT-base, V100)",
    "Throughput",
)
#: Arms of Figure 1: one step, one iteration.
DRAWN = ("plain", "sama_na", "sama", "neumann", "cg", "itd")
#: Cases of Table 2: in the place of BERT on a CPU, and BERT itself.
STAND_INS, BERTS = ("encoder", "encoder_2p", "encoder_4p"), ("bert", "bert_2p", "bert_4p")


def table2(results: Results) -> Table:
    """Memory of a process and throughput, by algorithm and number of processes."""
    at_paper = results.scale == "paper"
    cells = list(_table2_cells(results, STAND_INS, "small encoder" if at_paper else ""))
    if at_paper:
        cells = [*_table2_cells(results, BERTS, ""), *cells]
    return Table(
        row_header="Algorithm",
        cells=cells,
        notes=[
            "Memory is the most bytes in tensors of one process at once: networks, optimisers,"
            " activations, graphs. The paper's is all of a GPU's. Throughput counts samples of the"
            " base level, with a meta step after every base step. It is chance where that of a"
            " small network on a core of a CPU lies near BERT's on a GPU.",
        ],
    )


def _table2_cells(results: Results, cases: tuple[str, ...], where: str) -> Iterator[Cell]:
    study = results.paper.experiments[STUDY]
    for case, arm in study.runs(results.scale):
        if case not in cases:
            continue
        count = study.cases[case].settings.get("processes", 1)
        title, name = study.arms[arm].title, study.arms[arm].published
        for measure in (MEMORY, THROUGHPUT):
            key = ("Table 2", f"{name}, {count} GPU", measure.column, measure.published)
            yield cell(
                results,
                f"{title}, {count} process{'es' if count > 1 else ''}",
                f"{measure.title}, {where}" if where else measure.title,
                experiment=STUDY,
                case=case,
                arm=arm,
                metric=measure.metric,
                label="",
                unit=measure.unit,
                factor=measure.factor,
                # Of other numbers of GPUs the paper has SAMA alone.
                published=key if name and (count == 1 or arm == "sama") else None,
            )


def table_cost(results: Results) -> Table:
    """Bytes and time of every algorithm in every case of one process."""
    study = results.paper.experiments[STUDY]
    cases = [name for name, case in study.cases.items() if "processes" not in case.settings]
    measures = [
        Measure("saved_bytes", "Kept for backward passes", "MB", 1e-6),
        Measure("peak_bytes", "Most in tensors", "MB", 1e-6),
        Measure("cycle_s", "Cycle", "ms", 1e3),
        Measure("cycle_cpu_s", "Its CPU time", "ms", 1e3),
    ]
    return Table(
        row_header="Network and algorithm",
        cells=grid(results, STUDY, measures, columns="measures", cases=cases),
        notes=["A cycle is a base step, or as many as named, and a meta step."],
    )


def figure1(results: Results) -> FigureWithCaption:
    """Memory and throughput against the size of the network, by algorithm."""
    study, styles = results.paper.experiments[STUDY], arm_styles(results.paper)
    lines: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for case, arm in study.runs(results.scale):
        settings = study.cases[case].settings
        at_size = "processes" not in settings and "core" not in settings and arm in DRAWN
        found = results.records(STUDY, arm, case)
        if not at_size or not found:
            continue
        point = tuple(
            float(results.values(STUDY, arm, metric, case).mean())
            for metric in ("parameters", "peak_bytes", "samples_per_s")
        )
        kind = found[0].record.settings["network"]["kind"]
        lines.setdefault(kind, {}).setdefault(arm, []).append(point)  # type: ignore[arg-type]
    grown = {kind: arms for kind, arms in lines.items() if len(arms.get("sama", [])) > 1}
    lines = grown or lines
    figure, axes = plt.subplots(
        len(lines) or 1, 2, figsize=(6.8, 2.6 * (len(lines) or 1) + 0.7), squeeze=False
    )
    for row, (kind, arms) in zip(axes, lines.items(), strict=False):
        row[0].set(xlabel=f"parameters, {kind}", ylabel="memory (MB)", xscale="log", yscale="log")
        row[1].set(xlabel=f"parameters, {kind}", ylabel="samples/s", xscale="log", yscale="log")
        for arm, points in arms.items():
            style: dict[str, Any] = {**styles[arm], "label": study.arms[arm].title}
            _draw(row[0], points, 1, 1e-6, style)
            _draw(row[1], points, 2, 1.0, style)
    names = dict(
        pair
        for ax in axes.flat
        for pair in zip(*reversed(ax.get_legend_handles_labels()), strict=True)
    )
    figure.legend(names.values(), names.keys(), loc="outside lower center", ncols=4)
    return FigureWithCaption(
        figure,
        "Most bytes in tensors at once, and base samples a second, of programs that train with a"
        " meta step after every base step, against the number of weights.",
        "Lines of memory, which rise with size, and of throughput, which fall, one for each"
        " algorithm; SAMA lies between plain training and the methods with second derivatives.",
    )


def _draw(
    ax: Axes,
    points: list[tuple[float, float, float]],
    which: int,
    factor: float,
    style: dict[str, Any],
) -> None:
    ordered = sorted(points)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    ax.plot([p[0] for p in ordered], [factor * p[which] for p in ordered], **style)
