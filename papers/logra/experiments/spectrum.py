"""What damping does to the directions of H: the paper's Lemma 1 and its assumptions, in numbers.

Along eigenvector i of H, a gradient has the coordinate ``c_i sqrt(lambda_i)``; then influence is
``sum_i lambda_i / (lambda_i + lambda) c_tr,i c_te,i``, each direction weighted softly.
Source: Choe et al. 2024, Sec. 3.2 and App. D.
"""

from __future__ import annotations

from pydantic import Field

from common.runs.programs import Program
from common.runs.run import Run
from papers.logra import merge_logs
from papers.logra.curvature.curvatures import Damping
from papers.logra.curvature.hessians import component_weights, components
from papers.logra.methods.attribution import InfluenceSettings, LoggedTrainingSet, whole_scores
from papers.logra.scoring.influence import flatten_log
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
    layer, model = settings.layer, task.model(run.seed).double()
    chosen = InfluenceSettings(projection="none", layers=(layer,))
    train, test = (Samples(part.x.double(), part.y) for part in (train, test))
    logged = LoggedTrainingSet(chosen, model, train, run.seed, run.work / "log")
    hessian = logged.run.influence.hessian(chosen.hessian)
    gradients, asked = (merge_logs(logged.logs(part)) for part in (train, test))
    block = hessian.curvatures[layer]
    floor = SMALLEST / block.largest
    of_train, of_test = (
        components(hessian, flatten_log(log, hessian.layout), floor)[layer]
        for log in (gradients, asked)
    )
    # The largest first.
    eigenvalues = block.factors()[0].flip(0)[: of_train.shape[1]].tolist()
    metrics = {}
    rows = []
    for damping in settings.dampings:
        options = {"hessian": chosen.hessian, "relative_damping": damping}
        direct = whole_scores(logged.run.compute_influence(asked, gradients, **options))
        weights = component_weights(hessian, Damping(damping), floor)[layer]
        summed = (of_test * weights) @ of_train.mT
        error = float((direct.to(summed) - summed).norm() / direct.norm())
        effective = sum(hessian.effective_dimension(Damping(damping)).values())
        metrics[f"lemma_error_{damping:g}"] = error
        metrics[f"effective_directions_{damping:g}"] = effective
        rows += [
            {"damping": damping, "direction": i, "eigenvalue": value, "weight": weight}
            for i, (value, weight) in enumerate(
                zip(eigenvalues, weights.flip(0).tolist(), strict=True)
            )
        ]
    run.write_rows("spectrum.csv", rows)
    squares = of_train.square().mean(0)
    return metrics | {
        "directions": float(of_train.shape[1]),
        "mean_square_of_train": float(squares.mean()),
        "largest_deviation_of_train": float((squares - 1).abs().max()),
        "median_square_of_test": float(of_test.square().mean(0).median()),
    }


PROGRAM = Program(SpectrumSettings, run_spectrum)
