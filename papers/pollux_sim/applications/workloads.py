"""Workloads: which jobs are submitted when, and what their users ask for.

Three sources: a CSV file; the Philly trace of Microsoft, sampled as in the authors' artifact
(Sec. 5.1); and a generator that needs no data and follows the statistics of that sample.
"""

from __future__ import annotations

import csv
import random
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from common.errors import InputError
from papers.pollux_sim.applications.applications import APPLICATIONS, Limits
from papers.pollux_sim.applications.csv_columns import (
    COUNT,
    NON_NEGATIVE,
    TEXT,
    Kind,
    read_columns,
    refuse,
    whole_up_to,
)
from papers.pollux_sim.applications.tuned_jobs import TunedJob

#: Size class -> applications that stand for it (Table 1).
CLASS_APPLICATIONS: Final = {
    "S": ("cifar10", "ncf"),
    "M": ("deepspeech2", "bert"),
    "L": ("yolov3",),
    "XL": ("imagenet",),
}
#: GPU-seconds at which the next size class begins; jobs beyond the last are left out.
CLASS_BOUNDS_S: Final = (3600, 36_000, 360_000, 3_600_000)
#: Submissions are taken from the eight busiest hours of the day, 2 to 10 o'clock.
WINDOW_START_S: Final = 2 * 3600
WINDOW_S: Final = 8 * 3600
#: Jobs of the Philly trace submitted in each of these hours.
HOURLY_SUBMISSIONS: Final = (3550, 3368, 2240, 3728, 5169, 6585, 3499, 3154)
#: Share of each size class in the window.
PHILLY_MIX: Final = {"S": 0.7829, "M": 0.1525, "L": 0.0460, "XL": 0.0187}
#: Probability of the number of GPUs that a Philly user asks for, by size class.
PHILLY_GPUS: Final = {
    "S": {1: 0.982, 2: 0.003, 4: 0.010, 8: 0.005},
    "M": {1: 0.952, 2: 0.002, 4: 0.019, 8: 0.022, 16: 0.003, 32: 0.002},
    "L": {1: 0.509, 2: 0.038, 4: 0.258, 8: 0.171, 16: 0.013, 32: 0.009, 64: 0.002},
    "XL": {8: 0.661, 16: 0.258, 32: 0.081},
}


class JobSpec(NamedTuple):
    """One submitted job. Pollux ignores the last two fields, Optimus the number of GPUs.

    Attributes:
        time: seconds after the start of the workload.
        num_replicas: GPUs.
        batch_size: total over all GPUs.
    """

    name: str
    time: int
    application: str
    num_replicas: int
    batch_size: int


#: Latest submission, s: seconds since 1970 fit, milliseconds do not.
LATEST_S: Final = 10**10

Configurations = Mapping[str, Sequence[TunedJob]]


def _columns(applications: Mapping[str, Limits]) -> dict[str, Kind]:
    """What each column of a workload holds."""

    def known(text: str) -> str:
        if text not in applications:
            raise ValueError(text)
        return text

    return {
        "name": TEXT,
        "time": whole_up_to(LATEST_S),
        "application": Kind(known, ", ".join(applications)),
        "num_replicas": COUNT,
        "batch_size": COUNT,
    }


def read_workload(path: Path, applications: Mapping[str, Limits] = APPLICATIONS) -> list[JobSpec]:
    """Jobs of a workload CSV, in file order.

    Args:
        applications: those that it may name (default: the six of the evaluation).

    Raises:
        InputError: absent file, missing column, bad value, a name given twice, or no job.
    """
    columns = read_columns(path, _columns(applications))
    lines = columns.pop("line")
    jobs = [JobSpec(*values) for values in zip(*columns.values(), strict=True)]
    seen: set[str] = set()
    for line, job in zip(lines, jobs, strict=True):
        limits = applications[job.application]
        smallest = max(limits.init_batch_size, job.num_replicas * limits.min_local_bsz)
        if job.name in seen:
            raise refuse(path, line, "name", job.name, "a name not used above")
        if not smallest <= job.batch_size <= limits.max_batch_size:
            allowed = f"{smallest}..{limits.max_batch_size} for {job.application} and its GPUs"
            raise refuse(path, line, "batch_size", job.batch_size, allowed)
        seen.add(job.name)
    return jobs


def write_workload(path: Path, jobs: Iterable[JobSpec]) -> None:
    """Write jobs as CSV, the format that :func:`read_workload` reads."""
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(JobSpec._fields)
        writer.writerows(jobs)


class PhillyJob(NamedTuple):
    """One job of the trace; ``time`` counts seconds from the start of the window."""

    time: int
    duration_s: float
    num_gpus: int
    size: str


def read_philly(path: Path) -> list[PhillyJob]:
    """Jobs of the trace that a workload is sampled from, in file order.

    Those of at least a minute and under 1000 GPU-hours, submitted in the window on any day.

    Raises:
        InputError: the file is absent or malformed.
    """
    kinds = {
        "timestamp": Kind(_second_of_day, "a date and time such as 2017-10-09 07:01:55"),
        "duration": NON_NEGATIVE,
        "num_gpus": COUNT,
        "gpu_time": NON_NEGATIVE,
    }
    columns = read_columns(path, kinds)
    return [
        PhillyJob(second - WINDOW_START_S, duration, num_gpus, size_class(gpu_time))
        for second, duration, num_gpus, gpu_time in zip(*(columns[c] for c in kinds), strict=True)
        if duration >= 60
        and gpu_time < CLASS_BOUNDS_S[-1]
        and 0 <= second - WINDOW_START_S < WINDOW_S
    ]


