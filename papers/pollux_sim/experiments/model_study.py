"""How far the goodput model can be trusted: throughput and efficiency, predicted and measured.

The data of Figures 1 to 3 and the claims beside them: the throughput model is 10 % off at most on
average (Sec. 3.2), and the noise scale measured at one batch size predicts the statistical
efficiency at others (Sec. 3.1). Measurements are the authors' traces or, without data, draws from
the fitted applications; all that follows is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.pollux_sim.applications.applications import Application
from papers.pollux_sim.applications.csv_columns import NON_NEGATIVE, read_columns
from papers.pollux_sim.applications.traces import TimingRows, TraceApplication
from papers.pollux_sim.applications.tuned_jobs import GPUS_PER_NODE, packed
from papers.pollux_sim.models.goodput import Theta, efficiency, iteration_time, throughput
from papers.pollux_sim.models.throughput_fit import fit
from papers.pollux_sim.policies.pollux_agent import PolluxAgent
from papers.pollux_sim.simulator.job import split_fixed_batch
from papers.pollux_sim.tasks.fit_applications import timing_error
from papers.pollux_sim.tasks.ground_truth import Source, load_applications, pollux_folder

#: The application of Figure 1: ResNet18 on CIFAR-10.
TRADE_OFF_APPLICATION: Final = "cifar10"
#: Configurations that are drawn where nothing was timed: as many nodes and GPUs as the authors'.
NODE_COUNTS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
GPU_COUNTS: Final = (*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)
#: GPUs at which Figure 3 varies the batch size.
BATCH_SWEEP_GPUS: Final = (4, 16)
#: Applications whose validation metric (word error, loss) is better when lower.
LOWER_IS_BETTER: Final = {"deepspeech2", "yolov3"}

#: (sqr, var) of the gradient in each epoch.
Statistics = list[tuple[float, float]]
#: N, K and m of a timed configuration.
Configuration = tuple[int, int, int]
Row = dict[str, Any]


class ModelStudySettings(Settings):
    """What is measured, and what is left out of the fit."""

    applications: Source
    noise: float = Field(
        0.1, ge=0, le=1, description="log-normal sigma of drawn measurements (applications: fitted)"
    )
    heldout_share: float = Field(
        0.5, gt=0, le=0.9, description="share of configurations that a fit is tested on"
    )
    gpus: list[Annotated[int, Field(ge=1, le=16)]] = Field(
        [1, 2, 4, 6, 8, 10, 12, 14, 16], min_length=1, description="GPUs in Figure 1"
    )
    stages: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(
        {"early": 0.05, "middle": 0.5, "late": 0.95},
        min_length=1,
        description="stages of training in Figure 1, as fractions of its epochs",
    )
    data_root: str | None = None


@dataclass(frozen=True)
class Measurements:
    """What was measured of one application.

    Attributes:
        rows: timed configurations with m inside the application's limits.
        statistics: for each total batch size, of a whole training run at it.
        quality: for each total batch size, the validation metric after each epoch; may be empty.
    """

    application: Application
    rows: TimingRows
    statistics: dict[int, Statistics]
    quality: dict[int, list[float]] = field(default_factory=dict)

    @property
    def reference_batch(self) -> int:
        """The intermediate batch size, at which the noise scale is taken as known."""
        sizes = self.application.constants.batch_sizes
        return sizes[len(sizes) // 2]

    def times(self) -> dict[Configuration, tuple[float, float]]:
        """(step, sync) in seconds of each configuration, averaged over placements."""
        keys, group = configurations(self.rows)
        count = np.bincount(group)
        step, sync = (np.bincount(group, column) / count for column in self.rows.times.T)
        named = [(int(nodes), int(gpus), int(m)) for nodes, gpus, m in keys]
        return dict(zip(named, zip(step.tolist(), sync.tolist(), strict=True), strict=True))


def run_model_study(settings: ModelStudySettings, run: Run) -> dict[str, float]:
    """Program ``model_study``: errors of the goodput model; writes the data of Figures 1 to 3.

    Raises:
        InputError: the traces are asked for and absent or malformed.
    """
    measured = measure(settings, run)
    thetas = {name: fit(observations(mine.rows)) for name, mine in measured.items()}
    metrics: dict[str, float] = {}
    for name, mine in measured.items():
        metrics |= application_metrics(mine, thetas[name])
        held_out = heldout_error(mine.rows, settings.heldout_share, run.rng)
        metrics[f"heldout_error_{name}_pct"] = 100 * held_out
    for kind in ("throughput_error", "heldout_error"):
        errors = [metrics[f"{kind}_{name}_pct"] for name in measured]
        metrics |= {f"{kind}_mean_pct": fmean(errors), f"{kind}_max_pct": max(errors)}
    metrics["efficiency_error_mean"] = fmean(
        metrics[f"efficiency_error_{name}"] for name in measured
    )
    example, theta = measured[TRADE_OFF_APPLICATION], thetas[TRADE_OFF_APPLICATION]
    run.write_rows("fig1_scalability.csv", scalability(example.application, settings.gpus))
    run.write_rows("fig1_best_batch.csv", best_batches(example, theta, settings))
    run.write_rows("fig2_efficiency.csv", chain.from_iterable(map(efficiencies, measured.values())))
    run.write_rows(
        "fig3_throughput.csv",
        chain.from_iterable(map(throughputs, measured.values(), thetas.values())),
    )
    return metrics


def measure(settings: ModelStudySettings, run: Run) -> dict[str, Measurements]:
    """Measurements of all six applications: the traces, or draws from the fitted formulas."""
    applications = load_applications(settings.applications, run, settings.data_root)
    if settings.applications == "fitted":
        run.uses(DataIdentity.generated("measurements of the fitted applications", run.seed))
    return {
        name: traced(app, pollux_folder(settings.data_root) / "traces" / name)
        if isinstance(app, TraceApplication)
        else drawn(app, settings.noise, run.rng)
        for name, app in applications.items()
    }


def traced(app: TraceApplication, folder: Path) -> Measurements:
    """All that the traces hold of one application. Raises InputError if a metric is malformed."""
    return Measurements(
        app,
        app.timing_rows(app.max_local_bsz),
        {size: true_statistics(app, size) for size in app.constants.batch_sizes},
        {
            size: read_columns(folder / f"validation-{size}.csv", {"metric": NON_NEGATIVE})[
                "metric"
            ]
            for size in app.constants.batch_sizes
        },
    )


def drawn(app: Application, noise: float, rng: np.random.Generator) -> Measurements:
    """What timing and training would show if each measurement were off by a log-normal factor.

    One factor slows a whole iteration, computation and waiting alike, so that both stay positive;
    another one scales the gradient's variance, and with it the noise scale.
    """
    points = [
        (nodes, gpus, m)
        for nodes in NODE_COUNTS
        for gpus in GPU_COUNTS
        if nodes <= gpus <= nodes * GPUS_PER_NODE
        for m in timed_local_batches(app)
    ]
    times = np.array([app.timing(spread(nodes, gpus), m) for nodes, gpus, m in points])
    times *= rng.lognormal(sigma=noise, size=(len(points), 1))
    statistics = {}
    for size in app.constants.batch_sizes:
        factors = rng.lognormal(sigma=noise, size=app.max_epochs).tolist()
        true = true_statistics(app, size)
        statistics[size] = [(s, v * factor) for (s, v), factor in zip(true, factors, strict=True)]
    return Measurements(app, TimingRows(np.array(points, dtype=float), times), statistics)


def true_statistics(app: Application, batch_size: int) -> Statistics:
    """Statistics of a whole training run at one batch size."""
    return [app.statistics(batch_size, epoch) for epoch in range(app.max_epochs)]


def timed_local_batches(app: Application) -> list[int]:
    """Samples per GPU at which an application is timed: steps of sqrt(2) within its limits."""
    low, high = app.min_local_bsz, app.max_local_bsz
    steps = range(int(2 * np.log2(high / low)) + 1)
    return sorted({round(low * 2 ** (step / 2)) for step in steps} | {high})


def spread(num_nodes: int, num_gpus: int) -> tuple[int, ...]:
    """GPUs on each node when they are spread evenly."""
    each, rest = divmod(num_gpus, num_nodes)
    return tuple(each + (node < rest) for node in range(num_nodes))


def observations(rows: TimingRows) -> NDArray[np.float64]:
    """(n, 5) rows as :func:`~papers.pollux_sim.models.throughput_fit.fit` takes them."""
    step, sync = rows.times.T
    return np.column_stack([rows.points, np.log(step - sync), np.log(step)])


def configurations(rows: TimingRows) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """(c, 3) distinct N, K, m, and for each row the index of its own."""
    keys, group = np.unique(rows.points, axis=0, return_inverse=True)
    return keys, group.reshape(-1)


def heldout_error(rows: TimingRows, share: float, rng: np.random.Generator) -> float:
    """Mean absolute relative error of T_iter on a random share of configurations, left out."""
    kept, unseen = split(rows, share, rng)
    return timing_error(fit(observations(kept)), unseen).mean_abs_error


def split(
    rows: TimingRows, share: float, rng: np.random.Generator
) -> tuple[TimingRows, TimingRows]:
    """(kept, left out) rows; placements that the model cannot tell apart (N, K, m) go together."""
    keys, group = configurations(rows)
    held = (rng.permutation(len(keys)) < share * len(keys))[group]
    kept, unseen = (TimingRows(rows.points[mask], rows.times[mask]) for mask in (~held, held))
    return kept, unseen


def application_metrics(measured: Measurements, theta: Theta) -> dict[str, float]:
    """Errors of the goodput model, and Table 1's constants, of one application."""
    app = measured.application
    slower, believed_slower = crossing_slowdown(measured, theta)
    one_gpu, _ = app.timing((1,), app.init_batch_size)
    metrics = {
        "throughput_error_{}_pct": 100 * timing_error(theta, measured.rows).mean_abs_error,
        "efficiency_error_{}": prediction_error(measured),
        "crossing_slowdown_{}": slower,
        "predicted_crossing_slowdown_{}": believed_slower,
        "m0_{}": app.init_batch_size,
        "total_progress_{}": app.progress_target(app.max_epochs),
        "one_gpu_hours_{}": app.iterations(app.init_batch_size, app.max_epochs) * one_gpu / 3600,
    }
    if measured.quality:
        metrics["quality_difference_{}_pct"] = 100 * quality_difference(measured)
    return {pattern.format(app.name): value for pattern, value in metrics.items()}


