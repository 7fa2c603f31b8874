"""The cluster that policies share: its size, free GPUs, and greedy placement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from papers.pollux_sim.simulator.job import Allocation, Job


@dataclass
class Cluster:
    """``num_nodes`` nodes of ``gpus_per_node`` GPUs; auto-scaling changes the former."""

    num_nodes: int
    gpus_per_node: int

    @property
    def num_gpus(self) -> int:
        """GPUs in the cluster."""
        return self.num_nodes * self.gpus_per_node

    def free_gpus(self, held: Iterable[Allocation]) -> list[int]:
        """Free GPUs of each node when ``held`` is in use."""
        free = [self.gpus_per_node] * self.num_nodes
        for allocation in held:
            for node, gpus in allocation:
                free[node] -= gpus
        return free


def place_greedily(num_gpus: int, free: list[int]) -> Allocation:
    """Take ``num_gpus`` from the emptiest nodes (ties: lowest index); lowers ``free``.

    Raises:
        ValueError: fewer are free.
    """
    if num_gpus > sum(free):
        raise ValueError(f"{num_gpus} GPUs are to be placed and {sum(free)} are free")
    taken: list[tuple[int, int]] = []
    while num_gpus > 0:
        most = max(free)
        node = free.index(most)
        gpus = min(most, num_gpus)
        taken.append((node, gpus))
        free[node] -= gpus
        num_gpus -= gpus
    return tuple(taken)


class Policy(Protocol):
    """A scheduling policy: called once a round with the submitted, unfinished jobs."""

    def allocate(self, jobs: list[Job], cluster: Cluster, now: int) -> dict[str, Allocation]:
        """Allocation of each job by name; a job left out holds nothing."""
        ...


def refuse_impossible(
    allocations: Mapping[str, Allocation], jobs: list[Job], cluster: Cluster
) -> None:
    """Raise ValueError, naming job and allocation, if ``cluster`` cannot give what is asked."""
    unknown = sorted(allocations.keys() - {job.name for job in jobs})
    if unknown:
        raise ValueError(f"job {unknown[0]!r} is not among those submitted and unfinished")
    for name, allocation in allocations.items():
        nodes = [node for node, _ in allocation]
        if any(not 0 <= node < cluster.num_nodes for node in nodes):
            allowed = f"allowed: nodes 0..{cluster.num_nodes - 1}"
        elif len(set(nodes)) < len(nodes):
            allowed = "allowed: each node once, with all GPUs of the job on it"
        elif any(gpus < 1 for _, gpus in allocation):
            allowed = "allowed: at least 1 GPU on each node"
        else:
            continue
        raise ValueError(f"job {name!r} is given {allocation}; {allowed}")
    free = cluster.free_gpus(allocations.values())
    if min(free) < 0:
        node = free.index(min(free))
        given = cluster.gpus_per_node - free[node]
        raise ValueError(
            f"{given} GPUs of node {node} are handed out; allowed: {cluster.gpus_per_node}"
        )
