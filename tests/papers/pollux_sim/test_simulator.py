"""Facts of the simulator and its policies: the artifact's own runs, conservation, determinism."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from papers.pollux_sim.applications.applications import Application, Limits, Placement
from papers.pollux_sim.applications.parametric import load_fits, load_parametric
from papers.pollux_sim.applications.workloads import JobSpec, read_workload, synthetic_workload
from papers.pollux_sim.policies.autoscaling import EqualShares, UtilityAutoscaler
from papers.pollux_sim.policies.optimus import Optimus
from papers.pollux_sim.policies.pollux_agent import PolluxAgent
from papers.pollux_sim.policies.pollux_sched import PolluxSched
from papers.pollux_sim.policies.tiresias import QUEUE_THRESHOLD_S, Tiresias
from papers.pollux_sim.simulator.cluster import Cluster, place_greedily
from papers.pollux_sim.simulator.fairness import finish_time_fairness
from papers.pollux_sim.simulator.job import RESTART_DELAY_S, Allocation, FixedBatch, Job
from papers.pollux_sim.simulator.simulator import Simulation, simulate


@pytest.fixture(scope="module")
def fitted() -> dict[str, Application]:
    return load_parametric()


def fixed_jobs(specs: list[JobSpec], apps: dict[str, Application]) -> list[Job]:
    return [
        Job(s.name, apps[s.application], s.time, FixedBatch(s.batch_size, apps[s.application]))
        for s in specs
    ]


def run_tiresias(specs: list[JobSpec], apps: dict[str, Application]) -> Simulation:
    policy = Tiresias({spec.name: spec.num_replicas for spec in specs})
    return simulate(fixed_jobs(specs, apps), policy, Cluster(16, 4))


def run_optimus(specs: list[JobSpec], apps: dict[str, Application]) -> Simulation:
    caps = {
        spec.name: 1
        if spec.application == "ncf"
        else spec.batch_size // apps[spec.application].min_local_bsz
        for spec in specs
    }
    policy = Optimus({spec.name: spec.batch_size for spec in specs}, caps)
    return simulate(fixed_jobs(specs, apps), policy, Cluster(16, 4))


def pollux_jobs(specs: list[JobSpec], apps: dict[str, Application]) -> list[Job]:
    jobs = []
    for spec in specs:
        app = apps[spec.application]
        rigid = spec.application == "ncf"
        agent = PolluxAgent(app, 32768 if rigid else None, 1 if rigid else 64)
        jobs.append(Job(spec.name, app, spec.time, agent))
    return jobs


@pytest.mark.parametrize("index", range(1, 9))
@pytest.mark.parametrize(("name", "runner"), [("tiresias", run_tiresias), ("optimus", run_optimus)])
def test_every_baseline_job_finishes_in_the_artifacts_second(
    name: str,
    runner: object,
    index: int,
    pollux_data: Path,
    traces: dict[str, Application],
) -> None:
    path = pollux_data / f"results-jobload/{name}-1.0/summary.json"
    expected = json.loads(path.read_text())["jcts"][f"workload-{index}"]
    specs = read_workload(pollux_data / f"workloads/workload-{index}.csv")
    outcome = runner(specs, traces)  # type: ignore[operator]
    found = {job.name: t for job, t in zip(outcome.jobs, outcome.completion_times, strict=True)}
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("upstream", [False, True])
def test_pollux_meets_the_artifacts_mean_completion_time(
    upstream: bool, pollux_data: Path, traces: dict[str, Application]
) -> None:
    """Workload 3: the artifact's own repetition differed by 0.3 %, other seeds by up to 2 %."""
    path = pollux_data / "results-jobload/pollux-1.0/summary.json"
    expected = json.loads(path.read_text())["avgs"]["workload-3"]
    specs = read_workload(pollux_data / "workloads/workload-3.csv")
    policy = PolluxSched(seed=3, upstream=upstream)
    outcome = simulate(pollux_jobs(specs, traces), policy, Cluster(16, 4))
    assert np.mean(outcome.completion_times) == pytest.approx(expected, rel=0.03)


