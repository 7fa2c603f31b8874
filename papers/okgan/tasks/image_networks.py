"""Generators, encoders and discriminators of images; the classifier that judges them."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError
from common.tasks.networks import conv_net

#: Hidden layers of the generator without convolutions, and of the discriminator beside it.
HIDDEN: Final = (256, 512, 1024)


def mlp_generator(noise: int, shape: tuple[int, int, int], share: float = 1.0) -> nn.Sequential:
    """(n, ``noise``) -> images (n, *shape) in [-1, 1]; ``share`` of the published widths."""
    sizes = [noise, *(max(8, round(share * width)) for width in HIDDEN)]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], pixels), nn.Tanh(), nn.Unflatten(1, shape))


def mlp_discriminator(shape: tuple[int, int, int], share: float = 1.0) -> nn.Sequential:
    """Images (n, *shape) -> (n, 1), the generator's layers the other way round."""
    pixels = shape[0] * shape[1] * shape[2]
    sizes = [pixels, *(max(8, round(share * width)) for width in reversed(HIDDEN))]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


class ConvShape:
    """Widths of a DCGAN for square images: each stage halves the side and doubles the channels.

    Args:
        size: side of the images.
        start: side of the innermost maps.
        width: channels of the outermost stage.

    Raises:
        InputError: ``size`` is not ``start`` times a power of two.
    """

    def __init__(self, size: int, start: int, width: int) -> None:
        stages = (size // start).bit_length() - 1
        if stages < 1 or start << stages != size:
            raise InputError(
                f"images of side {size}: allowed: {start} times a power of two, from {2 * start}"
            )
        self.start = start
        #: Channels from the outermost stage inwards.
        self.channels = [width << stage for stage in range(stages)]


def conv_generator(noise: int, channels: int, shape: ConvShape, bias: bool = True) -> nn.Sequential:
    """(n, ``noise``) -> (n, channels, size, size) in [-1, 1] (Radford et al. 2016)."""
    inwards = shape.channels[::-1]
    layers: list[nn.Module] = [
        nn.Unflatten(1, (noise, 1, 1)),
        nn.ConvTranspose2d(noise, inwards[0], shape.start, bias=bias),
        nn.BatchNorm2d(inwards[0]),
        nn.ReLU(),
    ]
    for before, after in pairwise(inwards):
        layers += [
            nn.ConvTranspose2d(before, after, 4, 2, 1, bias=bias),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    last = nn.ConvTranspose2d(inwards[-1], channels, 4, 2, 1, bias=bias)
    return nn.Sequential(*layers, last, nn.Tanh())


def conv_encoder(
    channels: int,
    codes: int,
    shape: ConvShape,
    kernel: int = 4,
    slope: float = 0.01,
    bias: bool = True,
) -> nn.Sequential:
    """(n, channels, size, size) -> (n, ``codes``): the generator's mirror; a DCGAN critic of one.

    Batch normalisation stands after all convolutions but the first and the last.
    """
    padding = (kernel - 1) // 2
    outwards = shape.channels
    layers: list[nn.Module] = [
        nn.Conv2d(channels, outwards[0], kernel, 2, padding, bias=bias),
        nn.LeakyReLU(slope),
    ]
    for before, after in pairwise(outwards):
        layers += [
            nn.Conv2d(before, after, kernel, 2, padding, bias=bias),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(slope),
        ]
    last = nn.Conv2d(outwards[-1], codes, shape.start, bias=bias)
    return nn.Sequential(*layers, last, nn.Flatten())


def dcgan_weights(module: nn.Module) -> None:
    """Convolutions from N(0, 0.02), scales of normalisation from N(1, 0.02); for ``apply``."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Reader(nn.Module):
    """A small classifier whose last hidden layer are the features that images are judged by.

    Images of another side are brought to its own by means over areas; one that is ``parts`` times
    as wide as high is read part by part.

    Args:
        channels: of an image.
        side: that it was trained with.
        widths: channels of its strided convolutions.
        classes: that it tells apart.
        parts: side by side in an image.
    """

    def __init__(
        self, channels: int, side: int, widths: tuple[int, ...], classes: int = 10, parts: int = 1
    ) -> None:
        super().__init__()
        self.net = conv_net(channels, *widths, classes=classes)
        self.side, self.parts = side, parts

    def forward(self, images: Tensor) -> Tensor:
        """Images of one part -> (n, classes) logits."""
        logits: Tensor = self.net(self._sized(images))
        return logits

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images -> (features (n, parts d), classes (n, parts)), in evaluation mode."""
        self.eval()
        features, classes = [], []
        for part in images.chunk(self.parts, dim=3):
            found = self.net[:-1](self._sized(part))
            features.append(found)
            classes.append(self.net[-1](found).argmax(1))
        return torch.cat(features, dim=1), torch.stack(classes, dim=1)

    def _sized(self, images: Tensor) -> Tensor:
        if images.shape[-1] == self.side:
            return images
        return functional.interpolate(images, (self.side, self.side), mode="area")