def crossing_slowdown(measured: Measurements, theta: Theta) -> tuple[float, float]:
    """(measured, predicted) throughput on one node over that on two, with equal GPUs and m.

    The mean over GPU counts that fit one node, each GPU with about the initial batch.
    """
    times = measured.times()
    m = typical_local_batch(measured)
    counts = [gpus for gpus in range(2, GPUS_PER_NODE + 1) if (2, gpus, m) in times]
    steps = [(times[1, gpus, m][0], times[2, gpus, m][0]) for gpus in counts]
    believed = [
        (iteration_time(theta, False, gpus, m), iteration_time(theta, True, gpus, m))
        for gpus in counts
    ]
    slower, believed_slower = (
        fmean(across / within for within, across in pairs) for pairs in (steps, believed)
    )
    return slower, believed_slower


def typical_local_batch(measured: Measurements) -> int:
    """The timed m that is nearest to M0, in ratio: what a job on one GPU starts with."""
    first = measured.application.init_batch_size
    return min((m for *_, m in measured.times()), key=lambda m: abs(np.log(m / first)))


def prediction_error(measured: Measurements) -> float:
    """Mean absolute error of the efficiency predicted from the reference batch, over all epochs.

    M0, where every prediction is 1, and the reference itself are left out.
    """
    trivial = (measured.application.init_batch_size, measured.reference_batch)
    return fmean(
        abs(row["predicted_efficiency"] - row["efficiency"])
        for row in efficiencies(measured)
        if row["batch_size"] not in trivial
    )