def small_workload(seed: int, jobs: int = 10) -> list[JobSpec]:
    configurations = {name: fit.tuned_jobs for name, fit in load_fits().items()}
    return synthetic_workload(
        configurations,
        seed=seed,
        jobs=jobs,
        duration_s=1800,
        mix={"S": 0.8, "M": 0.2},
        max_replicas=8,
    )


def run_pollux(seed: int, fitted: dict[str, Application], **options: object) -> Simulation:
    policy = PolluxSched(seed=seed, population_size=20, generations=10, **options)  # type: ignore[arg-type]
    return simulate(pollux_jobs(small_workload(1), fitted), policy, Cluster(4, 4))


def test_a_simulation_is_a_function_of_its_seed(fitted: dict[str, Application]) -> None:
    first, again, other = (run_pollux(seed, fitted) for seed in (3, 3, 4))
    assert first.completion_times == again.completion_times
    assert first.spans == again.spans
    assert first.completion_times != other.completion_times


def test_no_gpu_is_held_twice_and_service_adds_up(fitted: dict[str, Application]) -> None:
    outcome = run_pollux(0, fitted)
    edges = sorted({t for span in outcome.spans for t in (span.start_s, span.end_s)})
    for time in edges:
        used = np.zeros(4, int)
        for span in outcome.spans:
            if span.start_s <= time < span.end_s:
                for node, gpus in span.allocation:
                    used[node] += gpus
        assert (used <= 4).all()
    held = sum(
        (span.end_s - span.start_s) * sum(gpus for _, gpus in span.allocation)
        for span in outcome.spans
    )
    assert held == sum(job.attained_service for job in outcome.jobs)
    assert all(time > 0 for time in outcome.completion_times)
    assert outcome.makespan >= max(span.end_s for span in outcome.spans)


def test_interference_slows_only_jobs_that_share_a_node(fitted: dict[str, Application]) -> None:
    app = fitted["cifar10"]

    class Overlapping:
        """Both jobs on both nodes."""

        def allocate(self, jobs: list[Job], cluster: Cluster, now: int) -> dict[str, object]:
            return {job.name: ((0, 1), (1, 1)) for job in jobs}

    def times(interference: float) -> list[int]:
        jobs = [Job(name, app, 0, FixedBatch(512, app)) for name in ("a", "b")]
        policy = Overlapping()
        return simulate(
            jobs,
            policy,
            Cluster(2, 4),
            interference=interference,  # type: ignore[arg-type]
        ).completion_times

    alone = times(0.0)
    slowed = times(0.5)
    startup = 60 + RESTART_DELAY_S
    assert slowed[0] - startup == pytest.approx(2 * (alone[0] - startup), rel=0.01)


def test_one_gpu_run_takes_iterations_times_step_time(fitted: dict[str, Application]) -> None:
    """Closed form: start at the first round, one restart delay, epochs rounded to seconds."""
    app = fitted["bert"]
    job = Job("j", app, 0, FixedBatch(app.init_batch_size, app))
    outcome = simulate([job], EqualShares(), Cluster(1, 1))
    step, _ = app.timing((1,), app.init_batch_size)
    seconds = app.progress_target(app.max_epochs) * step
    assert outcome.makespan == pytest.approx(60 + RESTART_DELAY_S + seconds, abs=app.max_epochs)


def test_tiresias_demotes_a_job_after_sixteen_gpu_hours(fitted: dict[str, Application]) -> None:
    """A long job yields to a newer one only once its service reaches the threshold."""
    app = fitted["imagenet"]
    old = Job("old", app, 0, FixedBatch(3200, app))
    new = Job("new", app, 0, FixedBatch(3200, app))
    policy = Tiresias({"old": 16, "new": 16})
    cluster = Cluster(4, 4)
    now, switched = 0, None
    for _ in range(80):
        now += 60
        jobs = [old] if now == 60 else [old, new]
        for job in jobs:
            job.allocation = policy.allocate(jobs, cluster, now).get(job.name, ())
        if switched is None and new.allocation:
            switched = now
    assert switched is not None
    served = (switched - 60) * 16
    assert served == pytest.approx(QUEUE_THRESHOLD_S, abs=2 * 60 * 16)


