"""Hand-tuned job settings ("TunedJobs"): what an expert would ask for in advance.

Every GPU count that uses its GPUs 50 to 80 % as well as one GPU is used, with its fastest batch
size. Source: Qiao et al. 2021, Sec. 5.1; details as in the authors' artifact.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from papers.pollux_sim.applications.applications import Application, Placement

GPU_COUNTS: Final = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48)
GPUS_PER_NODE: Final = 4
#: Bounds, both exclusive, on the speedup per GPU of a valid configuration.
MIN_UTILITY, MAX_UTILITY = 0.5, 0.8
MAX_RUNTIME_S: Final = 12 * 3600.0


class TunedJob(NamedTuple):
    """GPUs, total batch size, and the seconds the job then takes alone on the cluster."""

    num_replicas: int
    batch_size: int
    runtime_s: float


def tuned_jobs(application: Application) -> list[TunedJob]:
    """Valid configurations by ascending GPU count; the best one on one GPU where there is none."""
    alone, *wider = [
        _fastest(application, num_gpus)
        for num_gpus in GPU_COUNTS
        if num_gpus * application.min_local_bsz <= application.max_batch_size
    ]
    valid = [
        job
        for job in wider
        if job.runtime_s < MAX_RUNTIME_S
        and MIN_UTILITY < alone.runtime_s / (job.runtime_s * job.num_replicas) < MAX_UTILITY
    ]
    return valid or [alone]


def packed(num_gpus: int, gpus_per_node: int = GPUS_PER_NODE) -> Placement:
    """GPUs on each node when as few nodes as possible are used."""
    full, rest = divmod(num_gpus, gpus_per_node)
    return (gpus_per_node,) * full + ((rest,) if rest else ())


def _fastest(application: Application, num_gpus: int) -> TunedJob:
    """Configuration of ``num_gpus`` GPUs whose batch size finishes training first."""
    jobs = [
        TunedJob(num_gpus, batch_size, _runtime(application, num_gpus, batch_size))
        for batch_size in application.constants.batch_sizes
        if math.ceil(batch_size / num_gpus) >= application.min_local_bsz
    ]
    return min(jobs, key=lambda job: job.runtime_s)


def _runtime(application: Application, num_gpus: int, batch_size: int) -> float:
    """Seconds from start to end; accumulates only where the batch does not fit."""
    local = math.ceil(batch_size / num_gpus)
    passes = math.ceil(local / application.max_local_bsz)
    step, sync = application.timing(packed(num_gpus), math.ceil(local / passes))
    seconds = step + (passes - 1) * (step - sync)
    return application.iterations(batch_size, application.max_epochs) * seconds
