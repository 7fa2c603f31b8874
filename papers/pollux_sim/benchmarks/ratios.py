"""Speed of the search, the fit and whole replays, beside peers; and how cost grows.

Floor of a round: the 10,000 candidates of a search each copy, change and score J rows, at least
one pass over J x (nodes held) x 3 bytes. At 20 jobs with 3 nodes each that is 180 bytes, far below
a nanosecond of memory traffic a row: the search is bound by its random draws (about 2 J + 20 a
candidate, 1 to 2 ns each) and by branches, not by bandwidth.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from common.errors import InputError
from common.results.benchmarks import BenchmarkRow, compare
from common.runs.machine import peak_rss_bytes
from papers.pollux_sim.applications.applications import Application
from papers.pollux_sim.applications.parametric import load_fits, load_parametric
from papers.pollux_sim.applications.traces import load_traces
from papers.pollux_sim.applications.workloads import (
    PHILLY_MIX,
    JobSpec,
    read_workload,
    synthetic_workload,
)
from papers.pollux_sim.experiments.simulate import PolicyName, Scenario, SimulateSettings
from papers.pollux_sim.models import throughput_fit
from papers.pollux_sim.policies.pollux_agent import PolluxAgent
from papers.pollux_sim.policies.pollux_sched import PolluxSched
from papers.pollux_sim.search.allocation_operators import Allocations, Problem
from papers.pollux_sim.search.genetic_search import Front, search
from papers.pollux_sim.simulator.cluster import Cluster, Policy
from papers.pollux_sim.simulator.job import Job
from papers.pollux_sim.simulator.simulator import simulate
from papers.pollux_sim.tasks.ground_truth import pollux_folder

PAPER = "pollux_sim"
POLICIES: tuple[PolicyName, ...] = ("pollux", "optimus", "tiresias")
#: CPU seconds of the authors' simulator on workload 3, one process, measured on a two-core machine
#: like those this project is developed on; it cannot run in this environment (NumPy 1.19).
REFERENCE_CPU_S = {"pollux": 954.0, "optimus": 37.2, "tiresias": 12.4}
REFERENCE = "authors' simulator (recorded)"
#: (jobs, nodes) of replays; four GPUs a node.
GROWTH = {
    "smoke": ((20, 4), (40, 8)),
    "laptop": ((160, 16), (320, 32), (640, 64), (160, 64)),
    "paper": (
        *((160 << step, 16 << step) for step in range(6)),
        (5120, 1024),
        *((160, 16 << step) for step in (2, 4, 6)),
    ),
}
SEARCH_ROUNDS = {"smoke": 2, "laptop": 8, "paper": 16}


class Replay(NamedTuple):
    """Cost of one replay, measured inside its own process."""

    cpu_s: float
    peak_rss_mb: float
    simulated_h: float


def replay(policy: PolicyName, specs: list[JobSpec], nodes: int, traces: str) -> Replay:
    """Simulate ``specs`` under ``policy``; ``traces`` is a folder, or empty for fitted formulas."""
    apps = _applications(traces)
    # One tiny replay first: loading compiled code is start-up, not simulation.
    simulate(*_set_up(policy, _generated(4, 16)[:1], apps), Cluster(16, 4))
    started = time.process_time()
    outcome = simulate(*_set_up(policy, specs, apps), Cluster(nodes, 4))
    cpu_s = time.process_time() - started
    return Replay(cpu_s, peak_rss_bytes() / 1e6, outcome.makespan / 3600)


def _applications(traces: str) -> dict[str, Application]:
    return load_traces(Path(traces)) if traces else load_parametric()


def _set_up(
    policy: PolicyName, specs: list[JobSpec], apps: dict[str, Application]
) -> tuple[list[Job], Policy]:
    settings = SimulateSettings(policy=policy, applications="fitted", workload="synthetic")
    scenario = Scenario(settings, apps, specs)
    return scenario.fresh_jobs(), scenario.policy(seed=0)


def _in_fresh_process(policy: PolicyName, specs: list[JobSpec], nodes: int, traces: str) -> Replay:
    """:func:`replay` in a process of its own, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(replay, policy, specs, nodes, traces).result()


