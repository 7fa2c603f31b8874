"""Optimus+Oracle: marginal-gain allocation with known remaining work (Peng et al., EuroSys 2018).

Batch sizes are fixed by the user, GPUs are not. "Oracle": the iterations left and the step times
are the true ones, not estimates. Details as in the authors' artifact.
"""

from __future__ import annotations

import heapq
import math

from papers.pollux_sim.applications.applications import Application
from papers.pollux_sim.applications.tuned_jobs import packed
from papers.pollux_sim.simulator.cluster import Cluster, place_greedily
from papers.pollux_sim.simulator.job import Allocation, Job, clip_to_max_batch


class Optimus:
    """Scheduler state: memoised step times.

    Args:
        batch_sizes: fixed total batch of each job, by name.
        gpu_caps: most GPUs that a job may hold, by name.
    """

    def __init__(self, batch_sizes: dict[str, int], gpu_caps: dict[str, int]) -> None:
        self._batch_sizes, self._caps = batch_sizes, gpu_caps
        self._step_times: dict[tuple[str, int, int], float] = {}

    def allocate(self, jobs: list[Job], cluster: Cluster, now: int) -> dict[str, Allocation]:
        """One round: a GPU each in order of submission, then one at a time to the largest gain."""
        left = cluster.num_gpus
        counts: dict[str, int] = {}
        gains: list[tuple[float, int]] = []
        for index, job in enumerate(jobs):
            counts[job.name] = 1 if left > 0 else 0
            left -= counts[job.name]
            if counts[job.name] and left > 0:
                self._offer(gains, job, index, 1, cluster)
        while left > 0 and gains:
            _, index = heapq.heappop(gains)
            job = jobs[index]
            counts[job.name] += 1
            left -= 1
            self._offer(gains, job, index, counts[job.name], cluster)
        kept = {
            job.name: job.allocation if job.num_gpus == counts[job.name] else () for job in jobs
        }
        free = cluster.free_gpus(kept.values())
        for name in sorted(counts, key=counts.__getitem__):
            if counts[name] and not kept[name]:
                kept[name] = place_greedily(counts[name], free)
        return kept

    def _offer(
        self, gains: list[tuple[float, int]], job: Job, index: int, held: int, cluster: Cluster
    ) -> None:
        """Push the seconds that one GPU more would save, if any (ties: earliest job first)."""
        if held + 1 > min(self._caps[job.name], cluster.num_gpus):
            return
        saved = self._step_time(job, held, cluster) - self._step_time(job, held + 1, cluster)
        gain = saved * self._remaining(job)
        if gain > 0:
            heapq.heappush(gains, (-gain, index))

    def _remaining(self, job: Job) -> float:
        """Iterations left at the fixed batch; the artifact's count starts one epoch ahead."""
        last = job.application.max_epochs
        if job.epoch >= last - 1:
            return 1.0
        size = self._batch_sizes[job.name]
        done = job.application.iterations(size, job.epoch + 1)
        return job.application.iterations(size, last) - done

    def _step_time(self, job: Job, num_gpus: int, cluster: Cluster) -> float:
        size = self._batch_sizes[job.name]
        key = (job.application.name, size, num_gpus)
        if key not in self._step_times:
            self._step_times[key] = _packed_step_time(
                job.application, size, num_gpus, cluster.gpus_per_node
            )
        return self._step_times[key]


def _packed_step_time(
    app: Application, batch_size: int, num_gpus: int, gpus_per_node: int
) -> float:
    """True seconds of a step on packed nodes; one GPU always accumulates (artifact)."""
    local = math.ceil(batch_size / num_gpus - 1e-8)
    accum = math.ceil(local / app.max_local_bsz - 1e-8) - 1
    if num_gpus == 1:
        accum = max(1, accum)
    local, accum = clip_to_max_batch(math.ceil(local / (accum + 1) - 1e-8), accum, num_gpus, app)
    step, sync = app.timing(packed(num_gpus, gpus_per_node), local)
    return step + (step - sync) * accum
