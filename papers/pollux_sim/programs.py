"""What ``program:`` in experiments.yaml means for this paper."""

from __future__ import annotations

from common.config import Program
from papers.pollux_sim.autoscale_study import AutoscaleSettings, run_autoscaling
from papers.pollux_sim.model_study import ModelStudySettings, study
from papers.pollux_sim.scenario import SimulateSettings, run_simulation

PROGRAMS = {
    "simulate": Program(SimulateSettings, run_simulation),
    "model_study": Program(ModelStudySettings, study),
    "autoscale": Program(AutoscaleSettings, run_autoscaling),
}