def _generated(jobs: int, nodes: int) -> list[JobSpec]:
    """Jobs without the XL class, whose 24 GPUs the smallest clusters lack."""
    configurations = {name: fit.tuned_jobs for name, fit in load_fits().items()}
    mix = {size: share for size, share in PHILLY_MIX.items() if size != "XL"}
    return synthetic_workload(configurations, seed=3, jobs=jobs, max_replicas=4 * nodes, mix=mix)


def replays(scale: str) -> list[BenchmarkRow]:
    """One real workload (160 jobs, 16 nodes x 4 GPUs) under each policy.

    Where the traces are absent, a generated workload of the same size takes its place.
    """
    try:
        folder = str(pollux_folder())
        specs = read_workload(pollux_folder() / "workloads" / "workload-3.csv")
        what = "workload 3"
    except InputError:
        folder, specs, what = "", _generated(160, 16), "160 generated jobs"
    rows = []
    for policy in POLICIES:
        runs = [_in_fresh_process(policy, specs, 16, folder) for _ in range(3)]
        ratios = sorted(run.cpu_s / REFERENCE_CPU_S[policy] for run in runs)
        middle = sorted(runs)[1]
        rows.append(
            BenchmarkRow(
                paper=PAPER,
                what=f"replay of {what}, {policy}: CPU time",
                peer=REFERENCE,
                ratio=ratios[1],
                low=ratios[0],
                high=ratios[2],
                n=3,
                ours=middle.cpu_s,
                theirs=REFERENCE_CPU_S[policy],
                unit="CPU s",
                note=f"peak RSS {middle.peak_rss_mb:.0f} MB, "
                f"{middle.simulated_h / middle.cpu_s:.2g} simulated h/s; the peer was not run here",
            )
        )
    return rows


def growth(scale: str) -> list[BenchmarkRow]:
    """CPU time and memory of replays as jobs and GPUs grow, against the smallest one."""
    rows = []
    for policy in POLICIES:
        base: Replay | None = None
        for jobs, nodes in GROWTH[scale]:
            found = _in_fresh_process(policy, _generated(jobs, nodes), nodes, "")
            base = base or found
            ratio = found.cpu_s / base.cpu_s
            rows.append(
                BenchmarkRow(
                    paper=PAPER,
                    what=f"{policy}: {jobs} jobs on {4 * nodes} GPUs",
                    peer=f"same, {GROWTH[scale][0][0]} jobs on {4 * GROWTH[scale][0][1]} GPUs",
                    ratio=ratio,
                    low=ratio,
                    high=ratio,
                    n=1,
                    ours=found.cpu_s,
                    theirs=base.cpu_s,
                    unit="CPU s",
                    note=f"peak RSS {found.peak_rss_mb:.0f} MB, "
                    f"{found.simulated_h / found.cpu_s:.2g} simulated h/s",
                )
            )
    return rows