def test_place_greedily_takes_the_emptiest_nodes_first() -> None:
    free = [1, 4, 3, 4]
    assert place_greedily(6, free) == ((1, 4), (3, 2))
    assert free == [1, 0, 3, 2]


def test_a_job_may_double_what_it_has_tried(fitted: dict[str, Application]) -> None:
    app = fitted["cifar10"]
    agent = PolluxAgent(app)
    assert agent.gpu_cap == 1
    for gpus in (1, 2, 3):
        agent.observe(1, gpus, 128, app.timing((gpus,), 128), (1.0, 1.0))
        assert agent.gpu_cap == 2 * gpus
    agent.observe(2, 2, 128, app.timing((1, 1), 128), (1.0, 1.0))
    assert agent.gpu_cap == 6


def test_a_new_job_is_believed_to_scale_perfectly(fitted: dict[str, Application]) -> None:
    agent = PolluxAgent(fitted["cifar10"], known_theta=None)
    table = agent.speedups(False, 4, np.zeros((2, 2)))
    assert table[:, 1] == pytest.approx([0.25, 0.25])


def test_rho_of_a_job_alone_is_one(fitted: dict[str, Application]) -> None:
    """A job that has the whole cluster gets its equal share: only the first wait differs."""
    app = fitted["cifar10"]
    make = lambda: [Job("a", app, 0, FixedBatch(512, app))]  # noqa: E731
    outcome = simulate(make(), EqualShares(), Cluster(2, 4))
    rho = finish_time_fairness(outcome.jobs, make(), [64], outcome.intervals, 8, 4, 60)
    (waited,) = outcome.completion_times
    assert rho[0] == waited / (waited - 60)


def test_goodput_scaling_costs_less_than_throughput_scaling(
    fitted: dict[str, Application],
) -> None:
    """Fig. 9's mechanism: the noise scale grows, so GPUs are worth more later."""
    app = fitted["imagenet"]
    theta = app.theta  # type: ignore[attr-defined]
    outcomes = {}
    for measure in ("goodput", "throughput"):
        job = Job("imagenet", app, 0, PolluxAgent(app, known_theta=theta))
        scaler = UtilityAutoscaler(16, measure)  # type: ignore[arg-type]
        outcomes[measure] = simulate([job], EqualShares(), Cluster(1, 4), autoscaler=scaler)
    sizes = [row.num_nodes for row in outcomes["goodput"].intervals]
    assert sizes == sorted(sizes)
    assert outcomes["goodput"].node_seconds <= outcomes["throughput"].node_seconds
    first_hour = {
        name: np.mean([row.num_nodes for row in outcome.intervals[:60]])
        for name, outcome in outcomes.items()
    }
    assert first_hour["goodput"] < first_hour["throughput"]


class Gives:
    """A policy that gives whatever it is made with, whoever asks."""

    def __init__(self, allocations: dict[str, Allocation]) -> None:
        self._allocations = allocations

    def allocate(self, jobs: list[Job], cluster: Cluster, now: int) -> dict[str, Allocation]:
        return self._allocations


