"""What a method needs beside a generator of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from common.experiments.settings import Settings
from papers.okgan import (
    EncodedKernelDiscriminator,
    Gaussian,
    Kernel,
    KernelDiscriminator,
    MixedGaussian,
    Polynomial,
)
from papers.okgan.discriminator import Discriminator
from papers.okgan.losses import LossName
from papers.okgan.methods.generation import make_optimizer
from papers.okgan.methods.plane import NetworkSettings
from papers.okgan.tasks.image_networks import (
    ConvShape,
    conv_encoder,
    conv_generator,
    dcgan_weights,
    mlp_discriminator,
    mlp_generator,
)

ImageMethod = Literal["okgan", "gan", "r3gan", "gmmn", "drifting"]


class ImageKernel(Settings):
    """The kernel classifier of images or their codes."""

    kind: Literal["gaussian", "mixed_gaussian", "polynomial"] = "gaussian"
    gamma: float = Field(0.01, gt=0, description="not of mixed_gaussian")
    sigmas: tuple[float, ...] = Field(
        (2, 5, 10, 20, 40, 80), min_length=1, description="of mixed_gaussian"
    )
    budget: int = Field(700, gt=0)
    loss: LossName = "logistic"
    lr: float = Field(0.05, gt=0)
    penalty: float = Field(0.1, ge=0)
    passes: int = Field(3, gt=0)
    batch_size: int = Field(64, gt=0, description="of the classifier's mini-batches")

    def kernel(self) -> Kernel:
        """The kernel."""
        if self.kind == "mixed_gaussian":
            return MixedGaussian.of_widths(self.sigmas)
        return Polynomial(self.gamma) if self.kind == "polynomial" else Gaussian(self.gamma)


class ImageNetworks(Settings):
    """The generator, and the encoder or critic of the same form."""

    form: Literal["mlp", "dcgan"] = "dcgan"
    encoder: bool = Field(True, description="a kernel of codes, not of pixels; dcgan alone")
    width: int = Field(128, gt=0, description="dcgan: channels of the outermost stage")
    share: float = Field(1.0, gt=0, description="mlp: of the published widths")
    start: int = Field(4, gt=0, description="dcgan: side of the innermost maps")
    encoder_kernel: int = Field(4, gt=0)
    slope: float = Field(0.01, ge=0, description="of the encoder's leaky ReLU")
    bias: bool = True
    small_weights: bool = Field(False, description="convolutions from N(0, 0.02)")
    noise: int = Field(100, gt=0)
    codes: int = Field(100, gt=0)
    encoder_steps: int = Field(1, gt=0)

    def generator(self, shape: tuple[int, int, int]) -> nn.Module:
        """Noise -> images of ``shape``. Raises InputError for a side that does not halve."""
        if self.form == "mlp":
            return mlp_generator(self.noise, shape, self.share)
        conv = ConvShape(shape[1], self.start, self.width)
        return self._begun(conv_generator(self.noise, shape[0], conv, self.bias))

    def critic(self, shape: tuple[int, int, int], outputs: int) -> nn.Module:
        """Images -> ``outputs`` numbers. Raises InputError as the generator."""
        if self.form == "mlp":
            return mlp_discriminator(shape, self.share)
        conv = ConvShape(shape[1], self.start, self.width)
        return self._begun(
            conv_encoder(shape[0], outputs, conv, self.encoder_kernel, self.slope, self.bias)
        )

    def _begun(self, net: nn.Module) -> nn.Module:
        return net.apply(dcgan_weights) if self.small_weights else net


def make_image_method(
    name: ImageMethod,
    shape: tuple[int, int, int],
    kernel: ImageKernel,
    networks: ImageNetworks,
    network: NetworkSettings,
    factor: Callable[[int], float],
    seed: int,
) -> tuple[Discriminator, Callable[[int], None]]:
    """(the discriminator, what is called before each iteration) for images of ``shape``.

    ``factor`` is that of the generator's learning rate, by iteration; ``network`` are settings of a
    network that is a discriminator or an encoder.
    """
    optimizer = partial(make_optimizer, network.optimizer, lr=network.lr, betas=network.betas)
    if name in ("gmmn", "drifting"):
        from papers.okgan.fields import Drifting, MeanDiscrepancy

        if name == "gmmn":
            return MeanDiscrepancy(kernel.kernel()), lambda step: None
        return Drifting((0.5 / kernel.gamma) ** 0.5, gaussian=True), lambda step: None
    if name == "okgan":
        options: dict[str, Any] = {
            "budget": kernel.budget,
            "loss_name": kernel.loss,
            "lr": kernel.lr,
            "penalty": kernel.penalty,
            "passes": kernel.passes,
            "batch_size": kernel.batch_size,
            "seed": seed,
        }
        if networks.form == "mlp" or not networks.encoder:
            return KernelDiscriminator(shape, kernel.kernel(), **options), lambda step: None
        encoder = networks.critic(shape, networks.codes)
        learned = EncodedKernelDiscriminator(
            shape, kernel.kernel(), encoder, optimizer, networks.encoder_steps, **options
        )
        return learned, partial(_set_rate, learned.optimizer, network.lr, factor)
    from papers.okgan.neural import NeuralDiscriminator

    critic = NeuralDiscriminator(
        networks.critic(shape, 1),
        optimizer,
        "relativistic" if name == "r3gan" else "nonsaturating",
        network.steps,
        network.penalty if name == "r3gan" else 0.0,
    )
    return critic, partial(_set_rate, critic.optimizer, network.lr, factor)


def _set_rate(
    optimizer: torch.optim.Optimizer, lr: float, factor: Callable[[int], float], step: int
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * factor(step)
