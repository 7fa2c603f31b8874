"""PolluxSched: re-allocates the whole cluster for the best power mean of speedups. Sec. 4.2."""

from __future__ import annotations

import math

import numpy as np

from papers.pollux_sim.policies.pollux_agent import PolluxAgent
from papers.pollux_sim.search.allocation_operators import Allocations, Problem
from papers.pollux_sim.search.genetic_search import Front, search
from papers.pollux_sim.simulator.cluster import Cluster
from papers.pollux_sim.simulator.job import RESTART_DELAY_S, Allocation, Job

MAX_NODES_PER_JOB = 16


class PolluxSched:
    """Genetic search over allocations, warm-started from the last round's front.

    Args:
        seed: of the search; schedules are a function of workload, settings and seed.
        power: p of FITNESS_p; -1 is the paper's default, smaller is fairer.
        population_size, generations: of the search.
        avoid_interference: allow at most one distributed job on a node.
        upstream: keep two quirks of the authors' artifact: the warm start hands rows to surviving
            jobs by rank instead of by name, and the interference mask also clears single-node
            jobs behind a second distributed one.
    """

    def __init__(
        self,
        seed: int = 0,
        power: float = -1.0,
        population_size: int = 100,
        generations: int = 100,
        avoid_interference: bool = True,
        upstream: bool = False,
    ) -> None:
        self.seed, self.power = seed, float(power)
        self.population_size, self.generations = population_size, generations
        self.avoid_interference, self.upstream = avoid_interference, upstream
        self.rounds, self.evaluations = 0, 0
        self._previous: tuple[list[str], Allocations] | None = None

    def allocate(self, jobs: list[Job], cluster: Cluster, now: int) -> dict[str, Allocation]:
        """One round; jobs that attained least service come first in the genome."""
        jobs = sorted(jobs, key=lambda job: (job.attained_service, job.submission_time))
        problem = self._problem(jobs, cluster, now)
        initial = problem.current if self._previous is None else self._warm_start(jobs, cluster)
        front = self._search(problem, initial)
        self._previous = ([job.name for job in jobs], front.allocations)
        return {
            job.name: _pairs(front.allocations, front.best, row) for row, job in enumerate(jobs)
        }

    def _search(self, problem: Problem, initial: Allocations) -> Front:
        seed = self.seed * 1_000_003 + self.rounds
        front = search(problem, initial, self.population_size, self.generations, seed)
        self.rounds += 1
        self.evaluations += front.evaluations
        return front

    def _problem(self, jobs: list[Job], cluster: Cluster, now: int) -> Problem:
        """Speedups relative to an equal share of the cluster, and what moving would cost."""
        share = math.ceil(cluster.num_gpus / len(jobs))
        share_crosses = math.ceil(cluster.num_nodes / cluster.num_gpus) > 1
        agents = [_agent(job) for job in jobs]
        caps = np.array([min(agent.gpu_cap, cluster.num_gpus) for agent in agents])
        speedup = np.zeros((len(jobs), 2, max(agent.gpu_cap for agent in agents) + 1))
        for row, agent in enumerate(agents):
            agent.speedups(share_crosses, share, speedup[row])
        age = np.array([now - job.submission_time for job in jobs], dtype=float)
        restarts = np.array([job.num_restarts or 0 for job in jobs])
        factor = np.maximum(age - restarts * RESTART_DELAY_S, 0.0) / (age + RESTART_DELAY_S)
        current = _empty(1, len(jobs), _row_length(cluster))
        for row, job in enumerate(jobs):
            for entry, (node, gpus) in enumerate(job.allocation):
                current.node[0, row, entry], current.gpus[0, row, entry] = node, gpus
            current.length[0, row] = len(job.allocation)
        return Problem(
            current=current,
            speedup=speedup,
            gpu_cap=caps,
            realloc_factor=factor,
            num_nodes=cluster.num_nodes,
            gpus_per_node=cluster.gpus_per_node,
            power=self.power,
            avoid_interference=self.avoid_interference,
            mask_all_later_jobs=self.upstream,
        )

    def _warm_start(self, jobs: list[Job], cluster: Cluster) -> Allocations:
        """The last front with finished jobs dropped and new jobs empty."""
        assert self._previous is not None
        names, front = self._previous
        alive = {job.name for job in jobs}
        source = [row for row, name in enumerate(names) if name in alive]
        old = set(names)
        target = [row for row, job in enumerate(jobs) if job.name in old]
        if not self.upstream:
            row_of = {job.name: row for row, job in enumerate(jobs)}
            target = [row_of[names[row]] for row in source]
        start = _empty(len(front.length), len(jobs), _row_length(cluster))
        # The old rows are shorter where an auto-scaled cluster has grown.
        width = front.node.shape[2]
        start.node[:, target, :width] = front.node[:, source]
        start.gpus[:, target, :width] = front.gpus[:, source]
        start.length[:, target] = front.length[:, source]
        return start


def _agent(job: Job) -> PolluxAgent:
    if not isinstance(job.batch, PolluxAgent):
        raise TypeError(f"{job.name}: PolluxSched needs jobs with a PolluxAgent")
    return job.batch


def _row_length(cluster: Cluster) -> int:
    return min(MAX_NODES_PER_JOB, cluster.num_nodes)


def _empty(count: int, num_jobs: int, row_length: int) -> Allocations:
    return Allocations(
        np.zeros((count, num_jobs, row_length), np.int16),
        np.zeros((count, num_jobs, row_length), np.int8),
        np.zeros((count, num_jobs), np.int16),
    )


def _pairs(allocations: Allocations, index: int, row: int) -> Allocation:
    """One row as (node, GPUs) pairs in order of node."""
    length = allocations.length[index, row]
    nodes = allocations.node[index, row, :length].tolist()
    return tuple(sorted(zip(nodes, allocations.gpus[index, row, :length].tolist(), strict=True)))
