"""Blocks of residual networks for CIFAR: He et al.'s with and without normalisation, and wide ones.

Torchvision's are for ImageNet: another stem, other stages. Sources: He et al. 2016, section 4.2
(shortcuts without parameters); Zagoruyko & Komodakis 2016.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError


class BasicBlock(nn.Module):
    """``relu(F(x) + x)`` with two 3x3 convolutions in F.

    Where channels grow, the sides are halved and the shortcut pads with zero channels. Without
    normalisation its Jacobian is that of one example, the identity plus that of F where units are
    on.
    """

    def __init__(self, before: int, after: int, batch_norm: bool, stride: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, after - before
        bias = not batch_norm
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, 1, bias=bias)
        self.norm1 = nn.BatchNorm2d(after) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(after) if batch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(out + functional.pad(x, (0, 0, 0, 0, 0, self.padding)))


class WideBlock(nn.Module):
    """Normalisation and activation before each of two 3x3 convolutions, dropout between them."""

    def __init__(self, before: int, after: int, dropout: float, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        active = functional.relu(self.norm1(x))
        out = self.conv1(active)
        out = self.conv2(self.dropout(functional.relu(self.norm2(out))))
        kept: Tensor = x if self.shortcut is None else self.shortcut(active)
        added: Tensor = out + kept
        return added


def basic_blocks(colours: int, channels: int, blocks: int, batch_norm: bool) -> nn.Sequential:
    """A 3x3 stem and three stages of ``blocks`` blocks, each stage twice as wide."""
    stem: list[nn.Module] = [nn.Conv2d(colours, channels, 3, padding=1, bias=not batch_norm)]
    if batch_norm:
        stem.append(nn.BatchNorm2d(channels))
    widths = [channels, *(channels * 2**stage for stage in range(3) for _ in range(blocks))]
    made = [
        BasicBlock(before, after, batch_norm, 1 if before == after else 2)
        for before, after in pairwise(widths)
    ]
    layers = nn.Sequential(nn.Sequential(*stem, nn.ReLU()), *made)
    if batch_norm:  # without, torch's smaller weights keep the sums of branches in bounds
        _initialise(layers)
    return layers


def wide_blocks(colours: int, depth: int, factor: int, dropout: float) -> nn.Sequential:
    """A 3x3 stem of 16 channels and three stages of (depth - 4) / 6 blocks.

    Raises:
        InputError: the depth is not 4 plus a multiple of 6.
    """
    if (depth - 4) % 6:
        raise InputError(f"network.depth {depth}; allowed: 4 plus a multiple of 6")
    blocks = (depth - 4) // 6
    widths = [16 * factor * 2**stage for stage in range(3) for _ in range(blocks)]
    strides = [2 if stage and not place else 1 for stage in range(3) for place in range(blocks)]
    made = [
        WideBlock(before, after, dropout, stride)
        for (before, after), stride in zip(pairwise([16, *widths]), strides, strict=True)
    ]
    layers = nn.Sequential(nn.Conv2d(colours, 16, 3, padding=1, bias=False), *made)
    _initialise(layers)
    return layers


@torch.no_grad()
def _initialise(layers: nn.Module) -> None:
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
