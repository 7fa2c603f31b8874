"""Images by OKGAN, raw and with an encoder, and by its relatives; Figure 3 at a CPU's size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import read_record
from common.runs.run import Run
from common.tasks.batches import Batches
from common.training import Core, CoreSettings
from papers.okgan.experiments.image_reader import WEIGHTS
from papers.okgan.experiments.plane import endless
from papers.okgan.methods.generation import Generation, GeneratorOptimizer
from papers.okgan.methods.images import (
    ImageKernel,
    ImageMethod,
    ImageNetworks,
    make_image_method,
)
from papers.okgan.methods.looks import Looks, shown
from papers.okgan.methods.plane import NetworkSettings
from papers.okgan.metrics.images import image_distances
from papers.okgan.metrics.modes import check_finite, reverse_kl
from papers.okgan.tasks.image_networks import Reader
from papers.okgan.tasks.images import (
    PLACES,
    SIDES,
    ImageName,
    ImageSet,
    in_floats,
    load_images,
    poisson_shares,
    spelled,
)


class ImagesSettings(Settings):
    """Data, networks, method, and how often it is looked at."""

    core: CoreSettings = CoreSettings(device="cpu", global_batch_size=128)
    data_root: str | None = None
    data: ImageName
    size: int | None = Field(None, gt=0, description="side (default: the images' own)")
    method: ImageMethod
    networks: ImageNetworks = ImageNetworks()
    network: NetworkSettings = NetworkSettings(lr=2e-4)
    kernel: ImageKernel = ImageKernel()
    generator: GeneratorOptimizer = GeneratorOptimizer(lr=2e-4, fall=1.0, betas=(0.5, 0.999))
    iterations: int = Field(gt=0)
    generator_steps: int = Field(1, gt=0, description="in each iteration")
    judged: int = Field(2000, gt=0, description="samples")
    judge_every: int = Field(gt=0, description="iterations")
    drawn: int = Field(64, ge=0, description="samples of each look that are kept to be drawn")


def run_images(settings: ImagesSettings, run: Run) -> dict[str, float]:
    """Train, and return the last samples' metrics and seconds of training."""
    core = Core(settings.core, run)
    images, judge = load_judged(settings, run)
    training, before = make_training(settings, images.shape, core.device, run.seed)
    loader = Batches(images.train, size=settings.core.global_batch_size, seed=run.seed)
    looks = Looks(lambda samples: judge(samples.cpu()), settings.judged, settings.drawn)
    core.track(training=training, loader=loader, looks=looks)
    core.restore()
    real = endless(loader)
    with shown(training, core, run, settings.iterations) as completed:
        looks.train(
            training,
            settings.iterations,
            settings.judge_every,
            lambda: in_floats(next(real).to(core.device)),
            before,
            completed,
        )
    run.write_rows("history.csv", looks.rows)
    for number, frame in enumerate(looks.frames):
        np.save(run.path(f"frames/{number:03d}.npy"), as_bytes(frame))
    np.save(run.path("real.npy"), as_bytes(in_floats(images.train[: settings.drawn])))
    core.finish()
    steps = float(training.count * settings.generator_steps)
    return {**looks.metrics(), "generator_steps": steps}


def load_judged(
    settings: ImagesSettings, run: Run
) -> tuple[ImageSet, Callable[[Tensor], dict[str, float]]]:
    """(images, samples -> metrics), the latter by the classifier of the run that came before."""
    root = Path(settings.data_root) if settings.data_root else None
    images = load_images(settings.data, root, run, settings.size)
    numbers = settings.data == "poisson_digits"
    reader = load_reader(run, PLACES if numbers else 1)
    return images, image_judge(images, reader, settings.judged, numbers)


def make_training(
    settings: ImagesSettings, shape: tuple[int, int, int], device: torch.device, seed: int
) -> tuple[Generation, Callable[[int], None]]:
    """(the generator in training, what is called before each iteration) for images of ``shape``."""
    # Before the method draws anything: at a seed all methods start from the same generator.
    generator = settings.networks.generator(shape)
    discriminator, before = make_image_method(
        settings.method,
        shape,
        settings.kernel,
        settings.networks,
        settings.network,
        lambda step: settings.generator.factor(step, settings.iterations),
        seed,
    )
    if isinstance(discriminator, torch.nn.Module):
        discriminator.to(device)
    training = Generation(
        generator.to(device),
        lambda count: torch.randn(count, settings.networks.noise, device=device),
        discriminator,
        settings.generator,
        settings.iterations,
        settings.generator_steps,
    )
    return training, before


def load_reader(run: Run, parts: int) -> Reader:
    """The classifier of the run that came before, for images of so many parts.

    Raises:
        InputError: its weights are not those of the network that its settings describe.
    """
    folder = run.needed("reader")[0]
    settings = read_record(folder / "record.json").settings
    state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    weights = [value for value in state.values() if value.ndim > 1]
    channels, classes = weights[0].shape[1], weights[-1].shape[0]
    reader = Reader(channels, SIDES[settings["data"]], tuple(settings["widths"]), classes, parts)
    try:
        reader.load_state_dict(state)
    except RuntimeError:
        raise InputError(f"{folder / WEIGHTS}: not of widths {settings['widths']}") from None
    return reader


def image_judge(
    images: ImageSet, reader: Reader, count: int, numbers: bool
) -> Callable[[Tensor], dict[str, float]]:
    """Samples -> distances to ``count`` held-out images; divergence over classes or numbers."""
    features, _ = reader.read(in_floats(images.test[:count]))
    if numbers:
        shares = poisson_shares()
    else:
        found = np.bincount(images.train_labels.numpy())
        shares = found / found.sum()

    def judge(samples: Tensor) -> dict[str, float]:
        check_finite(samples.flatten(1).numpy())
        theirs, told = reader.read(samples)
        read = spelled(told) if numbers else told[:, 0]
        counts = np.bincount(read.numpy(), minlength=len(shares))
        return {
            **image_distances(theirs, features),
            "classes": float((counts > 0).sum()),
            "class_kl": reverse_kl(counts, shares),
        }

    return judge


def as_bytes(images: Tensor) -> np.ndarray:
    """(n, channels, h, w) in [-1, 1] -> (n, h, w, channels) uint8."""
    grey = ((images.cpu() + 1) * 127.5).round().clamp(0, 255)
    return grey.permute(0, 2, 3, 1).to(torch.uint8).numpy()


PROGRAM = Program(ImagesSettings, run_images)
