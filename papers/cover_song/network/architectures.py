"""The networks: as published, as the authors' script has it, and their ResNeXt.

All take matrices (n, 1, T, T) and give logits (n, 2), of which the second is "cover".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import torch
from torch import nn

from common.errors import InputError

Architecture = Literal["published", "script", "resnext"]
ARCHITECTURES: Final = get_args(Architecture)
#: Of Keras, with which the authors worked; torch's own is 1e-5. Scores depend on it.
BATCH_NORM_EPS: Final = 1e-3
_BLOCKS: Final = 5


def published_network(frames: int, filters: int = 32) -> nn.Sequential:
    """The table of Chang et al. 2017: 171,490 trainable parameters at 180 frames.

    Args:
        frames: T, at least 32 (five poolings).
        filters: of both convolutions of the first block; 32 as published.
    """
    _check_frames(frames, 2**_BLOCKS)
    layers = [*_pair(1, filters, filters, 5, 5, "same")]
    for _ in range(_BLOCKS - 1):
        inputs = filters if len(layers) == 6 else 16
        layers += _pair(inputs, 32, 16, 3, 3, "same")
    side = frames // 2**_BLOCKS
    network = nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16 * side * side, 256),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(256, 2),
    )
    # A third less time on a CPU with few filters. No convolution here is 1 x 1 with a stride, the
    # one kind that this layout breaks there (docs/known_faults.md).
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def script_network(frames: int) -> nn.Sequential:
    """What the authors' first script builds: 57,314 trainable parameters at 180 frames.

    Against the table: no padding, a second kernel of 3 x 3, dropout 0.25 before the hidden layer
    and 0.5 after it, and a normalisation between.
    """
    side = (frames - 6) // 2
    for _ in range(_BLOCKS - 1):
        side = (side - 4) // 2
    if side < 1:
        raise InputError(f"frames {frames}: too few for five blocks without padding; try 180")
    layers = [*_pair(1, 32, 32, 5, 3, "valid")]
    for _ in range(_BLOCKS - 1):
        layers += _pair(32 if len(layers) == 6 else 16, 32, 16, 3, 3, "valid")
    return nn.Sequential(
        *layers,
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(16 * side * side, 256),
        nn.ReLU(),
        nn.BatchNorm1d(256, eps=BATCH_NORM_EPS),
        nn.Dropout(0.5),
        nn.Linear(256, 2),
    )


def resnext_network() -> nn.Module:
    """ResNeXt-50 of cardinality 32 with LeakyReLU: 23,011,842 trainable parameters.

    torchvision's, for one channel; as in Keras its convolutions have biases, its leaky ReLU has a
    slope of 0.3 and its normalisation Keras' eps.
    """
    from torchvision.models import resnext50_32x4d

    network: nn.Module = resnext50_32x4d(num_classes=2)
    _replace(network, nn.ReLU, lambda _: nn.LeakyReLU(0.3, inplace=True))
    _replace(network, nn.Conv2d, _with_bias)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = BATCH_NORM_EPS
    first: Any = network.conv1
    network.conv1 = nn.Conv2d(1, first.out_channels, 7, stride=2, padding=3)
    return network


def build_network(architecture: Architecture, frames: int, filters: int = 32) -> nn.Module:
    """One of the networks, for matrices of ``frames`` x ``frames``.

    Raises: InputError for an unknown name, or fewer filters where the form has none to choose.
    """
    if architecture == "published":
        return published_network(frames, filters)
    if filters != 32:
        raise InputError(f"filters {filters}: architecture {architecture!r} has 32; allowed: 32")
    if architecture == "script":
        return script_network(frames)
    if architecture == "resnext":
        return resnext_network()
    raise InputError(f"architecture {architecture!r}: allowed: {', '.join(ARCHITECTURES)}")


def trainable_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(each.numel() for each in network.parameters() if each.requires_grad)


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Of "cover": (n, 2) to (n,), float64, so that no two of them are 1."""
    wide = logits.double()
    return wide[:, 1] - wide[:, 0]


def _check_frames(frames: int, least: int) -> None:
    if frames < least:
        raise InputError(f"frames {frames}: allowed: from {least} on, for five poolings")


def _pair(
    inputs: int, middle: int, outputs: int, first: int, second: int, padding: str
) -> list[nn.Module]:
    """Two convolutions with ReLU, pooling, normalisation: six layers."""
    return [
        nn.Conv2d(inputs, middle, first, padding=padding),
        nn.ReLU(),
        nn.Conv2d(middle, outputs, second, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS),
    ]


def _replace(module: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, kind):
            setattr(module, name, make(child))
        else:
            _replace(child, kind, make)


def _with_bias(layer: nn.Conv2d) -> nn.Conv2d:
    return nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        stride=layer.stride,  # type: ignore[arg-type]
        padding=layer.padding,  # type: ignore[arg-type]
        groups=layer.groups,
    )
