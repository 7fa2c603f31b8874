"""Tiresias: two-queue discretised least attained service (Gu et al., NSDI 2019).

Users fix GPUs and batch size. As in the authors' artifact: promotion is off, running jobs stay
where they are, and smaller jobs may overtake a large one that does not fit.
"""

from __future__ import annotations

from papers.pollux_sim.simulator.cluster import Cluster, place_greedily
from papers.pollux_sim.simulator.job import Allocation, Job

#: GPU-seconds of service after which a job falls to the second queue (16 GPU-hours).
QUEUE_THRESHOLD_S = 57_600


class Tiresias:
    """Scheduler state: queues of job names and the executed seconds of each.

    Args:
        num_gpus: GPUs that each job asks for, by name.
    """

    def __init__(self, num_gpus: dict[str, int]) -> None:
        self._wanted = num_gpus
        self._queues: tuple[list[str], list[str]] = ([], [])
        self._running: dict[str, bool] = {}
        self._executed: dict[str, int] = {}
        self._last_round = 0

    def allocate(self, jobs: list[Job], cluster: Cluster, now: int) -> dict[str, Allocation]:
        """One round; see the module's text."""
        names = {job.name for job in jobs}
        first, second = self._queues = tuple(  # type: ignore[assignment]
            [name for name in queue if name in names] for queue in self._queues
        )
        interval, self._last_round = now - self._last_round, now
        for job in jobs:
            name = job.name
            if name not in self._running:
                self._running[name], self._executed[name] = False, 0
                first.append(name)
            elif self._running[name]:
                self._executed[name] += interval
                service = self._executed[name] * self._wanted[name]
                if service >= QUEUE_THRESHOLD_S and name in first:
                    first.remove(name)
                    second.append(name)
        left = cluster.num_gpus
        for name in (*first, *second):
            self._running[name] = self._wanted[name] <= left
            if self._running[name]:
                left -= self._wanted[name]
        kept = {job.name: job.allocation for job in jobs if self._running[job.name]}
        free = cluster.free_gpus(kept.values())
        for name in (*first, *second):
            if self._running[name] and not kept[name]:
                kept[name] = place_greedily(self._wanted[name], free)
        return kept
