"""A simulation from its settings: applications, workload, policy, cluster; and what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.files import file_sha256
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.pollux_sim.applications.applications import Application
from papers.pollux_sim.applications.parametric import fitted_theta, load_fits
from papers.pollux_sim.applications.workloads import (
    LATEST_S,
    PHILLY_MIX,
    JobSpec,
    read_workload,
    synthetic_workload,
)
from papers.pollux_sim.simulator.cluster import Cluster, Policy
from papers.pollux_sim.simulator.job import BatchChoice, FixedBatch, Job
from papers.pollux_sim.simulator.simulator import Autoscaler, Simulation, simulate
from papers.pollux_sim.tasks.ground_truth import (
    Source,
    load_applications,
    note_files,
    pollux_folder,
)

PolicyName = Literal["pollux", "tiresias", "optimus"]
#: Neural collaborative filtering cannot change its batch and never uses a second GPU (artifact).
RIGID_APPLICATION, RIGID_BATCH = "ncf", 32768


class SyntheticWorkload(Settings):
    """Size and mix of a generated workload; the seed of the run draws it."""

    jobs: int = Field(160, gt=0, le=100_000, description="jobs at load 1")
    duration_s: int = Field(
        8 * 3600, gt=0, le=LATEST_S, description="submissions fall in this window"
    )
    mix: dict[str, float] = Field(dict(PHILLY_MIX), description="weight of each size class")
    max_replicas: int = Field(64, gt=0, description="cap on the GPUs a user asks for")


class ClusterSettings(Settings):
    """The simulated cluster."""

    nodes: int = Field(16, gt=0, le=100_000)
    gpus_per_node: int = Field(4, gt=0, le=64, description="with traces at most four: as measured")


class SearchSettings(Settings):
    """PolluxSched's genetic search."""

    population_size: int = Field(100, ge=2, le=1000)
    generations: int = Field(100, ge=1, le=100_000)
    upstream: bool = Field(False, description="keep two quirks of the authors' artifact")


class SimulateSettings(Settings):
    """One simulated workload under one policy."""

    policy: PolicyName
    applications: Source
    workload: Literal["artifact", "synthetic", "file"]
    file: str = Field("", description="workload CSV, with workload: file")
    load: float = Field(1.0, gt=0, le=1000, description="multiplies the number of jobs")
    realistic: bool = Field(False, description="GPUs and batch as users ask, not tuned")
    index: int | None = Field(
        None, ge=1, le=8, description="which of the artifact's workloads; null: the run's seed"
    )
    synthetic: SyntheticWorkload = SyntheticWorkload()
    cluster: ClusterSettings = ClusterSettings()
    interval_s: int = Field(60, gt=0, le=10**9, description="scheduling interval")
    interference: float = Field(0.0, ge=0, lt=1, description="speed lost by jobs sharing a node")
    avoid_interference: bool = True
    power: float = Field(-1.0, ge=-100, le=100, description="p of FITNESS_p")
    search: SearchSettings = SearchSettings()
    known_theta: bool = Field(False, description="throughput models fitted offline, no exploring")
    autoscale: Literal["", "goodput", "throughput"] = ""
    max_nodes: int | None = Field(
        None, gt=0, le=100_000, description="largest cluster when auto-scaling"
    )
    fairness: bool = Field(False, description="also compute finish-time fairness")
    trace: bool = Field(False, description="also write allocations over time")
    data_root: str | None = None

    @model_validator(mode="after")
    def _check(self) -> SimulateSettings:
        if (self.workload == "file") != bool(self.file):
            raise ValueError("file: must be given with workload: file, and only then")
        if self.applications == "traces" and self.cluster.gpus_per_node > 4:
            raise ValueError(
                f"cluster.gpus_per_node: {self.cluster.gpus_per_node}; with applications: traces at"
                " most 4, on which they were measured; more with applications: fitted"
            )
        if self.autoscale and self.policy != "pollux":
            raise ValueError("autoscale: needs policy: pollux")
        if bool(self.autoscale) != (self.max_nodes is not None):
            raise ValueError("max_nodes: must be given with autoscale, and only then")
        if self.max_nodes is not None and self.max_nodes < self.cluster.nodes:
            raise ValueError(f"max_nodes: must be at least cluster.nodes ({self.cluster.nodes})")
        return self


