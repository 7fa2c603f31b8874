"""What is isometric by construction: an activation, initialisations, a hard constraint."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from common.errors import InputError
from papers.ojr.checks import check_gain


class MaxMin(nn.Module):
    """Pairs of units, each sorted: (n, 2k, ...) -> (n, 2k, ...), a permutation, so an isometry.

    Source: Anil, Lucas & Grosse 2019 (GroupSort with groups of two).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Raises InputError where units cannot be paired."""
        if x.ndim < 2 or x.shape[1] % 2:
            raise InputError(f"units {tuple(x.shape)}; allowed: an even number in dimension 1")
        pairs = x.reshape(len(x), -1, 2, *x.shape[2:])
        return torch.stack([pairs.amax(2), pairs.amin(2)], 2).flatten(1, 2)


def delta_orthogonal_(weight: Tensor, gain: float = 1.0) -> Tensor:
    """Fill (out, in, k, k) so that a convolution is ``gain`` times an isometry at its start.

    Source: Xiao et al. 2018, algorithm 2.

    Raises:
        InputError: fewer outputs than inputs, an even kernel, which has no centre, or a gain that
            is not positive.
    """
    check_gain(gain)
    out, into, *kernel = weight.shape
    if len(kernel) != 2 or out < into or any(side % 2 == 0 for side in kernel):
        raise InputError(f"weight {tuple(weight.shape)}; allowed: (out >= in, in, odd, odd)")
    with torch.no_grad():
        weight.zero_()
        centre = torch.empty(out, into, dtype=weight.dtype)
        nn.init.orthogonal_(centre, gain)
        weight[:, :, kernel[0] // 2, kernel[1] // 2] = centre.to(weight.device)
    return weight


class Scaled(nn.Module):
    """A weight times a number, as a parametrisation."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, scaled."""
        return self.scale * weight


def constrain_orthogonal(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> None:
    """Hold a layer at ``sqrt(gain)`` times an isometry throughout training.

    ``W Wᵀ = gain I`` (the smaller side) of a linear layer, by torch's parametrisation. Of a
    convolution the whole map, by Boissin et al.'s (2025) kernels: exactly where padding is
    circular, at most that at borders with zeros. What the layer had learnt is lost then.

    Raises:
        InputError: a convolution with a stride, groups, or a kernel that is not a square, or a gain
            that is not positive.
        ModuleNotFoundError: orthogonium, which has these kernels, is not installed.
    """
    check_gain(gain)
    if isinstance(layer, nn.Conv2d):
        _constrain_convolution(layer)
    else:
        parametrizations.orthogonal(layer)
    parametrize.register_parametrization(layer, "weight", Scaled(gain**0.5))


def _constrain_convolution(layer: nn.Conv2d) -> None:
    out, into, *kernel = layer.weight.shape
    if layer.stride != (1, 1) or layer.groups > 1 or kernel[0] != kernel[1]:
        raise InputError(
            f"convolution {tuple(layer.weight.shape)} of stride {layer.stride}, {layer.groups}"
            " groups; allowed: a square kernel, stride 1, one group"
        )
    if find_spec("orthogonium") is None:
        raise ModuleNotFoundError(
            "orthogonal convolutions need the package orthogonium; allowed: pip install"
            " orthogonium (the extra 'peers')"
        )
    from orthogonium.layers.conv.AOC.fast_block_ortho_conv import attach_bcop_weight

    del layer.weight
    attach_bcop_weight(layer, "weight", (out, into, *kernel), 1)
