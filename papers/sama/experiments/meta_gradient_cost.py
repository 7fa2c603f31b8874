"""Memory and throughput of meta gradients by algorithm, size, batch and processes.

Source: Choe et al. 2023 (SAMA), Table 2 and Figure 1. Inputs are random and weights untrained:
what is measured does not depend on them.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from pydantic import Field, model_validator

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training import Core, CoreSettings
from papers.sama.measures.cost import measure
from papers.sama.measures.processes import run_in_processes
from papers.sama.methods.algorithms import AlgorithmSettings
from papers.sama.tasks.random_classes import NetworkSettings, RandomClasses


class MetaGradientCost(Settings):
    """The program whose cost is measured."""

    core: CoreSettings = Field(description="global_batch_size: of base and meta batches each")
    network: NetworkSettings
    algorithm: AlgorithmSettings
    processes: int = Field(1, gt=0, description="started by the run; each has an equal share")
    cycles: int = Field(gt=0, description="cycles of base steps and a meta step that are timed")

    @model_validator(mode="after")
    def _check(self) -> MetaGradientCost:
        if self.core.global_batch_size % self.processes:
            raise ValueError(
                f"processes: {self.processes} must divide global_batch_size,"
                f" {self.core.global_batch_size}"
            )
        return self


def run_meta_gradient_cost(settings: MetaGradientCost, run: Run) -> dict[str, float]:
    """Measure, and return bytes of a process, seconds of a cycle, and base samples a second."""
    run.uses(DataIdentity.generated("random inputs and labels", run.seed))
    if settings.processes == 1:
        core = Core(settings.core, run)
        found = [cost_of_process(core.device, settings, run.seed)]
        core.finish()
    else:
        on_gpus = settings.core.device != "cpu" and torch.cuda.device_count() > 0
        run.device, run.precision = ("cuda" if on_gpus else "cpu"), "fp32"
        found = run_in_processes(cost_of_process, settings.processes, on_gpus, settings, run.seed)
    metrics = {name: max(each[name] for each in found) for name in found[0]}
    steps = settings.algorithm.unroll_steps
    samples = steps * settings.core.global_batch_size
    return metrics | {"samples_per_s": samples / metrics["cycle_s"]}


def cost_of_process(
    device: torch.device, settings: MetaGradientCost, seed: int
) -> dict[str, float]:
    """What a cycle costs this process, alone or in a group."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    share = settings.core.global_batch_size // settings.processes
    numbers = []

    def make():  # type: ignore[no-untyped-def]
        task = RandomClasses(settings.network, share, seed, device, rank)
        numbers.append(task.numbers())
        return settings.algorithm.cycle(task)

    cost = measure(make, settings.cycles, device)
    return {
        "saved_bytes": float(cost.saved_bytes),
        "peak_bytes": float(cost.peak_bytes),
        "cycle_s": cost.cycle_s,
        "cycle_cpu_s": cost.cycle_cpu_s,
        "parameters": float(numbers[0]),
    }


PROGRAM = Program(MetaGradientCost, run_meta_gradient_cost)
