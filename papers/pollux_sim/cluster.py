"""The cluster that policies share: its size, free GPUs, and greedy placement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from papers.pollux_sim.job import Allocation, Job


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
    """Take ``num_gpus`` from the emptiest nodes (ties: lowest index); lowers ``free``."""
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
