"""What damping does to the directions of H: the paper's Lemma 1 and its assumptions, in numbers.

Along eigenvector i of H, a gradient has the coordinate ``c_i sqrt(lambda_i)``; then influence is
``sum_i lambda_i / (lambda_i + lambda) c_tr,i c_te,i``, each direction weighted softly.
Source: Choe et al. 2024, Sec. 3.2 and App. D.
"""

from __future__ import annotations

import torch
from pydantic import Field

from common.runs.programs import Program
from common.runs.run import Run
from papers.logra.curvature.curvatures import Damping
from papers.logra.methods.attribution import InfluenceFunction, InfluenceSettings
from papers.logra.tasks.image_task import ImageTask, ImageTaskSettings
from papers.logra.tasks.samples import Samples

#: Directions with smaller eigenvalues are rounding.
SMALLEST = 1e-9


class SpectrumSettings(ImageTaskSettings):
    """Which layer, and how its H is damped."""

    layer: str = "head"
    dampings: tuple[float, ...] = Field(description="relative to the mean eigenvalue")


def run_spectrum(settings: SpectrumSettings, run: Run) -> dict[str, float]:
    """Both sides of the lemma, mean squared coordinates, and effective numbers of directions."""
    task = ImageTask(settings, run)
    train, test = task.images.train, task.images.test
    chosen = InfluenceSettings(projection="none", layers=(settings.layer,))
    train, test = (Samples(part.x.double(), part.y) for part in (train, test))
    function = InfluenceFunction(chosen, task.model(run.seed).double(), train, run.seed)
    hessian = function.hessian
    gradients, asked = function.matrix(train), function.matrix(test)
    eigenvalues, vectors = torch.linalg.eigh(gradients.mT @ gradients / len(gradients))
    kept = eigenvalues > SMALLEST
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    scale = eigenvalues.sqrt()
    of_train, of_test = gradients @ vectors / scale, asked @ vectors / scale
    metrics = {}
    rows = []
    for damping in settings.dampings:
        added = hessian.resolve_damping(hessian.layout.blocks[0].name, Damping(damping))
        direct = hessian.precondition(asked, Damping(damping)) @ gradients.mT
        weights = eigenvalues / (eigenvalues + added)
        summed = (of_test * weights) @ of_train.mT
        error = float((direct - summed).norm() / direct.norm())
        effective = sum(hessian.effective_dimension(Damping(damping)).values())
        metrics[f"lemma_error_{damping:g}"] = error
        metrics[f"effective_directions_{damping:g}"] = effective
        rows += [
            {"damping": damping, "direction": i, "eigenvalue": value, "weight": weight}
            for i, (value, weight) in enumerate(
                zip(eigenvalues.flip(0).tolist(), weights.flip(0).tolist(), strict=True)
            )
        ]
    run.write_rows("spectrum.csv", rows)
    squares = of_train.square().mean(0)
    return metrics | {
        "directions": float(len(eigenvalues)),
        "mean_square_of_train": float(squares.mean()),
        "largest_deviation_of_train": float((squares - 1).abs().max()),
        "median_square_of_test": float(of_test.square().mean(0).median()),
    }


PROGRAM = Program(SpectrumSettings, run_spectrum)