def run_simulation(settings: SimulateSettings, run: Run) -> dict[str, float]:
    """Program ``simulate``: metrics of one workload; writes jobs.csv and timeline.csv."""
    scenario = Scenario.load(settings, run)
    jobs = scenario.fresh_jobs()
    with run.progress(len(jobs), run.key.place, "job") as bar:

        def on_round(_now: int, finished: int) -> None:
            bar.update(finished - bar.n)

        outcome = simulate(
            jobs,
            scenario.policy(run.seed),
            Cluster(settings.cluster.nodes, settings.cluster.gpus_per_node),
            settings.interval_s,
            settings.interference,
            scenario.autoscaler(),
            on_round,
        )
    metrics = outcome.metrics()
    jct = np.array(outcome.completion_times, dtype=float)
    for name in scenario.applications:
        mine = np.array([job.application.name == name for job in jobs])
        metrics[f"job_share_{name}_pct"] = 100 * float(mine.mean())
        if mine.any():
            metrics[f"avg_jct_{name}_s"] = float(jct[mine].mean())
    rho = scenario.fairness(outcome) if settings.fairness else None
    if rho is not None:
        metrics["rho_p50"], metrics["rho_p99"] = np.percentile(rho, [50, 99]).tolist()
        metrics["rho_max"] = float(rho.max())
        metrics["rho_below_2_pct"] = 100 * float((rho < 2).mean())
    _write_artifacts(run, scenario.specs, outcome, rho, settings.trace)
    return metrics


