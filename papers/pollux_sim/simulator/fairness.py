"""Finish-time fairness: a job's completion time against an equal share of the cluster to itself.

rho = JCT / JCT alone on round(G / N) GPUs, at least 1, where N is the mean number of unfinished
jobs over the job's life. The paper names the quantity (Sec. 5.3, Fig. 7) and not the details; the
static share and the average follow Themis (Mahajan et al., NSDI 2020). The batch size adapts as it
does under the policy that is judged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from papers.pollux_sim.applications.tuned_jobs import packed
from papers.pollux_sim.simulator.job import Job
from papers.pollux_sim.simulator.simulator import Interval


def mean_active_jobs(job: Job, intervals: list[Interval]) -> float:
    """Mean number of unfinished jobs from the job's submission to its completion, at least 1."""
    times = np.array([row.time_s for row in intervals])
    counts = np.array([row.active_jobs for row in intervals])
    alive = (times > job.submission_time) & (times < (job.completion_time or 0))
    return max(float(counts[alive].mean()), 1.0) if alive.any() else 1.0


def isolated_completion_time(job: Job, num_gpus: int, gpus_per_node: int, interval_s: int) -> int:
    """Seconds that a fresh, unplaced job takes alone on ``num_gpus`` packed GPUs."""
    placement = packed(num_gpus, gpus_per_node)
    job.reallocate(tuple(enumerate(placement)), 0)
    now = 0
    while job.completion_time is None:
        job.advance(now, interval_s)
        now += interval_s
    return job.completion_time


def finish_time_fairness(
    finished: list[Job],
    fresh: list[Job],
    gpu_limits: list[int],
    intervals: list[Interval],
    num_gpus: int,
    gpus_per_node: int,
    interval_s: int,
) -> NDArray[np.float64]:
    """rho of every job; below 1 is better than its fair share.

    Args:
        finished: jobs of a simulation, (n,).
        fresh: the same jobs, never run.
        gpu_limits: most GPUs that each job can use.
        intervals: of the simulation.
        num_gpus: of the cluster.
    """
    rho = np.empty(len(finished))
    for index, (job, alone, limit) in enumerate(zip(finished, fresh, gpu_limits, strict=True)):
        share = round(num_gpus / mean_active_jobs(job, intervals))
        share = min(max(share, 1), limit)
        ideal = isolated_completion_time(alone, share, gpus_per_node, interval_s)
        rho[index] = ((job.completion_time or 0) - job.submission_time) / ideal
    return rho
