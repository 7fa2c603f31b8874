"""What ``program:`` in experiments.yaml means for this paper."""

from __future__ import annotations

from common.config import Programs

PROGRAMS = Programs(
    simulate="papers.pollux_sim.scenario",
    model_study="papers.pollux_sim.model_study",
    autoscale="papers.pollux_sim.autoscale_study",
)
