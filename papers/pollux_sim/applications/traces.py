"""Applications as the Pollux authors measured them (16 nodes with four T4 each).

Timing comes from timed placements, statistics and progress from complete training runs at fixed
batch sizes. Interpolation follows the authors' artifact so that its schedules are met to the
second. Source: petuum/adaptdl, branch osdi21-artifact, folder simulator.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from papers.pollux_sim.applications.applications import (
    APPLICATIONS,
    Application,
    Placement,
    canonical_placement,
    find_constants,
)
from papers.pollux_sim.applications.csv_columns import (
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    Kind,
    read_columns,
    refuse,
)

#: The largest number of nodes that was timed; wider placements are taken as this wide.
MAX_NODES: Final = 16


def _parse_placement(text: str) -> Placement:
    placement = tuple(map(int, text))
    if not 1 <= len(placement) <= 4 or not all(1 <= gpus <= 4 for gpus in placement):
        raise ValueError(text)
    return canonical_placement(placement)


PLACEMENT: Final = Kind(_parse_placement, "one to four digits 1..4, GPUs on each node")
TIMES: Final = {"local_bsz": COUNT, "step_time": POSITIVE, "sync_time": NON_NEGATIVE}
RUN: Final = {
    "progress": POSITIVE,
    "iteration": COUNT,
    "grad_sqr": NON_NEGATIVE,
    "grad_var": NON_NEGATIVE,
}


class TimingRows(NamedTuple):
    """Every timed configuration: (n, 3) N, K, m and (n, 2) step and sync time in seconds."""

    points: NDArray[np.float64]
    times: NDArray[np.float64]


class TraceApplication(Application):
    """One application answered from its measured CSV files.

    Args:
        name: one of :data:`~papers.pollux_sim.applications.applications.APPLICATIONS`.
        folder: holds ``placements.csv``, ``scalability.csv`` and ``validation-<M>.csv``.

    Raises:
        InputError: unknown application, absent or malformed file.
    """

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(find_constants(name))
        self._placements = _read_times(folder / "placements.csv", {"placement": PLACEMENT})
        self._scalability = _read_times(
            folder / "scalability.csv", {"num_nodes": COUNT, "num_replicas": COUNT}
        )
        self._curves = _timing_curves(self._placements)
        self._interpolator: Any = None
        self.batch_sizes = list(self.constants.batch_sizes)
        self.runs = [self._read_run(folder, batch_size) for batch_size in self.batch_sizes]
        self._targets: list[float] = [0.0] + [
            min(run["progress"][epoch] for run in self.runs) for epoch in range(self.max_epochs)
        ]

    def _read_run(self, folder: Path, batch_size: int) -> dict[str, list[Any]]:
        path = folder / f"validation-{batch_size}.csv"
        run = read_columns(path, RUN)
        if len(run["progress"]) < self.max_epochs:
            raise InputError(
                f"{path}: {len(run['progress'])} epochs; allowed: at least {self.max_epochs}"
            )
        steps = pairwise([0.0, *run["progress"]])
        for line, (before, after) in zip(run["line"], steps, strict=True):
            if after <= before:
                raise refuse(path, line, "progress", after, f"more than {before}, the row above")
        return run

    def progress_target(self, epoch: int) -> float:
        """Smallest progress any measured run had made after ``epoch`` epochs."""
        return self._targets[epoch]

    def iterations(self, batch_size: float, epochs: int) -> float:
        """Real iterations, linear in M between measured runs."""
        return self._between_runs("iteration", batch_size, epochs - 1) if epochs else 0.0

    def timing_rows(self, max_local_bsz: int | None = None) -> TimingRows:
        """Every timed configuration with m up to ``max_local_bsz``, placements first."""
        placed, wide = self._placements, self._scalability
        points = [
            (len(placement), sum(placement), m)
            for placement, m in zip(placed["placement"], placed["local_bsz"], strict=True)
        ]
        points += zip(wide["num_nodes"], wide["num_replicas"], wide["local_bsz"], strict=True)
        times = [placed[column] + wide[column] for column in ("step_time", "sync_time")]
        rows = TimingRows(np.array(points, dtype=float), np.array(times).T)
        keep = rows.points[:, 2] <= (max_local_bsz or np.inf)
        return TimingRows(rows.points[keep], rows.times[keep])

    def compute_statistics(self, batch_size: float, epoch: int) -> tuple[float, float]:
        return (
            self._between_runs("grad_sqr", batch_size, epoch),
            self._between_runs("grad_var", batch_size, epoch),
        )

    def _between_runs(self, column: str, batch_size: float, epoch: int) -> float:
        """Row ``epoch`` of ``column``, linear in M between the two nearest measured runs."""
        sizes = self.batch_sizes
        if not sizes[0] <= batch_size <= sizes[-1]:
            raise ValueError(
                f"{self.name}: batch size {batch_size}; measured: {sizes[0]}..{sizes[-1]}"
            )
        upper = bisect_left(sizes, batch_size)
        above = float(self.runs[upper][column][epoch])
        high = sizes[upper]
        if high == batch_size:
            return above
        low = sizes[upper - 1]
        below = float(self.runs[upper - 1][column][epoch])
        return ((batch_size - low) * above + (high - batch_size) * below) / (high - low)

    def compute_timing(self, placement: Placement, local_bsz: int) -> tuple[float, float]:
        curve = self._curves.get(placement)
        if curve is None:
            return self._far_timing(placement, local_bsz)
        sizes, times = curve
        if not sizes[0] <= local_bsz <= sizes[-1]:
            raise ValueError(
                f"{self.name}: {local_bsz} samples per GPU on placement {placement}; "
                f"measured: {sizes[0]}..{sizes[-1]}"
            )
        upper = max(bisect_left(sizes, local_bsz), 1)
        width, ahead = sizes[upper] - sizes[upper - 1], local_bsz - sizes[upper - 1]
        step, sync = (
            (above - below) / width * ahead + below
            for below, above in zip(times[upper - 1], times[upper], strict=True)
        )
        return step, sync

    def _far_timing(self, placement: Placement, local_bsz: int) -> tuple[float, float]:
        """Piecewise linear over (N, K, m), the way to reach placements on five or more nodes."""
        if self._interpolator is None:
            from scipy.interpolate import LinearNDInterpolator

            self._interpolator = LinearNDInterpolator(*self._averaged_rows())
        num_nodes, num_gpus = min(len(placement), MAX_NODES), sum(placement)
        step, sync = self._interpolator([num_nodes, num_gpus, local_bsz])[0].tolist()
        if not np.isfinite(step):
            raise ValueError(
                f"{self.name}: {num_gpus} GPUs on {num_nodes} nodes with {local_bsz} samples each "
                "lie outside the measured range"
            )
        return step, sync

    def _averaged_rows(self) -> TimingRows:
        """Placements averaged per (N, K, m), in that order, then the scalability rows.

        The grid is degenerate, so the triangulation depends on the order of its points.
        """
        rows = self.timing_rows()
        count = len(self._placements["placement"])
        points, group, size = np.unique(
            rows.points[:count], axis=0, return_inverse=True, return_counts=True
        )
        sums = np.zeros((len(points), 2))
        np.add.at(sums, group.reshape(-1), rows.times[:count])
        return TimingRows(
            np.vstack([points, rows.points[count:]]),
            np.vstack([sums / size[:, None], rows.times[count:]]),
        )


def _read_times(path: Path, kinds: dict[str, Kind]) -> dict[str, list[Any]]:
    rows = read_columns(path, {**kinds, **TIMES})
    for line, step, sync in zip(rows["line"], rows["step_time"], rows["sync_time"], strict=True):
        if sync >= step:
            raise refuse(path, line, "sync_time", sync, f"less than the step_time {step}")
    return rows


def _timing_curves(
    rows: dict[str, list[Any]],
) -> dict[Placement, tuple[list[int], list[tuple[float, float]]]]:
    """For each timed placement: m ascending, and (step, sync) at each."""
    grouped: dict[Placement, dict[int, tuple[float, float]]] = {}
    columns = (rows[name] for name in ("placement", "local_bsz", "step_time", "sync_time"))
    for placement, local_bsz, step, sync in zip(*columns, strict=True):
        grouped.setdefault(placement, {})[local_bsz] = (step, sync)
    return {
        placement: (sorted(times), [times[m] for m in sorted(times)])
        for placement, times in grouped.items()
    }


def load_traces(folder: Path) -> dict[str, Application]:
    """All six applications from ``folder/traces/<application>``. Raises InputError."""
    return {name: TraceApplication(name, folder / "traces" / name) for name in APPLICATIONS}
