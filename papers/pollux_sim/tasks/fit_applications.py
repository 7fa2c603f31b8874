"""Writes ``parametric.yaml``: the throughput model and noise scale that the traces imply.

``python -m papers.pollux_sim.tasks.fit_applications --data-root DIR`` (DIR holds ``pollux/``). Its
errors are the paper's claim that the throughput model is 10 % off at most on average (Sec. 3.2).
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import yaml
from numpy.typing import NDArray

from common.errors import InputError
from common.runs.cli import Parser, guarded
from papers.pollux_sim.applications.applications import APPLICATIONS, Limits
from papers.pollux_sim.applications.parametric import (
    FITTED,
    EfficiencyError,
    Fit,
    NoiseScale,
    ParametricApplication,
    TimingError,
)
from papers.pollux_sim.applications.traces import TimingRows, TraceApplication
from papers.pollux_sim.applications.tuned_jobs import tuned_jobs
from papers.pollux_sim.models.goodput import Theta, grad_time, iteration_time
from papers.pollux_sim.models.throughput_fit import (
    LOWEST,
    MAX_GAMMA,
    START,
    loss_and_gradient,
    minimise,
)
from papers.pollux_sim.tasks.ground_truth import pollux_folder

NUM_STARTS: Final = 8
#: Above this noise scale (samples), efficiency is 1 at every batch size that is used.
MAX_PHI: Final = 1e8
#: Epochs at which phi is tabulated: dense where it moves, at the start and at learning-rate steps.
KNOT_EPOCHS: Final = {
    "imagenet": (0, 1, 4, 9, 18, 29, 30, 36, 45, 59, 60, 63, 89),
    "yolov3": (0, 1, 2, 3, 5, 10, 20, 30, 35, 40, 45, 49),
    "deepspeech2": (0, 1, 2, 4, 8, 16, 24, 32, 48, 79),
    "bert": (0, 1),
    "cifar10": (0, 2, 5, 10, 20, 40, 60, 80, 99),
    "ncf": tuple(range(10)),
}
#: Batch sizes at which phi is tabulated.
KNOT_BATCH_SIZES: Final = {
    "imagenet": (200, 800, 3200, 12800),
    "yolov3": (8, 64, 512),
    "deepspeech2": (20, 80, 320, 640),
    "bert": (12, 96, 384),
    "cifar10": (128, 512, 2048, 4096),
    "ncf": (256, 2048, 32768),
}


def fit_application(name: str, folder: Path) -> Fit:
    """Fit of one application to the traces in ``folder``. Raises InputError."""
    traces = TraceApplication(name, folder)
    rows = traces.timing_rows(traces.max_local_bsz)
    theta = fit_theta(rows)
    fit = Fit(
        data_sha256=digest(folder, traces.constants),
        theta=theta._asdict(),
        timing_error=timing_error(theta, rows),
        progress_per_epoch=round(traces.progress_target(traces.max_epochs) / traces.max_epochs, 3),
        noise_scale=tabulate_phi(traces),
        tuned_jobs=[job._replace(runtime_s=round(job.runtime_s, 1)) for job in tuned_jobs(traces)],
        efficiency_error=EfficiencyError(mean=0, p95=0, max=0),
    )
    error = efficiency_error(ParametricApplication(name, fit), traces)
    return fit.model_copy(update={"efficiency_error": error})


def fit_theta(rows: TimingRows) -> Theta:
    """Best of several local minima of the loss over all timed configurations."""
    step, sync = rows.times.T
    observed = np.column_stack([rows.points, np.log(step - sync), np.log(step)])
    lower = np.array([LOWEST] * 6 + [1.0])
    upper = np.array([np.inf] * 6 + [MAX_GAMMA])
    draw = np.random.default_rng(0)
    starts = [START] + [START * draw.lognormal(sigma=2.0, size=7) for _ in range(NUM_STARTS - 1)]
    minima = [minimise(np.clip(start, lower, upper), observed, lower, upper) for start in starts]
    best = min(minima, key=lambda theta: float(loss_and_gradient(theta, observed)[0]))
    return Theta(*map(_rounded, best))


def timing_error(theta: Theta, rows: TimingRows) -> TimingError:
    """Errors of the throughput model on the given rows."""
    step, sync = rows.times.T
    points = [(num_nodes > 1, int(gpus), m) for num_nodes, gpus, m in rows.points.tolist()]
    iteration = np.array([iteration_time(theta, *point) for point in points])
    compute = np.array([grad_time(theta, m) for *_, m in points])
    relative = np.abs(iteration / step - 1)
    return TimingError(
        rows=len(points),
        rmsle_step=_rounded(np.sqrt(np.mean(np.log(iteration / step) ** 2))),
        rmsle_grad=_rounded(np.sqrt(np.mean(np.log(compute / (step - sync)) ** 2))),
        mean_abs_error=_rounded(relative.mean()),
        p95_abs_error=_rounded(np.quantile(relative, 0.95)),
    )


def measured_phi(traces: TraceApplication, batch_size: int) -> NDArray[np.float64]:
    """(epochs,) noise scale in samples as measured at one batch size, at most MAX_PHI."""
    values = [traces.statistics(batch_size, epoch) for epoch in range(traces.max_epochs)]
    sqr, var = np.array(values).T
    with np.errstate(divide="ignore"):
        phi: NDArray[np.float64] = np.minimum(traces.init_batch_size * var / sqr, MAX_PHI)
    return phi


def tabulate_phi(traces: TraceApplication) -> NoiseScale:
    """phi at the knots: geometric mean over an epoch and, where phi moves slowly, its neighbours.

    Slowly means that the next knots are at least two epochs away; the ends are taken as measured.
    """
    epochs = KNOT_EPOCHS[traces.name]
    gaps = [0, *np.diff(epochs), 0]
    reach = [min(before, after) >= 2 for before, after in pairwise(gaps)]
    return NoiseScale(
        batch_sizes=list(KNOT_BATCH_SIZES[traces.name]),
        progress=[_rounded((epoch + 0.5) / traces.max_epochs) for epoch in epochs],
        phi=[
            [
                _rounded(np.exp(np.log(phi[epoch - near : epoch + near + 1]).mean()))
                for epoch, near in zip(epochs, reach, strict=True)
            ]
            for phi in (measured_phi(traces, size) for size in KNOT_BATCH_SIZES[traces.name])
        ],
    )


def efficiency_error(fitted: ParametricApplication, traces: TraceApplication) -> EfficiencyError:
    """Error of EFFICIENCY = (phi + M0) / (phi + M) at every measured epoch and batch size."""
    first = traces.init_batch_size
    errors = []
    for size in traces.batch_sizes:
        measured = measured_phi(traces, size)
        ratios = [fitted.statistics(size, epoch) for epoch in range(traces.max_epochs)]
        phi = np.array([first * var / sqr for sqr, var in ratios])
        errors.append(np.abs((phi + first) / (phi + size) - (measured + first) / (measured + size)))
    every = np.concatenate(errors)
    return EfficiencyError(
        mean=_rounded(every.mean()),
        p95=_rounded(np.quantile(every, 0.95)),
        max=_rounded(every.max()),
    )


def digest(folder: Path, constants: Limits) -> str:
    """sha256 over names and contents of an application's files, in alphabetical order."""
    names = ["placements.csv", "scalability.csv"]
    names += [f"validation-{size}.csv" for size in constants.batch_sizes]
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(
            f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode()
        )
    return total.hexdigest()


