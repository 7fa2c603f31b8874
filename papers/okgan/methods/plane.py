"""What a method needs beside a generator of points in the plane."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from common.experiments.settings import Settings
from papers.okgan import Gaussian, KernelDiscriminator
from papers.okgan.discriminator import Discriminator
from papers.okgan.losses import LossName
from papers.okgan.methods.generation import (
    Addition,
    BandwidthSettings,
    OptimizerName,
    make_optimizer,
)
from papers.okgan.tasks.networks import plane_discriminator

MethodName = Literal[
    "okgan",
    "gan",
    "wgan_gp",
    "r3gan",
    "pacgan",
    "unrolled",
    "bourgan",
    "gmmn",
    "drifting",
]


class KernelSettings(Settings):
    """The kernel classifier, and the bandwidth of every method with a kernel."""

    bandwidth: BandwidthSettings = BandwidthSettings(start=3.0, end=500.0)
    budget: int = Field(512, gt=0)
    loss: LossName = "hinge"
    lr: float = Field(0.05, gt=0)
    penalty: float = Field(0.1, ge=0)
    passes: int = Field(1, gt=0)
    batch_size: int = Field(64, gt=0, description="of the classifier's mini-batches")


class NetworkSettings(Settings):
    """The discriminator that is a network, and its optimiser."""

    width: int = Field(64, gt=0)
    layers: int = Field(3, gt=0)
    slope: float = Field(0.2, ge=0, description="of the leaky ReLU; of points alone")
    optimizer: OptimizerName = "adam"
    lr: float = Field(1e-3, gt=0, description="falls as the generator's does")
    betas: tuple[float, float] = (0.5, 0.999)
    steps: int = Field(1, gt=0, description="in each iteration")
    penalty: float = Field(0.0, ge=0, description="weight of the gradient penalty")
    packing: int = Field(1, gt=0, description="points judged together")
    ahead: int = Field(5, gt=0, description="steps that an unrolled network is ahead")
    ahead_lr: float = Field(1e-2, gt=0)


class FieldSettings(Settings):
    """Methods without a discriminator, and BourGAN's noise."""

    past: int = Field(0, ge=0, description="past samples that repel beside the batch's own")
    laplacian: bool = Field(True, description="drifting: exp(-|x - y| / t), else Gaussian")
    embedded: int = Field(2048, gt=1, description="BourGAN: data points that are embedded")
    distance_weight: float = Field(0.1, ge=0, description="BourGAN: of the distance loss")


class Method(NamedTuple):
    """A discriminator, what is called before each iteration, and what else a method changes."""

    discriminator: Discriminator
    before: Callable[[int], None]
    noise: Callable[[int], Tensor] | None = None
    addition: Addition | None = None


def make_method(
    name: MethodName,
    kernel: KernelSettings,
    network: NetworkSettings,
    field: FieldSettings,
    data: Tensor,
    iterations: int,
    factor: Callable[[int], float],
    seed: int,
) -> Method:
    """The method for data (n, 2); ``factor`` is that of the generator's learning rate."""
    gamma = kernel.bandwidth.schedule(iterations)
    if name == "okgan":
        classifier = KernelDiscriminator(
            (2,),
            Gaussian(gamma(0)),
            kernel.budget,
            kernel.loss,
            kernel.lr,
            kernel.penalty,
            kernel.passes,
            kernel.batch_size,
            seed=seed,
        )
        return Method(classifier, lambda step: setattr(classifier, "kernel", Gaussian(gamma(step))))
    if name in ("gmmn", "drifting"):
        return _fielded(name, field, gamma)
    return _neural(name, network, field, data, factor, seed)


def _fielded(name: str, settings: FieldSettings, gamma: Callable[[int], float]) -> Method:
    from papers.okgan.fields import Drifting, MeanDiscrepancy, PastSamples

    past = PastSamples(settings.past, 2) if settings.past else None
    if name == "gmmn":
        matching = MeanDiscrepancy(Gaussian(gamma(0)), past)
        return Method(matching, lambda step: setattr(matching, "kernel", Gaussian(gamma(step))))

    def width(step: int) -> float:
        """Of the Gaussian kernel with this gamma."""
        return float((0.5 / gamma(step)) ** 0.5)

    drifting = Drifting(width(0), past, gaussian=not settings.laplacian)
    return Method(drifting, lambda step: setattr(drifting, "temperature", width(step)))


def _neural(
    name: str,
    settings: NetworkSettings,
    field: FieldSettings,
    data: Tensor,
    factor: Callable[[int], float],
    seed: int,
) -> Method:
    from papers.okgan.neural import NeuralDiscriminator, UnrolledDiscriminator

    net = plane_discriminator(settings.width, settings.layers, settings.packing, settings.slope)
    optimizer = partial(make_optimizer, settings.optimizer, lr=settings.lr, betas=settings.betas)
    objective: Literal["nonsaturating", "wasserstein", "relativistic"] = "nonsaturating"
    if name == "wgan_gp":
        objective = "wasserstein"
    elif name == "r3gan":
        objective = "relativistic"
    if name == "unrolled":
        critic: NeuralDiscriminator = UnrolledDiscriminator(
            net, optimizer, settings.ahead, settings.ahead_lr
        )
    else:
        critic = NeuralDiscriminator(
            net, optimizer, objective, settings.steps, settings.penalty, settings.packing
        )

    def before(step: int) -> None:
        for group in critic.optimizer.param_groups:
            group["lr"] = settings.lr * factor(step)

    if name != "bourgan":
        return Method(critic, before)
    from papers.okgan.bourgan import BourgainNoise, distance_loss

    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    noise = BourgainNoise(data[rows[: field.embedded]], dimensions=2, seed=seed)

    def addition(samples: Tensor, drawn: Tensor) -> Tensor:
        return field.distance_weight * distance_loss(samples, drawn, noise.scale)

    return Method(critic, before, noise, addition)
