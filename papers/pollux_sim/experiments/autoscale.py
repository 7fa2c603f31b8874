"""Program ``autoscale``: one large job on a cloud cluster that grows with it. Sec. 5.3, Fig. 9."""

from __future__ import annotations

from pydantic import Field

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from papers.pollux_sim.applications.parametric import fitted_theta
from papers.pollux_sim.policies.autoscaling import (
    EqualShares,
    Measure,
    ThroughputAgent,
    UtilityAutoscaler,
)
from papers.pollux_sim.policies.pollux_agent import PolluxAgent
from papers.pollux_sim.simulator.cluster import Cluster
from papers.pollux_sim.simulator.job import Job
from papers.pollux_sim.simulator.simulator import simulate
from papers.pollux_sim.tasks.ground_truth import Source, load_applications


class AutoscaleSettings(Settings):
    """One job, one scaling rule."""

    applications: Source
    application: str = "imagenet"
    scale_by: Measure = Field(description="what the scaling rule counts as speedup")
    tune_by: Measure = Field("goodput", description="what the job's batch size maximises")
    max_nodes: int = Field(16, gt=0, le=100_000)
    gpus_per_node: int = Field(4, gt=0, le=4)
    interval_s: int = Field(60, gt=0, le=10**9)
    upper: float = Field(2 / 3, gt=0, description="U: grow above this speedup per GPU")
    lower: float = Field(1 / 2, gt=0, description="L: grow to about this speedup per GPU")
    data_root: str | None = None


def run_autoscaling(settings: AutoscaleSettings, run: Run) -> dict[str, float]:
    """Cost in node hours, completion time and mean efficiency; writes timeline.csv."""
    app = load_applications(settings.applications, run, settings.data_root)[settings.application]
    theta = fitted_theta(settings.application)
    agent = PolluxAgent if settings.tune_by == "goodput" else ThroughputAgent
    job = Job(app.name, app, 0, agent(app, known_theta=theta))
    outcome = simulate(
        [job],
        EqualShares(),
        Cluster(1, settings.gpus_per_node),
        settings.interval_s,
        autoscaler=UtilityAutoscaler(
            settings.max_nodes, settings.scale_by, settings.upper, settings.lower
        ),
    )
    run.write_rows("timeline.csv", [row._asdict() for row in outcome.intervals])
    metrics = outcome.metrics()
    kept = ("avg_jct_s", "node_hours", "mean_efficiency", "restarts_per_job")
    return {name: metrics[name] for name in kept}


PROGRAM = Program(AutoscaleSettings, run_autoscaling)
