"""Discrete-time cluster simulator: one step is one scheduling interval. Sec. 5.3.

Each step trains every job for one interval under its allocation, then lets the policy re-allocate.
Times are whole seconds; a simulation is a function of its arguments.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

import numpy as np

from papers.pollux_sim.simulator.cluster import Cluster, Policy, refuse_impossible
from papers.pollux_sim.simulator.job import Allocation, Job

#: Rounds without a job to run, or without a GPU for those there are, that are waited through: a
#: week of rounds of a minute. A cluster that idles longer has nothing to show and may never end.
IDLE_ROUNDS: Final = 10_000


class Interval(NamedTuple):
    """State of the cluster after one round."""

    time_s: int
    num_nodes: int
    active_jobs: int
    gpus_used: int
    #: Mean statistical efficiency of the running jobs, weighted by their GPUs (1 when idle).
    efficiency: float


class Span(NamedTuple):
    """A job held an allocation from ``start_s`` to ``end_s``."""

    job: str
    start_s: int
    end_s: int
    allocation: Allocation
    batch_size: int
    efficiency: float


class Autoscaler(Protocol):
    """Decides the number of nodes before each round."""

    def num_nodes(self, jobs: list[Job], cluster: Cluster, now: int) -> int:
        """Nodes that the cluster should have."""
        ...


@dataclass
class Simulation:
    """Outcome of a simulation.

    Attributes:
        jobs: finished jobs, in order of submission.
        intervals: one per round.
        spans: who held what and when; the batch and efficiency are those at the end of the span.
        node_seconds: integral of the cluster's size until the last job finished.
    """

    jobs: list[Job]
    intervals: list[Interval] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    node_seconds: float = 0.0

    @property
    def completion_times(self) -> list[int]:
        """Completion minus submission, seconds, of each job."""
        return [(job.completion_time or 0) - job.submission_time for job in self.jobs]

    @property
    def makespan(self) -> int:
        """Latest completion, seconds from the start of the workload."""
        return max(job.completion_time or 0 for job in self.jobs)

    def metrics(self) -> dict[str, float]:
        """Summary figures; names end in their unit."""
        jct = np.array(self.completion_times, dtype=float)
        busy = [row for row in self.intervals if row.gpus_used]
        gpus = np.array([row.gpus_used for row in busy], dtype=float)
        held = sum(job.attained_service for job in self.jobs)
        stalled = sum(job.stalled_s for job in self.jobs)
        running = sum((job.completion_time or 0) - (job.first_start or 0) for job in self.jobs)
        restarts = sum(job.num_restarts or 0 for job in self.jobs)
        return {
            "avg_jct_s": float(jct.mean()),
            "p50_jct_s": float(np.percentile(jct, 50)),
            "p99_jct_s": float(np.percentile(jct, 99)),
            "max_jct_s": float(jct.max()),
            "makespan_s": float(self.makespan),
            "gpu_hours": held / 3600.0,
            "mean_gpus_used": float(gpus.mean()),
            "mean_efficiency": float(np.average([row.efficiency for row in busy], weights=gpus)),
            "restarts_per_job": restarts / len(self.jobs),
            "stalled_share": stalled / max(running, 1),
            "node_hours": self.node_seconds / 3600.0,
            "num_jobs": float(len(self.jobs)),
        }


def simulate(
    jobs: list[Job],
    policy: Policy,
    cluster: Cluster,
    interval_s: int = 60,
    interference: float = 0.0,
    autoscaler: Autoscaler | None = None,
    on_round: Callable[[int, int], None] = lambda now, finished: None,
) -> Simulation:
    """Run until every job has finished.

    Args:
        jobs: in order of submission; they are advanced in place.
        policy: called once an interval.
        cluster: resized in place where an autoscaler is given.
        interval_s: scheduling interval, seconds.
        interference: fraction of speed that each of two or more distributed jobs sharing a node
            loses.
        on_round: told the clock and the number of finished jobs after each round.

    Times between two jobs at which nothing is there to run are recorded round by round up to
    :data:`IDLE_ROUNDS`; what is longer is skipped.

    Raises:
        ValueError: no job, jobs out of order or of one name, or an interval below a second.
        RuntimeError: the policy hands out what is not there, or leaves all GPUs idle for
            :data:`IDLE_ROUNDS` rounds while jobs wait.
    """
    _refuse_workload(jobs, interval_s)
    outcome = Simulation(jobs)
    recorder = _SpanRecorder(outcome.spans)
    now, waiting, active, finished = 0, deque(jobs), list[Job](), 0
    unused = 0
    while waiting or active:
        if not active:
            rounds = (waiting[0].submission_time - now) // interval_s
            now += interval_s * (rounds if rounds > IDLE_ROUNDS else 0)
        slowed = _interfered(active) if interference else set()
        for job in active:
            job.advance(now, interval_s, interference if job.name in slowed else 0.0)
        outcome.node_seconds += cluster.num_nodes * min(
            interval_s,
            max((job.completion_time or now + interval_s for job in active), default=now) - now,
        )
        now += interval_s
        for job in active:
            if job.completion_time is not None:
                finished += 1
                recorder.close(job, job.completion_time)
        active = [job for job in active if job.completion_time is None]
        while waiting and waiting[0].submission_time <= now:
            active.append(waiting.popleft())
        if active:
            if autoscaler is not None:
                cluster.num_nodes = autoscaler.num_nodes(active, cluster, now)
            allocations = policy.allocate(active, cluster, now)
            try:
                refuse_impossible(allocations, active, cluster)
            except ValueError as error:
                name = type(policy).__name__
                raise RuntimeError(f"policy {name} at {now} s: {error}") from None
            for job in active:
                allocation = allocations.get(job.name, ())
                if allocation != job.allocation:
                    recorder.close(job, now)
                    job.reallocate(allocation, now)
                    recorder.open(job, now)
            unused = 0 if any(job.allocation for job in active) else unused + 1
            if unused > IDLE_ROUNDS:
                raise RuntimeError(
                    f"policy {type(policy).__name__} at {now} s: no job was given a GPU for"
                    f" {unused} rounds; waiting: {', '.join(job.name for job in active[:5])}"
                )
        outcome.intervals.append(_snapshot(now, cluster, active))
        on_round(now, finished)
    return outcome


def _refuse_workload(jobs: list[Job], interval_s: int) -> None:
    if not jobs:
        raise ValueError("no jobs; at least one is needed")
    if interval_s < 1:
        raise ValueError(f"interval_s: {interval_s}; allowed: at least 1")
    names = Counter(job.name for job in jobs)
    (name, times), *_ = names.most_common(1)
    if times > 1:
        raise ValueError(f"{times} jobs are named {name!r}; allowed: a name of its own for each")
    for earlier, later in pairwise(jobs):
        if later.submission_time < earlier.submission_time:
            raise ValueError(
                f"job {later.name!r} ({later.submission_time} s) stands after {earlier.name!r}"
                f" ({earlier.submission_time} s); allowed: jobs in order of submission"
            )


def _snapshot(now: int, cluster: Cluster, active: list[Job]) -> Interval:
    used = sum(job.num_gpus for job in active)
    weighted = sum(job.num_gpus * job.efficiency for job in active)
    return Interval(now, cluster.num_nodes, len(active), used, weighted / used if used else 1.0)


def _interfered(active: list[Job]) -> set[str]:
    """Names of distributed jobs that share a node with another distributed job."""
    tenants: dict[int, list[str]] = {}
    for job in active:
        if len(job.allocation) > 1:
            for node, _ in job.allocation:
                tenants.setdefault(node, []).append(job.name)
    return {name for names in tenants.values() if len(names) > 1 for name in names}


class _SpanRecorder:
    """Turns changes of allocation into spans."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans, self._open = spans, dict[str, int]()

    def open(self, job: Job, now: int) -> None:
        if job.allocation:
            self._open[job.name] = now

    def close(self, job: Job, now: int) -> None:
        start = self._open.pop(job.name, None)
        if start is not None:
            self._spans.append(
                Span(job.name, start, now, job.allocation, job.batch_size, job.efficiency)
            )