def write_fits(fits: dict[str, Fit], path: Path) -> None:
    """Write fits as the YAML file that :mod:`papers.pollux_sim.applications.parametric` reads."""
    head = (
        "# Fitted to the traces of petuum/adaptdl, branch osdi21-artifact (16 nodes x 4 T4), by\n"
        "#   python -m papers.pollux_sim.tasks.fit_applications --data-root DIR\n"
        "# Times in seconds, phi and batch sizes in samples, progress as a fraction of training.\n"
    )
    body = {"applications": {name: fit.model_dump(mode="json") for name, fit in fits.items()}}
    text = yaml.safe_dump(body, sort_keys=False, width=100, default_flow_style=None)
    staged = path.with_name(path.name + ".new")
    staged.write_text(head + text, encoding="utf8")
    staged.replace(path)


def _rounded(value: float | np.floating) -> float:
    """Four significant digits: the fit knows no more."""
    return float(f"{value:.4g}")


def main() -> None:
    """Fit all applications, print their errors and write the file."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--data-root", help="folder that holds pollux/ (default: REPRO_DATA, the cache)"
    )
    parser.add_argument("--out", type=Path, default=FITTED, help="default: beside this module")
    options = parser.parse_args()
    if not options.out.parent.is_dir():
        raise InputError(f"--out {options.out}: its folder must exist")
    traces = pollux_folder(options.data_root) / "traces"
    fits = {name: fit_application(name, traces / name) for name in APPLICATIONS}
    write_fits(fits, options.out)
    print("application   rows  RMSLE T_iter  T_grad  mean error    p95  efficiency error")
    for name, fit in fits.items():
        timing = fit.timing_error
        print(
            f"{name:12} {timing.rows:5} {timing.rmsle_step:13.4f} {timing.rmsle_grad:7.4f}"
            f" {timing.mean_abs_error:10.1%} {timing.p95_abs_error:7.1%}"
            f" {fit.efficiency_error.mean:17.3f}"
        )


if __name__ == "__main__":
    guarded(main)
