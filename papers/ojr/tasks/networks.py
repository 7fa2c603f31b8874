"""Deep networks as a chain of named blocks and a head, so that each block has a Jacobian."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import Field
from torch import Tensor, nn

from common.errors import InputError
from common.experiments.settings import Settings
from papers.ojr.isometric import MaxMin
from papers.ojr.tasks.residual import basic_blocks, wide_blocks

Activation = Literal["tanh", "relu", "maxmin"]
ACTIVATIONS: Final[dict[Activation, type[nn.Module]]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "maxmin": MaxMin,
}


class Perceptron(Settings):
    """Linear layers with an activation each: no normalisation, no skips."""

    kind: Literal["perceptron"]
    activation: Activation
    depth: int = Field(gt=0)
    width: int = Field(64, gt=0)
    layers_per_block: int = Field(1, gt=0, description="of what a penalty of each block sees")


class Convolutional(Settings):
    """3x3 convolutions of one width with an activation each: no normalisation, no skips.

    Padding is circular, so that an orthogonal convolution is an isometry at the borders too.
    """

    kind: Literal["convolutional"]
    activation: Activation
    depth: int = Field(gt=0)
    channels: int = Field(16, gt=0)
    patch: int = Field(1, gt=0, description="side of the squares of pixels that become channels")
    pool: int = Field(1, gt=0, description="side of the squares of the last map that are averaged")


class Residual(Settings):
    """CIFAR ResNet of three stages of basic blocks; its depth is 6 times ``blocks`` plus 2."""

    kind: Literal["residual"]
    blocks: int = Field(gt=0, description="of a stage")
    channels: int = Field(16, gt=0, description="of the first stage")
    batch_norm: bool = True


class WideResidual(Settings):
    """WRN-``depth``-``factor``, with dropout between the convolutions of a block."""

    kind: Literal["wide_residual"]
    depth: int = Field(28, ge=10)
    factor: int = Field(10, gt=0)
    dropout: float = Field(0.3, ge=0, lt=1)


NetworkSettings = Annotated[
    Perceptron | Convolutional | Residual | WideResidual, Field(discriminator="kind")
]


class BlockNetwork(nn.Module):
    """Blocks one after another, and a head that makes logits of what the last one gives."""

    def __init__(self, layers: nn.Sequential, head: nn.Module) -> None:
        super().__init__()
        self.layers, self.head = layers, head

    @property
    def weighted(self) -> list[nn.Linear | nn.Conv2d]:
        """The linear maps and convolutions of the blocks, without the head."""
        kinds = (nn.Linear, nn.Conv2d)
        return [module for module in self.layers.modules() if isinstance(module, kinds)]

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks as modules of the network."""
        return [f"layers.{place}" for place in range(len(self.layers))]

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, classes) logits."""
        logits: Tensor = self.head(self.layers(x))
        return logits


def build_network(
    settings: NetworkSettings, shape: tuple[int, int, int], classes: int
) -> BlockNetwork:
    """The network for images of a shape (channels, height, width).

    Raises:
        InputError: the images or the last map cannot be cut into the squares that are asked for,
            MaxMin has an odd number of units, or a wide network has no such depth.
    """
    if isinstance(settings, Perceptron):
        return _perceptron(settings, shape, classes)
    if isinstance(settings, Convolutional):
        return _convolutional(settings, shape, classes)
    if isinstance(settings, Residual):
        layers = basic_blocks(shape[0], settings.channels, settings.blocks, settings.batch_norm)
        width = 4 * settings.channels
        return BlockNetwork(layers, _mean_and_linear(width, classes))
    layers = wide_blocks(shape[0], settings.depth, settings.factor, settings.dropout)
    width = 64 * settings.factor
    head = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), *_mean_and_linear(width, classes))
    return BlockNetwork(layers, head)


def _perceptron(settings: Perceptron, shape: tuple[int, int, int], classes: int) -> BlockNetwork:
    sizes = [shape[0] * shape[1] * shape[2], *[settings.width] * settings.depth]
    layers = [
        nn.Sequential(nn.Linear(before, after), _activation(settings.activation, "width", after))
        for before, after in pairwise(sizes)
    ]
    layers[0].insert(0, nn.Flatten())
    if (of_block := settings.layers_per_block) > 1:
        starts = range(0, len(layers), of_block)
        layers = [nn.Sequential(*layers[start : start + of_block]) for start in starts]
    return BlockNetwork(nn.Sequential(*layers), nn.Linear(settings.width, classes))


def _convolutional(
    settings: Convolutional, shape: tuple[int, int, int], classes: int
) -> BlockNetwork:
    squares = settings.patch * settings.pool
    if any(side % squares for side in shape[1:]):
        raise InputError(
            f"network.patch {settings.patch}, network.pool {settings.pool}: allowed: numbers whose"
            f" product divides the images' sides {shape[1:]}"
        )
    channels = [shape[0] * settings.patch**2, *[settings.channels] * settings.depth]
    layers = [
        nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, padding_mode="circular"),
            _activation(settings.activation, "channels", after),
        )
        for before, after in pairwise(channels)
    ]
    if settings.patch > 1:
        layers[0].insert(0, nn.PixelUnshuffle(settings.patch))
    places = shape[1] * shape[2] // squares**2
    head = nn.Sequential(
        nn.AvgPool2d(settings.pool),
        nn.Flatten(),
        nn.Linear(settings.channels * places, classes),
    )
    return BlockNetwork(nn.Sequential(*layers), head)


def _activation(kind: Activation, option: str, units: int) -> nn.Module:
    if kind == "maxmin" and units % 2:
        raise InputError(f"network.{option} {units}; allowed with maxmin: even numbers")
    return ACTIVATIONS[kind]()


def _mean_and_linear(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