def quality_difference(measured: Measurements) -> float:
    """Largest relative difference of the best validation metric from that at M0. Sec. 3.1."""
    best = min if measured.application.name in LOWER_IS_BETTER else max
    at_first, *others = (best(measured.quality[size]) for size in sorted(measured.quality))
    return max(abs(value / at_first - 1) for value in others)


def scalability(app: Application, gpu_counts: list[int]) -> Iterator[Row]:
    """Figure 1a: true throughput against GPUs, packed, at each measured total batch size."""
    for size in app.constants.batch_sizes:
        for gpus in gpu_counts:
            m, accum = split_fixed_batch(size, gpus, app)
            if m >= app.min_local_bsz:
                yield {
                    "batch_size": size,
                    "num_gpus": gpus,
                    "throughput": measured_throughput(app.timing(packed(gpus), m), gpus, m, accum),
                }


def best_batches(
    measured: Measurements, theta: Theta, settings: ModelStudySettings
) -> Iterator[Row]:
    """Figure 1b: batch size of the largest goodput against GPUs, at stages of training.

    The throughput model is the fitted one, the noise scale the true one at the reference batch.
    """
    app = measured.application
    agent = PolluxAgent(app, known_theta=theta)
    for stage, progress in settings.stages.items():
        agent.statistics = app.statistics(measured.reference_batch, int(progress * app.max_epochs))
        for gpus in settings.gpus:
            nodes = len(packed(gpus))
            m, accum = agent.choose(nodes, gpus)
            yield {
                "stage": stage,
                "progress": progress,
                "num_gpus": gpus,
                "batch_size": gpus * m * (accum + 1),
                "goodput": agent.goodput(nodes > 1, gpus),
            }


