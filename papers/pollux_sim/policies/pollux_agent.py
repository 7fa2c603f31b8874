"""PolluxAgent: learns a job's goodput from its own steps and chooses its batch. Sec. 4.1."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from papers.pollux_sim.applications.applications import Application
from papers.pollux_sim.models.goodput import BatchLimits, Theta, best_batch, goodput_table
from papers.pollux_sim.models.throughput_fit import fit
from papers.pollux_sim.simulator.job import clip_to_max_batch, split_fixed_batch

#: The largest job that was ever measured; beyond it the simulator knows nothing.
MAX_GPUS = 64


class PolluxAgent:
    """Goodput model of one job.

    Args:
        application: limits of the job (its true speed is never looked at).
        fixed_batch_size: set for a job that may not change its batch; only GPUs adapt.
        gpu_limit: most GPUs that the job may ever hold.
        known_theta: a throughput model fitted offline; without it the job explores.
    """

    def __init__(
        self,
        application: Application,
        fixed_batch_size: int | None = None,
        gpu_limit: int = MAX_GPUS,
        known_theta: Theta | None = None,
    ) -> None:
        self.application = application
        self.fixed_batch_size = fixed_batch_size
        self.limits = BatchLimits(
            application.init_batch_size,
            application.max_batch_size,
            application.min_local_bsz,
            application.max_local_bsz,
        )
        self.feasible_gpus = application.max_batch_size // application.min_local_bsz
        self._gpu_limit = min(gpu_limit, self.feasible_gpus)
        self._known_theta = known_theta
        self._rows: dict[tuple[int, int, int], tuple[float, ...]] = {}
        self._theta = known_theta
        self._stale = False
        self._largest = 0
        self.num_fits = 0
        # Before the first step nothing is known of the gradient: EFFICIENCY is taken as 1.
        self.statistics = (0.0, 1.0)

    @property
    def theta(self) -> Theta | None:
        """The fitted throughput model; None before the first step."""
        if self._stale and self._known_theta is None:
            self._theta = fit(np.array(list(self._rows.values())))
            self.num_fits += 1
        self._stale = False
        return self._theta

    @property
    def has_run(self) -> bool:
        """Whether any step was observed."""
        return bool(self._rows)

    @property
    def gpu_cap(self) -> int:
        """Most GPUs that the job may hold next: twice the most that it has tried."""
        if self._known_theta is not None:
            return self._gpu_limit
        return min(max(2 * self._largest, 1), self._gpu_limit)

    def observe(
        self,
        num_nodes: int,
        num_gpus: int,
        local_bsz: int,
        times: tuple[float, float],
        statistics: tuple[float, float],
    ) -> None:
        """Learn from a step; the first measurement of a configuration is the one that counts."""
        self.statistics = statistics
        key = (num_nodes, num_gpus, local_bsz)
        if key not in self._rows:
            step, sync = times
            self._rows[key] = (*key, math.log(step - sync), math.log(step))
            self._largest = max(self._largest, num_gpus)
            self._stale = True

    def choose(self, num_nodes: int, num_gpus: int) -> tuple[int, int]:
        """(m, s) of the largest goodput, or a valid start while nothing is known."""
        app = self.application
        if self.fixed_batch_size is not None:
            return split_fixed_batch(self.fixed_batch_size, num_gpus, app)
        if self.theta is None:
            smallest = max(app.init_batch_size, app.min_local_bsz * num_gpus)
            return split_fixed_batch(smallest, num_gpus, app)
        _, local_bsz, accum_steps = self._best(num_nodes > 1, num_gpus)
        return clip_to_max_batch(local_bsz, accum_steps, num_gpus, app)

    def goodput(
        self, crosses_nodes: bool, num_gpus: int, statistics: tuple[float, float] | None = None
    ) -> float:
        """Largest predicted goodput, samples/s; gradient ``statistics`` default to the observed.

        Raises:
            RuntimeError: no step was observed yet.
        """
        return self._best(crosses_nodes, num_gpus, statistics)[0]

    def _best(
        self, crosses_nodes: bool, num_gpus: int, statistics: tuple[float, float] | None = None
    ) -> tuple[float, int, int]:
        theta = self.theta
        if theta is None:
            raise RuntimeError(f"{self.application.name}: no step was observed yet")
        sqr, var = statistics or self.statistics
        best: tuple[float, int, int] = best_batch(
            theta, sqr, var, self.limits, crosses_nodes, num_gpus
        )
        return best

    def speedups(
        self, base_crosses: bool, base_gpus: int, out: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Fill ``out[crosses_nodes, K]`` for K up to the cap; speedup 1 is the base allocation.

        A job that has never run is believed to scale perfectly.
        """
        cap = self.gpu_cap
        theta = self.theta
        if theta is None:
            out[:, : cap + 1] = np.arange(cap + 1) / base_gpus
            return out
        sqr, var = self.statistics
        goodput_table(theta, sqr, var, self.limits, cap, out)
        out[:, : cap + 1] /= self.goodput(base_crosses, min(base_gpus, self.feasible_gpus))
        return out
