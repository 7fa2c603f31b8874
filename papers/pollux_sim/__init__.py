"""Pollux (OSDI 2021): goodput-optimised cluster scheduling, its baselines and their simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from papers.pollux_sim.applications.applications import Application, Limits
    from papers.pollux_sim.applications.parametric import load_parametric
    from papers.pollux_sim.applications.traces import load_traces
    from papers.pollux_sim.applications.workloads import read_workload
    from papers.pollux_sim.policies.optimus import Optimus
    from papers.pollux_sim.policies.pollux_agent import PolluxAgent
    from papers.pollux_sim.policies.pollux_sched import PolluxSched
    from papers.pollux_sim.policies.tiresias import Tiresias
    from papers.pollux_sim.simulator.cluster import Cluster, Policy
    from papers.pollux_sim.simulator.job import FixedBatch, Job
    from papers.pollux_sim.simulator.simulator import Simulation, simulate

__all__ = [
    "Application",
    "Cluster",
    "FixedBatch",
    "Job",
    "Limits",
    "Optimus",
    "Policy",
    "PolluxAgent",
    "PolluxSched",
    "Simulation",
    "Tiresias",
    "load_parametric",
    "load_traces",
    "read_workload",
    "simulate",
]

# Loaded when asked for, so that a run loads, and its record names, no more than it needs.
__getattr__, __dir__, _ = lazy.attach(
    __name__,
    submod_attrs={
        "applications.applications": ["Application", "Limits"],
        "applications.parametric": ["load_parametric"],
        "applications.traces": ["load_traces"],
        "applications.workloads": ["read_workload"],
        "policies.optimus": ["Optimus"],
        "policies.pollux_agent": ["PolluxAgent"],
        "policies.pollux_sched": ["PolluxSched"],
        "policies.tiresias": ["Tiresias"],
        "simulator.cluster": ["Cluster", "Policy"],
        "simulator.job": ["FixedBatch", "Job"],
        "simulator.simulator": ["Simulation", "simulate"],
    },
)