def size_class(gpu_time_s: float) -> str:
    """Size class of Table 1 of a job that uses so many GPU-seconds."""
    return tuple(CLASS_APPLICATIONS)[bisect_right(CLASS_BOUNDS_S, gpu_time_s)]


def philly_workload(
    trace: Sequence[PhillyJob],
    configurations: Configurations,
    *,
    seed: int,
    jobs: int = 160,
    realistic: bool = False,
) -> list[JobSpec]:
    """The workload that the authors' artifact makes with this seed.

    Args:
        trace: jobs to sample from (:func:`read_philly`).
        configurations: valid hand-tuned settings of every application.
        seed: 1 to 8 give the shipped workloads.
        jobs: number of jobs; a smaller workload is a subset of a larger one.
        realistic: ask for the GPUs that the Philly user asked for and a proportional batch,
            instead of a tuned setting.

    Raises:
        InputError: the trace has fewer jobs.
    """
    if not 1 <= jobs <= len(trace):
        raise InputError(f"jobs: {jobs}; allowed: 1..{len(trace)}, the jobs of the trace")
    main_draw, bert_draw, gpu_draw = (random.Random(seed + shift) for shift in (0, 3, 4))
    day_long = {
        size: [job.num_gpus for job in trace if job.size == size and job.duration_s <= 86400]
        for size in ("L", "XL")
    }
    # The artifact draws with pandas' sample, which takes a RandomState.
    order = np.random.RandomState(main_draw.randint(0, 1 << 32))
    submissions = []
    for index in order.choice(len(trace), size=jobs, replace=False):
        job = trace[index]
        num_gpus = gpu_draw.choice(day_long[job.size]) if job.size in day_long else job.num_gpus
        application = CLASS_APPLICATIONS[job.size][0]
        if job.size == "S":
            application = main_draw.choice(CLASS_APPLICATIONS["S"])
        tuned = main_draw.choice(configurations[application])
        if job.size == "M" and bert_draw.randint(0, 1):
            application = CLASS_APPLICATIONS["M"][1]
            tuned = bert_draw.choice(configurations[application])
        batch_size = APPLICATIONS[application].init_batch_size * num_gpus
        request = (num_gpus, batch_size) if realistic else tuned[:2]
        submissions.append((job.time, application, *request))
    return _in_order(submissions)


def synthetic_workload(
    configurations: Configurations,
    *,
    seed: int,
    jobs: int = 160,
    load: float = 1.0,
    duration_s: int = WINDOW_S,
    mix: Mapping[str, float] = PHILLY_MIX,
    max_replicas: int = 64,
    realistic: bool = False,
) -> list[JobSpec]:
    """A workload with the Philly trace's statistics that needs no data.

    The hourly submission profile is stretched over ``duration_s``; with the number of jobs given,
    arrivals are an inhomogeneous Poisson process. Seed for seed, a smaller workload is a subset of
    a larger one, and tuned and realistic variants have the same jobs.

    Args:
        configurations: valid hand-tuned settings of every application.
        seed: of every draw.
        jobs: number of jobs at load 1.
        load: multiplies the number of jobs.
        duration_s: submissions fall in 0 .. duration_s - 1.
        mix: weight of each size class, one of S, M, L, XL.
        max_replicas: caps the GPUs that a user asks for.
        realistic: GPUs as Philly users ask and a proportional batch, not a tuned setting.

    Raises:
        InputError: an argument is out of range, or an application has no setting under the cap.
    """
    count = round(jobs * load)
    for name, value, lowest in (("jobs x load", count, 1), ("duration_s", duration_s, 1)):
        if value < lowest:
            raise InputError(f"{name}: {value}; allowed: at least {lowest}")
    if (
        not set(mix) <= set(PHILLY_MIX)
        or min(mix.values(), default=-1) < 0
        or not any(mix.values())
    ):
        raise InputError(f"mix: {dict(mix)}; allowed: weights >= 0, not all 0, of {[*PHILLY_MIX]}")
    allowed = {
        name: [tuned for tuned in configurations[name] if tuned.num_replicas <= max_replicas]
        for size, weight in mix.items()
        if weight
        for name in CLASS_APPLICATIONS[size]
    }
    for name, settings in allowed.items():
        if not settings:
            least = min(tuned.num_replicas for tuned in configurations[name])
            raise InputError(f"max_replicas: {max_replicas}; allowed: at least {least} for {name}")
    draw = random.Random(seed)
    submissions = []
    for _ in range(count):
        (hour,) = draw.choices(range(len(HOURLY_SUBMISSIONS)), HOURLY_SUBMISSIONS)
        time = int((hour + draw.random()) * duration_s / len(HOURLY_SUBMISSIONS))
        (size,) = draw.choices([*mix], [*mix.values()])
        application = draw.choice(CLASS_APPLICATIONS[size])
        tuned = draw.choice(allowed[application])
        (num_gpus,) = draw.choices([*PHILLY_GPUS[size]], [*PHILLY_GPUS[size].values()])
        num_gpus = min(num_gpus, max_replicas)
        limits = APPLICATIONS[application]
        batch_size = min(limits.init_batch_size * num_gpus, limits.max_batch_size)
        request = (num_gpus, batch_size) if realistic else tuned[:2]
        submissions.append((time, application, *request))
    return _in_order(submissions)


def _in_order(submissions: list[tuple[int, str, int, int]]) -> list[JobSpec]:
    """Jobs by submission time, named after application and rank."""
    ordered = sorted(submissions, key=lambda job: job[0])
    return [JobSpec(f"{job[1]}-{rank}", *job) for rank, job in enumerate(ordered)]


def _second_of_day(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return moment.hour * 3600 + moment.minute * 60 + moment.second