class _RecordingSched(PolluxSched):
    """Keeps the problems that a replay poses."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.posed: list[tuple[Problem, Allocations]] = []

    def _search(self, problem: Problem, initial: Allocations) -> Front:
        self.posed.append((problem, initial))
        return super()._search(problem, initial)


def _rounds(count: int) -> list[tuple[Problem, Allocations]]:
    """``count`` rounds of a busy replay (240 jobs on 16 nodes), from most jobs to fewest."""
    apps = load_parametric()
    recorder = _RecordingSched()
    specs = _generated(240, 16)
    simulate(_set_up("pollux", specs, apps)[0], recorder, Cluster(16, 4))
    busiest = sorted(recorder.posed, key=lambda posed: -len(posed[0].gpu_cap))
    return busiest[:: max(len(busiest) // count, 1)][:count]


def searches(scale: str) -> list[BenchmarkRow]:
    """Time and quality of one round's search beside pymoo's NSGA-II with the same operators.

    Every round starts from the current allocation alone, so that there is something to find.
    """
    from papers.pollux_sim.benchmarks.peer_search import library_search

    rows, lost, peer = [], [], "pymoo NSGA-II, NumPy operators"
    for problem, _ in _rounds(SEARCH_ROUNDS[scale]):
        start = problem.current
        timed = compare(
            lambda p=problem, s=start: search(p, s, 100, 100, 0),  # type: ignore[misc]
            lambda p=problem, s=start: library_search(p, s, 100, 100, 0),  # type: ignore[misc]
            repeats=3,
        )
        rows.append(timed.row(PAPER, f"search of one round, {len(problem.gpu_cap)} jobs", peer))
        for seed in range(3):
            ours = search(problem, start, 100, 100, seed).fitness.max()
            theirs, _ = library_search(problem, start, 100, 100, seed)
            lost.append(theirs / ours)
    rows.append(
        BenchmarkRow(
            paper=PAPER,
            what="fitness after 100 generations (below 1: ours is fitter)",
            peer=peer,
            ratio=float(np.median(lost)),
            low=min(lost),
            high=max(lost),
            n=len(lost),
        )
    )
    return rows


def fits(scale: str) -> list[BenchmarkRow]:
    """Fitting throughput models beside SciPy's L-BFGS-B on the same loss, start and bounds."""
    problems = _fit_problems()

    def ours() -> list[float]:
        return [_loss(throughput_fit.minimise(*args), args[1]) for args in problems]

    def scipys() -> list[float]:
        found = []
        for start, rows, lower, upper in problems:
            result = minimize(
                throughput_fit.loss_and_gradient,
                start,
                args=(rows,),
                jac=True,
                method="L-BFGS-B",
                bounds=np.column_stack([lower, upper]),
            )
            found.append(_loss(result.x, rows))
        return found

    timed = compare(ours, scipys, repeats=3)
    losses = np.array(ours()), np.array(scipys())
    quality = losses[0].mean() / losses[1].mean()
    worse = float((losses[0] > losses[1] + 1e-3).mean())
    what = f"{len(problems)} fits of throughput models"
    return [
        timed.row(PAPER, f"{what}: time", "SciPy L-BFGS-B"),
        BenchmarkRow(
            paper=PAPER,
            what=f"{what}: mean loss reached",
            peer="SciPy L-BFGS-B",
            ratio=quality,
            low=quality,
            high=quality,
            n=1,
            note=f"higher by more than 0.001 in {100 * worse:.2f} % of the fits",
        ),
    ]


def _loss(theta: throughput_fit.Vector, rows: throughput_fit.Vector) -> float:
    return float(throughput_fit.loss_and_gradient(theta, rows)[0])


def _fit_problems() -> list[tuple[throughput_fit.Vector, ...]]:
    """Every fit of a replay of 40 jobs on 16 nodes."""
    posed: list[tuple[throughput_fit.Vector, ...]] = []
    genuine = throughput_fit.minimise

    def recording(*args: throughput_fit.Vector) -> throughput_fit.Vector:
        posed.append(tuple(np.array(arg) for arg in args))
        return genuine(*args)

    throughput_fit.minimise = recording  # type: ignore[assignment]
    try:
        jobs, policy = _set_up("pollux", _generated(40, 16), load_parametric())
        simulate(jobs, policy, Cluster(16, 4))
    finally:
        throughput_fit.minimise = genuine
    return posed


def overheads(scale: str) -> list[BenchmarkRow]:
    """Pollux's own costs (Sec. 5.2): search a round, fit, choice of a batch size."""
    problem, initial = _rounds(1)[0]
    arguments = _fit_problems()[-1]
    agent = PolluxAgent(load_parametric()["cifar10"])
    agent.observe(1, 4, 128, agent.application.timing((4,), 128), (1.0, 5.0))
    agent.choose(1, 4)
    measured: tuple[tuple[str, float, Callable[[], object]], ...] = (
        ("search of a round (published: 1 s)", 1.0, lambda: search(problem, initial, 100, 100, 0)),
        ("fit of a throughput model (0.2 s)", 0.2, lambda: throughput_fit.minimise(*arguments)),
        ("choice of a batch size (0.4 ms)", 0.4e-3, lambda: agent.choose(1, 4)),
    )
    rows = []
    for what, published, work in measured:
        times = []
        for _ in range(20):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        rows.append(
            BenchmarkRow(
                paper=PAPER,
                what=what,
                peer="published, Sec. 5.2 (other hardware)",
                ratio=float(np.median(times)) / published,
                low=min(times) / published,
                high=max(times) / published,
                n=len(times),
                ours=float(np.median(times)),
                theirs=published,
                unit="s",
            )
        )
    return rows


BENCHMARKS = {
    "search": searches,
    "fit": fits,
    "replay": replays,
    "growth": growth,
    "overheads": overheads,
}
