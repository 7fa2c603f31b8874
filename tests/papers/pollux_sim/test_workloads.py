"""Workloads: the authors' forty files, the data-free generator, bad files."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from common.errors import InputError
from papers.pollux_sim.applications.applications import APPLICATIONS
from papers.pollux_sim.applications.parametric import load_fits
from papers.pollux_sim.applications.traces import TraceApplication
from papers.pollux_sim.applications.tuned_jobs import tuned_jobs
from papers.pollux_sim.applications.workloads import (
    CLASS_APPLICATIONS,
    HOURLY_SUBMISSIONS,
    PHILLY_MIX,
    Configurations,
    PhillyJob,
    philly_workload,
    read_philly,
    read_workload,
    size_class,
    synthetic_workload,
    write_workload,
)

GOOD = "bert-0,5,bert,6,384\n"


@pytest.fixture(scope="module")
def philly(pollux_data: Path) -> list[PhillyJob]:
    return read_philly(pollux_data / "traces" / "philly.csv")


@pytest.fixture(scope="module")
def measured(traces: dict[str, TraceApplication]) -> Configurations:
    return {name: tuned_jobs(application) for name, application in traces.items()}


@pytest.fixture(scope="module")
def configurations() -> Configurations:
    return {name: fit.tuned_jobs for name, fit in load_fits().items()}


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize(
    ("folder", "jobs"),
    [
        ("workloads", 160),
        ("workloads-0.5", 80),
        ("workloads-1.5", 240),
        ("workloads-2.0", 320),
        ("workloads-realistic", 160),
    ],
)
def test_shipped_workloads_are_regenerated_bit_for_bit(
    folder: str,
    jobs: int,
    seed: int,
    philly: list[PhillyJob],
    measured: Configurations,
    pollux_data: Path,
    tmp_path: Path,
) -> None:
    realistic = folder == "workloads-realistic"
    made = philly_workload(philly, measured, seed=seed, jobs=jobs, realistic=realistic)
    write_workload(tmp_path / "made.csv", made)
    shipped = pollux_data / folder / f"workload-{seed}.csv"
    assert (tmp_path / "made.csv").read_bytes() == shipped.read_bytes()
    assert read_workload(shipped) == made


def test_constants_of_the_generator_are_those_of_the_trace(philly: list[PhillyJob]) -> None:
    hours = Counter(job.time // 3600 for job in philly)
    assert tuple(hours[hour] for hour in range(8)) == HOURLY_SUBMISSIONS
    assert len(philly) == sum(HOURLY_SUBMISSIONS) == 31_293
    sizes = Counter(job.size for job in philly)
    for size, share in PHILLY_MIX.items():
        assert sizes[size] / len(philly) == pytest.approx(share, abs=1e-4)


def test_size_classes_begin_at_powers_of_ten_gpu_hours() -> None:
    hours = (0.99, 1, 9.9, 10, 99.9, 100, 999)
    assert [size_class(h * 3600) for h in hours] == ["S", "M", "M", "L", "L", "XL", "XL"]


def test_more_jobs_than_the_trace_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"jobs: 2; allowed: 1\.\.1"):
        philly_workload([PhillyJob(0, 60, 1, "S")], {}, seed=1, jobs=2)


def test_synthetic_jobs_are_ordered_named_and_within_their_limits(
    configurations: Configurations, tmp_path: Path
) -> None:
    for realistic in (False, True):
        jobs = synthetic_workload(configurations, seed=1, jobs=2000, realistic=realistic)
        assert len(jobs) == 2000
        assert [job.time for job in jobs] == sorted(job.time for job in jobs)
        assert jobs[0].time >= 0
        assert jobs[-1].time < 8 * 3600
        assert [job.name for job in jobs] == [f"{j.application}-{i}" for i, j in enumerate(jobs)]
        write_workload(tmp_path / "jobs.csv", jobs)
        assert read_workload(tmp_path / "jobs.csv") == jobs


def test_synthetic_tuned_jobs_use_valid_configurations(configurations: Configurations) -> None:
    for job in synthetic_workload(configurations, seed=3):
        valid = [tuned[:2] for tuned in configurations[job.application]]
        assert (job.num_replicas, job.batch_size) in valid


def test_synthetic_shares_and_hours_follow_the_trace(configurations: Configurations) -> None:
    count = 20_000
    jobs = synthetic_workload(configurations, seed=0, jobs=count)
    applications = Counter(job.application for job in jobs)
    hours = Counter(job.time // 3600 for job in jobs)
    expected = [
        (applications[name], PHILLY_MIX[size] / len(names))
        for size, names in CLASS_APPLICATIONS.items()
        for name in names
    ]
    total = sum(HOURLY_SUBMISSIONS)
    expected += [(hours[hour], number / total) for hour, number in enumerate(HOURLY_SUBMISSIONS)]
    for found, share in expected:
        deviation = (count * share * (1 - share)) ** 0.5
        assert abs(found - count * share) < 4 * deviation


def test_realistic_variant_has_the_same_jobs(configurations: Configurations) -> None:
    tuned = synthetic_workload(configurations, seed=5)
    realistic = synthetic_workload(configurations, seed=5, realistic=True)
    assert [job[:3] for job in tuned] == [job[:3] for job in realistic]
    for job in realistic:
        limits = APPLICATIONS[job.application]
        scaled = limits.init_batch_size * job.num_replicas
        assert job.batch_size == min(scaled, limits.max_batch_size)


def test_smaller_load_is_a_subset_and_seeds_matter(configurations: Configurations) -> None:
    half, full = (synthetic_workload(configurations, seed=2, load=load) for load in (0.5, 1.0))
    assert (len(half), len(full)) == (80, 160)
    assert Counter(job[1:] for job in half) <= Counter(job[1:] for job in full)
    assert synthetic_workload(configurations, seed=2) == full
    assert synthetic_workload(configurations, seed=3) != full


def test_small_clusters_get_small_jobs(configurations: Configurations) -> None:
    mix = {"S": 0.78, "M": 0.16, "L": 0.06}
    options = {"jobs": 200, "mix": mix, "max_replicas": 8, "duration_s": 3600}
    for realistic in (False, True):
        jobs = synthetic_workload(configurations, seed=0, realistic=realistic, **options)  # type: ignore[arg-type]
        assert max(job.num_replicas for job in jobs) <= 8
        assert "imagenet" not in {job.application for job in jobs}
        assert jobs[-1].time < 3600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, r"jobs x load: 0; allowed: at least 1"),
        ({"load": -1.0}, r"jobs x load: -160; allowed"),
        ({"duration_s": 0}, r"duration_s: 0; allowed"),
        ({"mix": {"XXL": 1.0}}, r"mix: \{'XXL': 1\.0\}; allowed: .*'S', 'M', 'L', 'XL'"),
        ({"mix": {"S": -1.0}}, r"mix: .*weights >= 0"),
        ({"mix": {"S": 0.0}}, r"mix: .*not all 0"),
        ({"max_replicas": 8}, r"max_replicas: 8; allowed: at least 24 for imagenet"),
    ],
)
def test_impossible_generator_options_are_refused(
    options: dict[str, object], message: str, configurations: Configurations
) -> None:
    with pytest.raises(InputError, match=message):
        synthetic_workload(configurations, seed=0, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GOOD + "bert-1,-5,bert,6,384\n",
            r"line 3: column 'time': '-5'; allowed: a whole number 0\.\.10000000000",
        ),
        (GOOD + "bert-1,nan,bert,6,384\n", r"line 3: column 'time': 'nan'"),
        (GOOD + "bert-1,5.5,bert,6,384\n", r"line 3: column 'time': '5\.5'"),
        (GOOD + "bert-1,5,gpt,6,384\n", r"line 3: column 'application': 'gpt'; allowed: imagenet,"),
        (GOOD + "bert-1,5,bert,0,384\n", r"line 3: column 'num_replicas': '0'"),
        (GOOD + "bert-1,5,bert,6,385\n", r"line 3: column 'batch_size': 385; allowed: 24\.\.384"),
        (GOOD + "\nbert-1,5,bert,1,11\n", r"line 4: column 'batch_size': 11; allowed: 12\.\.384"),
        (GOOD + GOOD, r"line 3: column 'name': 'bert-0'; allowed: a name not used above"),
        (GOOD + "bert-1,5\n", r"line 3: 2 cells; allowed: 5"),
        ("", r"no rows; at least one is needed"),
    ],
)
def test_malformed_workloads_are_refused_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "workload.csv"
    path.write_text("name,time,application,num_replicas,batch_size\n" + text)
    with pytest.raises(InputError, match=message) as refused:
        read_workload(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_missing_column_and_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "workload.csv"
    path.write_text("name,time,application,num_replicas\nbert-0,5,bert,6\n")
    with pytest.raises(InputError, match=r"line 1: column 'batch_size' is missing; needed: name,"):
        read_workload(path)
    with pytest.raises(InputError, match="no such file"):
        read_workload(tmp_path / "absent.csv")


def test_every_application_has_one_size_class() -> None:
    assert sorted(chain.from_iterable(CLASS_APPLICATIONS.values())) == sorted(APPLICATIONS)
    for size, names in CLASS_APPLICATIONS.items():
        assert {APPLICATIONS[name].size for name in names} == {size}
