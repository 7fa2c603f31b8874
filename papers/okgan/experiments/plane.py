"""Points in the plane by every method, Table 1: modes, quality and balance along training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.batches import Batches
from common.training import Core, CoreSettings
from papers.okgan.methods.generation import Generation, GeneratorOptimizer
from papers.okgan.methods.looks import Looks, shown
from papers.okgan.methods.plane import (
    FieldSettings,
    KernelSettings,
    MethodName,
    NetworkSettings,
    make_method,
)
from papers.okgan.metrics.neighbours import neighbour_kl
from papers.okgan.tasks.networks import plane_generator
from papers.okgan.tasks.plane import CurveName, PlaneName, Points, draw_curve, mixture

Judge = Callable[[Points], dict[str, float]]


class PlaneSettings(Settings):
    """Data, networks, method, and how often it is looked at."""

    core: CoreSettings = CoreSettings(device="cpu", global_batch_size=128)
    data: PlaneName
    points: int = Field(8000, gt=0, description="of sets without modes; the others have theirs")
    method: MethodName
    width: int = Field(64, gt=0, description="of the generator")
    layers: int = Field(3, gt=0)
    noise: int = Field(2, gt=0, description="dimensions")
    normalised: bool = Field(True, description="batch normalisation in the generator")
    iterations: int = Field(gt=0)
    generator_steps: int = Field(3, gt=0, description="in each iteration")
    generator: GeneratorOptimizer = GeneratorOptimizer()
    kernel: KernelSettings = KernelSettings()
    network: NetworkSettings = NetworkSettings()
    field: FieldSettings = FieldSettings()
    judged: int = Field(2500, gt=0, description="samples")
    judge_every: int = Field(gt=0, description="iterations")
    drawn: int = Field(0, ge=0, description="samples of each look that are kept to be drawn")


def run_plane(settings: PlaneSettings, run: Run) -> dict[str, float]:
    """Train, and return the last samples' metrics, generator steps and seconds of training."""
    core = Core(settings.core, run)
    points, judge = load_plane(settings, run)
    data = torch.from_numpy(points).float()
    training, before = make_training(settings, data, run.seed)
    loader = Batches(data, size=settings.core.global_batch_size, seed=run.seed)
    looks = Looks(judge_of(judge), settings.judged, settings.drawn)
    core.track(training=training, loader=loader, looks=looks)
    core.restore()
    real = endless(loader)
    every = settings.judge_every
    with shown(training, core, run, settings.iterations) as completed:
        looks.train(training, settings.iterations, every, lambda: next(real), before, completed)
    run.write_rows("history.csv", looks.rows)
    assert looks.samples is not None
    write_points(run, "samples.csv", looks.samples)
    for number, frame in enumerate(looks.frames):
        write_points(run, f"frames/{number:03d}.csv", frame)
    core.finish()
    return {**looks.metrics(), "generator_steps": float(training.count * settings.generator_steps)}


def write_points(run: Run, name: str, points: Tensor) -> None:
    """Points (n, 2) as an artifact, to four decimals."""
    rows = points.double().numpy().round(4)
    run.write_rows(name, [{"x": float(x), "y": float(y)} for x, y in rows])


def judge_of(judge: Judge) -> Callable[[Tensor], dict[str, float]]:
    """The same of tensors."""
    return lambda samples: judge(samples.double().numpy())


def make_training(
    settings: PlaneSettings, data: Tensor, seed: int
) -> tuple[Generation, Callable[[int], None]]:
    """(the generator in training, what is called before each iteration) for data (n, 2)."""
    # Before the method draws anything: at a seed all methods start from the same generator.
    generator = plane_generator(
        settings.width, settings.layers, settings.noise, settings.normalised
    )
    method = make_method(
        settings.method,
        settings.kernel,
        settings.network,
        settings.field,
        data,
        settings.iterations,
        lambda step: settings.generator.factor(step, settings.iterations),
        seed,
    )
    training = Generation(
        generator,
        method.noise or (lambda count: torch.randn(count, settings.noise)),
        method.discriminator,
        settings.generator,
        settings.iterations,
        settings.generator_steps,
        method.addition,
    )
    return training, method.before


def endless(loader: Batches) -> Iterator[Tensor]:
    """Batches of one epoch after another."""
    while True:
        for (batch,) in loader:
            yield batch


def load_plane(settings: PlaneSettings, run: Run) -> tuple[Points, Judge]:
    """The training set (n, 2) of the run's seed, and what judges samples."""
    rng = np.random.default_rng(run.seed)
    if settings.data in get_args(CurveName):
        points = draw_curve(settings.data, settings.points, rng)  # type: ignore[arg-type]
        real = draw_curve(settings.data, 5000, rng)  # type: ignore[arg-type]
        judge: Judge = lambda samples: {"neighbour_kl": neighbour_kl(samples, real)}  # noqa: E731
    else:
        made = mixture(settings.data, run.seed)  # type: ignore[arg-type]
        points, judge = made.draw(rng), made.judge
    run.uses(DataIdentity.generated(f"{len(points)} points, {settings.data}", run.seed))
    return points, judge


PROGRAM = Program(PlaneSettings, run_plane)
