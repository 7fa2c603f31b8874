"""Hand-tuned settings: the authors' table, and the rule on scaling laws known in closed form."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from papers.pollux_sim.applications.applications import (
    APPLICATIONS,
    Application,
    Placement,
    find_constants,
)
from papers.pollux_sim.applications.traces import TraceApplication
from papers.pollux_sim.applications.tuned_jobs import GPU_COUNTS, packed, tuned_jobs


class ScalingLaw(Application):
    """CIFAR-10 whose iterations only count samples, and whose GPUs have a given utility."""

    def __init__(self, utility: float, run_hours: float) -> None:
        super().__init__(find_constants("cifar10"))
        self.utility = utility
        self.samples = 1e6
        self.seconds_per_sample = run_hours * 3600 / self.samples

    def progress_target(self, epoch: int) -> float:
        return self.iterations(self.init_batch_size, epoch)

    def iterations(self, batch_size: float, epochs: int) -> float:
        return self.samples / batch_size * epochs / self.max_epochs

    def compute_timing(self, placement: Placement, local_bsz: int) -> tuple[float, float]:
        # The loss is in the computation, so accumulation does not win it back.
        utility = self.utility if sum(placement) > 1 else 1.0
        return self.seconds_per_sample * local_bsz / utility, 0.0

    def compute_statistics(self, batch_size: float, epoch: int) -> tuple[float, float]:
        return 1.0, 1.0


@pytest.mark.parametrize("name", APPLICATIONS)
def test_measured_traces_give_the_authors_settings(
    name: str, traces: dict[str, TraceApplication], pollux_data: Path
) -> None:
    with (pollux_data / "tuned_configs.csv").open(newline="") as file:
        expected = [
            (row["num_replicas"], row["batch_size"], row["predicted_alone_runtime_s"])
            for row in csv.DictReader(file)
            if row["application"] == name
        ]
    found = [
        (str(job.num_replicas), str(job.batch_size), str(round(job.runtime_s)))
        for job in tuned_jobs(traces[name])
    ]
    assert found == expected


def test_packing_fills_nodes_first() -> None:
    assert [packed(k) for k in (1, 4, 6, 8, 9)] == [(1,), (4,), (4, 2), (4, 4), (4, 4, 1)]
    assert packed(5, gpus_per_node=2) == (2, 2, 1)


def test_every_count_is_valid_where_gpus_are_used_two_thirds() -> None:
    jobs = tuned_jobs(ScalingLaw(utility=0.66, run_hours=10))
    assert [job.num_replicas for job in jobs] == [k for k in GPU_COUNTS if k > 1]
    for job in jobs:
        # Ceilings of the batch size per GPU cost a little where K does not divide it.
        assert job.runtime_s == pytest.approx(36_000 / (0.66 * job.num_replicas), rel=0.03)


@pytest.mark.parametrize("utility", [1.0, 0.45])
def test_one_gpu_where_more_scale_too_well_or_too_badly(utility: float) -> None:
    (job,) = tuned_jobs(ScalingLaw(utility, run_hours=10))
    assert job.num_replicas == 1
    assert job.runtime_s == pytest.approx(36_000)


def test_runs_of_twelve_hours_are_too_long() -> None:
    jobs = tuned_jobs(ScalingLaw(utility=0.66, run_hours=60))
    assert (
        min(job.num_replicas for job in jobs) == 8
    )  # 60 h / (0.66 x 8) < 12 h < 60 h / (0.66 x 6)