@pytest.mark.parametrize(
    ("allocations", "said"),
    [
        ({"a": ((-1, 1),)}, r"job 'a' is given \(\(-1, 1\),\); allowed: nodes 0..1"),
        ({"a": ((7, 1),)}, "allowed: nodes 0..1"),
        ({"a": ((0, 1), (0, 1))}, "allowed: each node once"),
        ({"a": ((0, 0),)}, "allowed: at least 1 GPU"),
        ({"a": ((0, 5),)}, "5 GPUs of node 0 are handed out; allowed: 4"),
        ({"b": ((0, 1),)}, "job 'b' is not among"),
        ({}, "no job was given a GPU for 10001 rounds; waiting: a"),
    ],
)
def test_a_policy_that_gives_what_cannot_be_is_refused(
    fitted: dict[str, Application], allocations: dict[str, Allocation], said: str
) -> None:
    jobs = [Job("a", fitted["cifar10"], 0, FixedBatch(128, fitted["cifar10"]))]
    with pytest.raises(RuntimeError, match=f"policy Gives at .*{said}"):
        simulate(jobs, Gives(allocations), Cluster(2, 4))


def test_jobs_have_an_order_and_names_of_their_own(fitted: dict[str, Application]) -> None:
    def jobs(*places: tuple[str, int]) -> list[Job]:
        app = fitted["cifar10"]
        return [Job(name, app, time, FixedBatch(128, app)) for name, time in places]

    for wrong, said in (
        (jobs(), "no jobs"),
        (jobs(("a", 0), ("a", 60)), "2 jobs are named 'a'"),
        (jobs(("a", 60), ("b", 0)), "order of submission"),
    ):
        with pytest.raises(ValueError, match=said):
            simulate(wrong, EqualShares(), Cluster(1, 4))
    with pytest.raises(ValueError, match="9 GPUs are to be placed and 2 are free"):
        place_greedily(9, [1, 1])


def test_a_long_wait_is_skipped_and_changes_nothing(fitted: dict[str, Application]) -> None:
    """Times as Unix seconds give what times from zero give, in rounds that were worth waiting."""

    def run(start: int) -> Simulation:
        app = fitted["cifar10"]
        jobs = [
            Job(name, app, start + time, FixedBatch(512, app))
            for name, time in (("a", 0), ("b", 3000))
        ]
        return simulate(jobs, EqualShares(), Cluster(2, 4))

    start = 1_700_000_040  # a multiple of the interval
    early, late = run(0), run(start)
    assert late.completion_times == early.completion_times
    assert late.node_seconds == early.node_seconds
    shifted = [row._replace(time_s=row.time_s + start) for row in early.intervals]
    assert late.intervals[-len(shifted) :] == shifted
    assert len(late.intervals) - len(shifted) <= 1


class Bare(Application):
    """As little as an application may be: a second an iteration, no noise, one epoch."""

    def compute_timing(self, placement: Placement, local_bsz: int) -> tuple[float, float]:
        return 1.0, 0.0

    def compute_statistics(self, batch_size: float, epoch: int) -> tuple[float, float]:
        return 1.0, 0.0

    def progress_target(self, epoch: int) -> float:
        return 100.0 * epoch

    def iterations(self, batch_size: float, epochs: int) -> float:
        return 100.0 * epochs


def test_an_application_is_limits_and_four_methods(tmp_path: Path) -> None:
    limits = Limits(
        name="bare",
        init_batch_size=8,
        max_batch_size=64,
        min_local_bsz=1,
        max_local_bsz=16,
        max_epochs=2,
    )
    path = tmp_path / "workload.csv"
    path.write_text("name,time,application,num_replicas,batch_size\nj,0,bare,1,8\n")
    (spec,) = read_workload(path, {"bare": limits})
    app = Bare(limits)
    job = Job(spec.name, app, spec.time, FixedBatch(spec.batch_size, app))
    outcome = simulate([job], EqualShares(), Cluster(1, 1))
    assert outcome.makespan == 60 + RESTART_DELAY_S + 200
    path.write_text("name,time,application,num_replicas,batch_size\nj,0,bert,1,12\n")
    with pytest.raises(InputError, match="allowed: bare"):
        read_workload(path, {"bare": limits})
    with pytest.raises(ValueError, match="max_epochs 0"):
        replace(limits, max_epochs=0)
