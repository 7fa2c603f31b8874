"""Applications as formulas fitted to the measured traces, for runs without the data.

Timing is the throughput model of Sec. 3.2 with fitted parameters; the noise scale is a small table
over training progress and batch size. Both stand in ``parametric.yaml``, which
:mod:`papers.pollux_sim.tasks.fit_applications` writes.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.experiments.documents import read_yaml
from common.experiments.settings import Settings, validated
from papers.pollux_sim.applications.applications import (
    APPLICATIONS,
    Application,
    Placement,
    find_constants,
)
from papers.pollux_sim.applications.tuned_jobs import TunedJob
from papers.pollux_sim.models.goodput import Theta, gain, grad_time, iteration_time

FITTED: Final = Path(__file__).with_name("parametric.yaml")


class TimingError(Settings):
    """How well the throughput model meets the measured times."""

    rows: int = Field(gt=0)
    rmsle_step: float = Field(ge=0, description="of T_iter")
    rmsle_grad: float = Field(ge=0, description="of T_grad")
    mean_abs_error: float = Field(ge=0, description="of T_iter, relative")
    p95_abs_error: float = Field(ge=0, description="of T_iter, relative")


class NoiseScale(Settings):
    """phi (samples) at knots: one row for each batch size, one column for each progress."""

    batch_sizes: list[int] = Field(min_length=1)
    progress: list[float] = Field(min_length=1, description="fraction of training done")
    phi: list[list[float]]

    @model_validator(mode="after")
    def _check(self) -> NoiseScale:
        shape = {len(row) for row in self.phi}
        if len(self.phi) != len(self.batch_sizes) or shape != {len(self.progress)}:
            raise ValueError("phi: needs a row for each batch size, a column for each progress")
        if min(map(min, self.phi)) <= 0:
            raise ValueError("phi: every value must be > 0")
        for name, knots in (("batch_sizes", self.batch_sizes), ("progress", self.progress)):
            if any(b <= a for a, b in pairwise(knots)):
                raise ValueError(f"{name}: {knots} must ascend")
        return self


class EfficiencyError(Settings):
    """Absolute error of EFFICIENCY over every measured (epoch, batch size)."""

    mean: float = Field(ge=0)
    p95: float = Field(ge=0)
    max: float = Field(ge=0)


class Fit(Settings):
    """What was fitted to one application's traces, and how well."""

    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="over the files that were read")
    theta: dict[str, float]
    timing_error: TimingError
    progress_per_epoch: float = Field(gt=0, description="iterations at M0")
    noise_scale: NoiseScale
    tuned_jobs: list[TunedJob] = Field(min_length=1, description="valid settings on the traces")
    efficiency_error: EfficiencyError

    @model_validator(mode="after")
    def _check(self) -> Fit:
        if tuple(self.theta) != Theta._fields:
            raise ValueError(f"theta: needs exactly {', '.join(Theta._fields)}, in this order")
        return self


class Fits(Settings):
    """The frame of ``parametric.yaml``."""

    applications: dict[str, Fit]

    @model_validator(mode="after")
    def _check(self) -> Fits:
        if set(self.applications) != set(APPLICATIONS):
            raise ValueError(f"applications: needs exactly {', '.join(APPLICATIONS)}")
        return self


class ParametricApplication(Application):
    """One application answered from fitted formulas, defined for every placement and batch."""

    def __init__(self, name: str, fit: Fit) -> None:
        super().__init__(find_constants(name))
        self.theta = Theta(**fit.theta)
        self.progress_per_epoch = fit.progress_per_epoch
        self._log_sizes = np.log(fit.noise_scale.batch_sizes)
        self._log_phi = log_phi_by_epoch(fit.noise_scale, self.max_epochs)
        self._iterations: dict[float, list[float]] = {}

    def progress_target(self, epoch: int) -> float:
        """Every epoch is worth the same progress."""
        return epoch * self.progress_per_epoch

    def iterations(self, batch_size: float, epochs: int) -> float:
        """Real iterations: each makes the gain of its epoch in progress."""
        total = self._iterations.get(batch_size)
        if total is None:
            scale = batch_size / self.init_batch_size
            each = (
                self.progress_per_epoch / gain(*self.statistics(batch_size, epoch), scale)
                for epoch in range(self.max_epochs)
            )
            total = self._iterations[batch_size] = list(accumulate(each, initial=0.0))
        return total[epochs]

    def compute_timing(self, placement: Placement, local_bsz: int) -> tuple[float, float]:
        step = iteration_time(self.theta, len(placement) > 1, sum(placement), local_bsz)
        return step, step - grad_time(self.theta, local_bsz)

    def compute_statistics(self, batch_size: float, epoch: int) -> tuple[float, float]:
        phi = np.exp(np.interp(np.log(batch_size), self._log_sizes, self._log_phi[epoch]))
        return 1.0, float(phi) / self.init_batch_size


def log_phi_by_epoch(noise_scale: NoiseScale, max_epochs: int) -> NDArray[np.float64]:
    """(epochs, batch sizes) log phi in the middle of each epoch; linear in progress, clamped."""
    middle = (np.arange(max_epochs) + 0.5) / max_epochs
    rows = [np.interp(middle, noise_scale.progress, np.log(row)) for row in noise_scale.phi]
    return np.column_stack(rows)


def load_fits(path: Path = FITTED) -> dict[str, Fit]:
    """Fits of all six applications. Raises InputError if the file is unusable."""
    return validated(Fits, read_yaml(path), str(path)).applications


def fitted_theta(name: str) -> Theta:
    """The throughput model fitted offline to all of one application's measurements."""
    return Theta(**load_fits()[name].theta)


def load_parametric(path: Path = FITTED) -> dict[str, Application]:
    """All six applications as fitted formulas. Raises InputError if the file is unusable."""
    return {name: ParametricApplication(name, fit) for name, fit in load_fits(path).items()}
