"""A simulated job: what it holds, how far it is, and who chooses its batch size."""

from __future__ import annotations

import math
from typing import Protocol

from papers.pollux_sim.applications.applications import Application, Placement

#: (node, GPUs on it) in the order in which the nodes were taken.
Allocation = tuple[tuple[int, int], ...]

#: Seconds a re-allocated job holds its GPUs without making progress (Sec. 5.3).
RESTART_DELAY_S = 30


class BatchChoice(Protocol):
    """Who decides (m, s), samples per GPU and accumulation passes, for a placement."""

    def choose(self, num_nodes: int, num_gpus: int) -> tuple[int, int]:
        """(m, s) on this many nodes and GPUs."""
        ...

    def observe(
        self,
        num_nodes: int,
        num_gpus: int,
        local_bsz: int,
        times: tuple[float, float],
        statistics: tuple[float, float],
    ) -> None:
        """Learn from a step: (step, sync) seconds and gradient (sqr, var)."""
        ...


def split_fixed_batch(batch_size: int, num_gpus: int, application: Application) -> tuple[int, int]:
    """(m, s) of a total batch that is not tuned; one GPU accumulates when M > M0."""
    local = math.ceil(batch_size / num_gpus - 1e-8)
    accum = math.ceil(local / application.max_local_bsz - 1e-8) - 1
    if num_gpus == 1 and batch_size > application.init_batch_size:
        accum = max(1, accum)
    return clip_to_max_batch(math.ceil(local / (accum + 1) - 1e-8), accum, num_gpus, application)


def clip_to_max_batch(
    local_bsz: int, accum_steps: int, num_gpus: int, application: Application
) -> tuple[int, int]:
    """(m, s) with m lowered until K m (s+1) is at most the largest total batch."""
    largest = application.max_batch_size // (num_gpus * (accum_steps + 1))
    return min(local_bsz, largest), accum_steps


class FixedBatch:
    """The user's batch size, kept."""

    def __init__(self, batch_size: int, application: Application) -> None:
        self.batch_size, self.application = batch_size, application

    def choose(self, num_nodes: int, num_gpus: int) -> tuple[int, int]:
        """The split of the fixed batch."""
        return split_fixed_batch(self.batch_size, num_gpus, self.application)

    def observe(
        self,
        num_nodes: int,
        num_gpus: int,
        local_bsz: int,
        times: tuple[float, float],
        statistics: tuple[float, float],
    ) -> None:
        """Nothing to learn."""


class Job:
    """State of one job.

    Attributes:
        progress: iterations at M0 that its training is worth so far.
        attained_service: GPU-seconds held, restart delays included.
        num_restarts: re-allocations after the first start; None before it.
        completion_time: seconds, None while unfinished.
        efficiency: statistical efficiency of the last step, in (0, 1].
        stalled_s: seconds spent holding GPUs while restarting.
    """

    def __init__(
        self, name: str, application: Application, submission_time: int, batch: BatchChoice
    ) -> None:
        self.name, self.application, self.batch = name, application, batch
        self.submission_time = submission_time
        self.allocation: Allocation = ()
        self.placement: Placement = ()
        self.num_gpus = 0
        self.local_bsz, self.accum_steps = 0, 0
        self.epoch, self.progress = 0, 0.0
        self.attained_service = 0
        self.num_restarts: int | None = None
        self.restart_left = 0
        self.stalled_s = 0
        self.first_start: int | None = None
        self.completion_time: int | None = None
        self.efficiency = 1.0

    @property
    def batch_size(self) -> int:
        """Total batch size in use, 0 while the job holds nothing."""
        return self.num_gpus * self.local_bsz * (self.accum_steps + 1)

    def reallocate(self, allocation: Allocation, now: int) -> None:
        """Move the job; it stalls for :data:`RESTART_DELAY_S` if it holds GPUs afterwards."""
        self.allocation = allocation
        self.placement = tuple(gpus for _, gpus in allocation)
        self.num_gpus = sum(self.placement)
        if not allocation:
            self.local_bsz = 0
            return
        self._tune()
        self.restart_left = RESTART_DELAY_S
        if self.num_restarts is None:
            self.num_restarts, self.first_start = 0, now
        else:
            self.num_restarts += 1

    def _tune(self) -> None:
        self.local_bsz, self.accum_steps = self.batch.choose(len(self.placement), self.num_gpus)

    def advance(self, start: int, seconds: int, slowdown: float = 0.0) -> None:
        """Train for ``seconds`` from clock time ``start`` on the GPUs held.

        Args:
            slowdown: fraction of speed lost to interference, in [0, 1).
        """
        if not self.placement:
            return
        delay = min(self.restart_left, seconds)
        self.restart_left -= delay
        self.stalled_s += delay
        used, left = delay, float(seconds - delay)
        app, placement, num_gpus = self.application, self.placement, self.num_gpus
        while left > 0 and self.completion_time is None:
            batch_size = self.batch_size
            scale = batch_size / app.init_batch_size
            times = app.timing(placement, self.local_bsz)
            statistics = app.statistics(batch_size, self.epoch)
            sqr, var = statistics
            gain = (var + sqr) / (var / scale + sqr)
            self.efficiency = gain / scale
            self.batch.observe(len(placement), num_gpus, self.local_bsz, times, statistics)
            step, sync = times
            rate = gain / (step + self.accum_steps * (step - sync)) * (1.0 - slowdown)
            target = app.progress_target(self.epoch + 1)
            if self.progress + rate * left < target:
                self.progress += rate * left
                used += int(left)
                left = 0
            else:
                # An epoch ends within the interval; whole seconds, half to even (artifact).
                self.epoch += 1
                elapsed = round((target - self.progress) / rate)
                self.progress = target
                used += elapsed
                left -= elapsed
                if self.epoch >= app.max_epochs:
                    self.completion_time = start + used
            self._tune()
        self.attained_service += used * num_gpus