def efficiencies(measured: Measurements) -> Iterator[Row]:
    """Figure 2: efficiency in each epoch at each batch size, as measured and as predicted.

    The prediction knows the noise scale at the reference batch only.
    """
    app = measured.application
    known = measured.statistics[measured.reference_batch]
    for size, statistics in measured.statistics.items():
        scale = size / app.init_batch_size
        for epoch, (there, here) in enumerate(zip(statistics, known, strict=True)):
            row = {
                "application": app.name,
                "batch_size": size,
                "epoch": epoch + 1,
                "efficiency": efficiency(*there, scale),
                "predicted_efficiency": efficiency(*here, scale),
            }
            if measured.quality:
                row["validation_metric"] = measured.quality[size][epoch]
            yield row


def throughputs(measured: Measurements, theta: Theta) -> Iterator[Row]:
    """Figure 3: throughput against GPUs at one m, and against the batch size at fixed GPUs."""
    times = measured.times()
    m = typical_local_batch(measured)
    sweeps = [("gpus", gpus, m, 0) for gpus in GPU_COUNTS if (len(packed(gpus)), gpus, m) in times]
    for gpus in BATCH_SWEEP_GPUS:
        sweeps += [("batch_size", gpus, *split) for split in batch_sweep(measured, gpus)]
    for sweep, gpus, m, accum in sweeps:
        nodes = len(packed(gpus))
        yield {
            "application": measured.application.name,
            "sweep": sweep,
            "num_nodes": nodes,
            "num_gpus": gpus,
            "local_bsz": m,
            "accum_steps": accum,
            "batch_size": gpus * m * (accum + 1),
            "throughput": measured_throughput(times[nodes, gpus, m], gpus, m, accum),
            "predicted_throughput": throughput(theta, nodes > 1, gpus, m, accum),
        }


def batch_sweep(measured: Measurements, num_gpus: int) -> Iterator[tuple[int, int]]:
    """(m, s) of ascending total batches up to the largest: first m grows, then s doubles."""
    largest = measured.application.max_batch_size // num_gpus
    nodes = len(packed(num_gpus))
    timed = sorted(m for n, gpus, m in measured.times() if (n, gpus) == (nodes, num_gpus))
    yield from ((m, 0) for m in timed if m <= largest)
    passes = 2
    while timed[-1] * passes <= largest:
        yield timed[-1], passes - 1
        passes *= 2


def measured_throughput(
    times: tuple[float, float], num_gpus: int, local_bsz: int, accum_steps: int
) -> float:
    """Samples per second, given (step, sync) seconds; accumulation passes do not synchronise."""
    step, sync = times
    return num_gpus * local_bsz * (accum_steps + 1) / (step + accum_steps * (step - sync))


PROGRAM = Program(ModelStudySettings, run_model_study)
