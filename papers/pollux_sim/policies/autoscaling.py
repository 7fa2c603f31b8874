"""Cloud auto-scaling by goodput, and by throughput as the comparator. Sec. 5.3, Fig. 9.

The cluster grows when its jobs use the GPUs they have too well: when the sum of speedups per GPU
exceeds U, to the size at which that ratio is predicted to be about L. It does not shrink.
"""

from __future__ import annotations

from typing import Literal

from papers.pollux_sim.applications.tuned_jobs import packed
from papers.pollux_sim.policies.pollux_agent import PolluxAgent
from papers.pollux_sim.simulator.cluster import Cluster
from papers.pollux_sim.simulator.job import Allocation, Job

Measure = Literal["goodput", "throughput"]
#: Gradient (sqr, var) under which every batch size is equally efficient.
PERFECT_STATISTICS = (0.0, 1.0)


class ThroughputAgent(PolluxAgent):
    """An agent that is blind to statistical efficiency: it maximises samples per second."""

    def observe(
        self,
        num_nodes: int,
        num_gpus: int,
        local_bsz: int,
        times: tuple[float, float],
        statistics: tuple[float, float],
    ) -> None:
        """Learn the times and ignore the gradient."""
        super().observe(num_nodes, num_gpus, local_bsz, times, PERFECT_STATISTICS)


class UtilityAutoscaler:
    """Grows the cluster by the utility of its jobs.

    Args:
        max_nodes: largest cluster.
        measure: what a speedup counts; "throughput" takes EFFICIENCY as 1, the rule of a
            scheduler that does not know it (the comparator of Fig. 9, after Or et al. 2020).
        upper, lower: U and L.
    """

    def __init__(
        self, max_nodes: int, measure: Measure, upper: float = 2 / 3, lower: float = 1 / 2
    ) -> None:
        self.max_nodes, self.measure = max_nodes, measure
        self.upper, self.lower = upper, lower

    def num_nodes(self, jobs: list[Job], cluster: Cluster, now: int) -> int:
        """Nodes that the cluster should have now; jobs that have not run yet do not count."""
        size = cluster.num_nodes
        known = [
            job.batch for job in jobs if isinstance(job.batch, PolluxAgent) and job.batch.has_run
        ]
        if not known or size >= self.max_nodes or self._utility(known, size, cluster) <= self.upper:
            return size
        return min(
            range(size + 1, self.max_nodes + 1),
            key=lambda nodes: abs(self._utility(known, nodes, cluster) - self.lower),
        )

    def _utility(self, agents: list[PolluxAgent], num_nodes: int, cluster: Cluster) -> float:
        """Sum of speedups over one GPU per GPU, each job on an equal share of the cluster."""
        share = max(num_nodes * cluster.gpus_per_node // len(agents), 1)
        assumed = PERFECT_STATISTICS if self.measure == "throughput" else None
        total = 0.0
        for agent in agents:
            gpus = min(share, agent.feasible_gpus)
            crosses = len(packed(gpus, cluster.gpus_per_node)) > 1
            total += agent.goodput(crosses, gpus, assumed) / agent.goodput(False, 1, assumed)
        return total / (num_nodes * cluster.gpus_per_node)


class EqualShares:
    """Gives every job the same number of packed GPUs; one job gets the whole cluster."""

    def allocate(self, jobs: list[Job], cluster: Cluster, now: int) -> dict[str, Allocation]:
        """Consecutive GPUs, in order of submission; GPUs that do not divide stay idle."""
        share = cluster.num_gpus // len(jobs)
        result: dict[str, Allocation] = {}
        for index, job in enumerate(jobs):
            pairs: dict[int, int] = {}
            for gpu in range(index * share, (index + 1) * share):
                node = gpu // cluster.gpus_per_node
                pairs[node] = pairs.get(node, 0) + 1
            result[job.name] = tuple(pairs.items())
        return result
