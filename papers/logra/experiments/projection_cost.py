"""Cost of projecting one layer's per-sample gradients: by LoGra, by one dense matrix, not at all.

What is timed begins at the layer's inputs and its output's gradients, which all ways share. LoGra
takes O(b sqrt(n k)) operations and numbers, a dense matrix O(b n k) and n k of them.
Source: Choe et al. 2024, Sec. 3.1.
"""

from __future__ import annotations

from statistics import median

import torch
from pydantic import Field
from torch import Tensor, nn

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training.local_gpu import Device
from papers.logra.experiments.efficiency import timed
from papers.logra.gradients.layers import add_gradients, add_projected_gradients, find_rule
from papers.logra.gradients.projections import random_projections
from papers.logra.tasks.devices import take_device


class ProjectionCostSettings(Settings):
    """One linear layer and its batches."""

    width: int = Field(gt=0, description="of the layer, in and out")
    length: int = Field(gt=0, description="tokens of a sequence")
    batch: int = Field(gt=0)
    rank: int = Field(gt=0)
    repetitions: int = Field(gt=0)
    device: Device = "auto"


def run_projection_cost(settings: ProjectionCostSettings, run: Run) -> dict[str, float]:
    """Median time of a batch (s) and bytes of the projection, by each way."""
    device = take_device(settings.device, run)
    run.uses(DataIdentity.generated("normal numbers", run.seed))
    torch.manual_seed(run.seed)
    width, rank = settings.width, settings.rank
    layer = nn.Linear(width, width, bias=False)
    inputs, errors = torch.randn(2, settings.batch, settings.length, width, device=device)
    p_i, p_o = (
        part.to(device) for part in random_projections({"layer": layer}, rank, run.seed)["layer"]
    )
    dense = torch.randn(width**2, rank**2, device=device)
    rule = find_rule(layer)
    whole = torch.empty(settings.batch, width, width, device=device)
    small = torch.empty(settings.batch, rank, rank, device=device)

    def by_logra() -> None:
        add_projected_gradients(
            small,
            rule.projected_inputs(inputs, p_i),
            rule.projected_outputs(errors, p_o),
            first=True,
        )

    def not_at_all() -> None:
        add_gradients(whole, rule.inputs(inputs), rule.outputs(errors), first=True)

    def by_a_dense_matrix() -> Tensor:
        not_at_all()
        return whole.flatten(1) @ dense

    metrics = {"dense_bytes": float(dense.nbytes), "logra_bytes": float(p_i.nbytes + p_o.nbytes)}
    ways = {"logra": by_logra, "whole": not_at_all, "dense": by_a_dense_matrix}
    for name, way in ways.items():
        way()  # the first call allocates
        metrics[f"{name}_s"] = median(timed(way) for _ in range(settings.repetitions))
    return metrics


PROGRAM = Program(ProjectionCostSettings, run_projection_cost)
