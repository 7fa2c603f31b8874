"""Cost of projecting one layer's per-sample gradients: by LoGra, by one dense matrix, not at all.

LoGra takes O(b sqrt(n k)) operations and numbers, a dense matrix O(b n k) and n k of them.
Source: Choe et al. 2024, Sec. 3.1.
"""

from __future__ import annotations

from statistics import median

import torch
from pydantic import Field
from torch import Tensor, nn

from common.config import Program, Settings
from common.run import DataIdentity, Run
from papers.logra.capture import Capture
from papers.logra.classifier_training import Device, device_of
from papers.logra.efficiency import timed
from papers.logra.projections import Projections, random_projections


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
    device = device_of(settings.device, run)
    run.uses(
        DataIdentity(
            name="normal numbers",
            real=False,
            source="generator",
            generator="papers.logra.projection_cost",
            seed=run.seed,
        )
    )
    torch.manual_seed(run.seed)
    layer = nn.Linear(settings.width, settings.width, bias=False).to(device)
    layers = {"layer": layer}
    x = torch.randn(settings.batch, settings.length, settings.width, device=device)
    projections = random_projections(layers, settings.rank, run.seed)
    dimension = settings.rank**2
    dense = torch.randn(settings.width**2, dimension, device=device)

    def gradients(chosen: Projections | None) -> Tensor:
        capture = Capture(layer, layers, chosen)
        with capture.batch() as batch:
            torch.autograd.backward([layer(x).square().sum()])
        return batch.matrix

    ways = {
        "logra": lambda: gradients(projections),
        "whole": lambda: gradients(None),
        "dense": lambda: gradients(None) @ dense,
    }
    metrics = {"dense_bytes": float(dense.nbytes)}
    metrics["logra_bytes"] = float(sum(part.nbytes for part in projections["layer"]))
    for name, way in ways.items():
        way()  # the first call allocates
        metrics[f"{name}_s"] = median(timed(way) for _ in range(settings.repetitions))
    return metrics


PROGRAM = Program(ProjectionCostSettings, run_projection_cost)