@dataclass(frozen=True)
class Scenario:
    """Everything a simulation starts from."""

    settings: SimulateSettings
    applications: dict[str, Application]
    specs: list[JobSpec]

    @classmethod
    def load(cls, settings: SimulateSettings, run: Run) -> Scenario:
        """Load data, note what was read, check that the workload fits the cluster.

        Raises:
            InputError: data absent or malformed, no job, or a job larger than the cluster.
        """
        applications = load_applications(settings.applications, run, settings.data_root)
        specs = _workload(settings, run)
        largest = settings.max_nodes or settings.cluster.nodes
        total = largest * settings.cluster.gpus_per_node
        for spec in specs:
            if spec.num_replicas > total:
                raise InputError(
                    f"job {spec.name!r} asks for {spec.num_replicas} GPUs and the cluster has "
                    f"{total} ({largest} nodes x {settings.cluster.gpus_per_node}); "
                    "allowed: workloads whose largest job fits, or more nodes"
                )
        return cls(settings, applications, specs)

    def fresh_jobs(self) -> list[Job]:
        """Jobs that have not run, in order of submission."""
        jobs = []
        for spec in self.specs:
            app = self.applications[spec.application]
            adaptive = self.settings.policy == "pollux"
            batch = self._make_agent(app) if adaptive else FixedBatch(spec.batch_size, app)
            jobs.append(Job(spec.name, app, spec.time, batch))
        return sorted(jobs, key=lambda job: job.submission_time)

    def _make_agent(self, app: Application) -> BatchChoice:
        from papers.pollux_sim.policies.pollux_agent import MAX_GPUS, PolluxAgent

        rigid = app.name == RIGID_APPLICATION
        return PolluxAgent(
            app,
            fixed_batch_size=RIGID_BATCH if rigid else None,
            gpu_limit=1 if rigid else MAX_GPUS,
            known_theta=fitted_theta(app.name) if self.settings.known_theta else None,
        )

    def policy(self, seed: int) -> Policy:
        """The policy under test; only what it needs is imported."""
        settings = self.settings
        if settings.policy == "tiresias":
            from papers.pollux_sim.policies.tiresias import Tiresias

            return Tiresias({spec.name: spec.num_replicas for spec in self.specs})
        if settings.policy == "optimus":
            from papers.pollux_sim.policies.optimus import Optimus

            return Optimus(
                {spec.name: spec.batch_size for spec in self.specs},
                {spec.name: self._gpu_limit(spec) for spec in self.specs},
            )
        from papers.pollux_sim.policies.pollux_sched import PolluxSched

        return PolluxSched(
            seed=seed,
            power=settings.power,
            population_size=settings.search.population_size,
            generations=settings.search.generations,
            avoid_interference=settings.avoid_interference,
            upstream=settings.search.upstream,
        )

    def autoscaler(self) -> Autoscaler | None:
        """The auto-scaler, None without one."""
        if not self.settings.autoscale or self.settings.max_nodes is None:
            return None
        from papers.pollux_sim.policies.autoscaling import UtilityAutoscaler

        return UtilityAutoscaler(self.settings.max_nodes, self.settings.autoscale)

    def _gpu_limit(self, spec: JobSpec) -> int:
        """Most GPUs a job can use: one sample batch each of at least the smallest m."""
        app = self.applications[spec.application]
        if app.name == RIGID_APPLICATION:
            return 1
        batch = app.max_batch_size if self.settings.policy == "pollux" else spec.batch_size
        return min(batch // app.min_local_bsz, 64)

    def fairness(self, outcome: Simulation) -> NDArray[np.float64]:
        """Finish-time fairness of every job of ``outcome``."""
        from papers.pollux_sim.simulator.fairness import finish_time_fairness

        specs = {spec.name: spec for spec in self.specs}
        cluster = self.settings.cluster
        return finish_time_fairness(
            outcome.jobs,
            self.fresh_jobs(),
            [self._gpu_limit(specs[job.name]) for job in outcome.jobs],
            outcome.intervals,
            cluster.nodes * cluster.gpus_per_node,
            cluster.gpus_per_node,
            self.settings.interval_s,
        )


def _workload(settings: SimulateSettings, run: Run) -> list[JobSpec]:
    if settings.workload == "synthetic":
        run.uses(DataIdentity.generated("philly-like jobs", run.seed))
        size = settings.synthetic
        return synthetic_workload(
            {name: fit.tuned_jobs for name, fit in load_fits().items()},
            seed=run.seed,
            jobs=size.jobs,
            load=settings.load,
            duration_s=size.duration_s,
            mix=size.mix,
            max_replicas=size.max_replicas,
            realistic=settings.realistic,
        )
    if settings.workload == "file":
        path = Path(settings.file)
        specs = read_workload(path)
        checksum = {path.name: file_sha256(path)}
        run.uses(DataIdentity(name=path.name, real=True, source="file", sha256=checksum))
        return specs
    name = _artifact_workload(settings, run.seed)
    note_files(run, [name], settings.data_root)
    return read_workload(pollux_folder(settings.data_root) / name)


def _artifact_workload(settings: SimulateSettings, seed: int) -> str:
    index = seed if settings.index is None else settings.index
    if not 1 <= index <= 8:
        raise InputError(f"--seed {seed}: the artifact has workloads 1..8; allowed: those")
    folders = {0.5: "workloads-0.5", 1.0: "workloads", 1.5: "workloads-1.5", 2.0: "workloads-2.0"}
    if settings.load not in folders or (settings.realistic and settings.load != 1.0):
        raise InputError(
            f"load {settings.load} (realistic: {settings.realistic}): the artifact has tuned "
            "workloads at loads 0.5, 1, 1.5, 2 and realistic ones at load 1"
        )
    folder = "workloads-realistic" if settings.realistic else folders[settings.load]
    return f"{folder}/workload-{index}.csv"


def _write_artifacts(
    run: Run,
    specs: list[JobSpec],
    outcome: Simulation,
    rho: NDArray[np.float64] | None,
    trace: bool,
) -> None:
    """jobs.csv, timeline.csv and, where asked for, allocations.csv."""
    by_name = {spec.name: spec for spec in specs}
    rows = []
    for index, job in enumerate(outcome.jobs):
        spec = by_name[job.name]
        row = {
            "name": job.name,
            "application": spec.application,
            "submission_s": job.submission_time,
            "start_s": job.first_start,
            "completion_s": job.completion_time,
            "jct_s": (job.completion_time or 0) - job.submission_time,
            "num_replicas": spec.num_replicas,
            "batch_size": spec.batch_size,
            "restarts": job.num_restarts,
            "gpu_seconds": job.attained_service,
        }
        rows.append(row if rho is None else row | {"rho": float(rho[index])})
    run.write_rows("jobs.csv", rows)
    run.write_rows("timeline.csv", [row._asdict() for row in outcome.intervals])
    if trace:
        run.write_rows(
            "allocations.csv",
            [
                {
                    "job": span.job,
                    "start_s": span.start_s,
                    "end_s": span.end_s,
                    "node": node,
                    "gpus": gpus,
                    "batch_size": span.batch_size,
                    "efficiency": span.efficiency,
                }
                for span in outcome.spans
                for node, gpus in span.allocation
            ],
        )


PROGRAM = Program(SimulateSettings, run_simulation)
