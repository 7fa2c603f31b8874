"""Costs and events of two processes, run by the tests: ``python -m ... FILE``.

A process of its own starts them, for a test's may have threads, which forks do not survive.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from papers.sama.experiments.meta_gradient_cost import MetaGradientCost, cost_of_process
from papers.sama.experiments.meta_step_timeline import MetaStepTimeline, timeline_of_process
from papers.sama.measures.processes import run_in_processes

NETWORK = {"kind": "mlp", "width": 16, "depth": 2, "inputs": 8}


def cost_settings(name: str, processes: int = 1, **options: Any) -> MetaGradientCost:
    """A small program by an algorithm."""
    return MetaGradientCost.model_validate(
        {
            "core": {"device": "cpu", "global_batch_size": 200},
            "network": NETWORK,
            "algorithm": {"name": name, **options},
            "processes": processes,
            "cycles": 2,
        }
    )


def timeline_settings(method: str, bucket_mb: float) -> MetaStepTimeline:
    """The same network, and a wider one of weights."""
    return MetaStepTimeline.model_validate(
        {
            "method": method,
            "network": NETWORK,
            "batch_size": 50,
            "meta_hidden": 64,
            "bucket_mb": bucket_mb,
            "repeats": 1,
        }
    )


def all_of_process(device: torch.device) -> dict[str, Any]:
    """What one of two processes finds."""
    return {
        "cost": cost_of_process(device, cost_settings("sama", 2), 0),
        "sama": timeline_of_process(device, timeline_settings("sama", 0.01), 0),
        "naive": timeline_of_process(device, timeline_settings("naive", 25.0), 0),
    }


def main(path: Path) -> None:
    """Run them."""
    torch.set_num_threads(1)
    torch.save(run_in_processes(all_of_process, 2, False), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
