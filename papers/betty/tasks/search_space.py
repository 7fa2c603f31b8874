"""The search space of DARTS: candidate operations, and cells as choices among them.

A cell reads the outputs of the two cells before it, its states 0 and 1; each of its nodes, states
2, 3, ..., is a sum over edges from earlier states. Source: Liu et al. 2019, Sec. 2.1 and 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Edge(NamedTuple):
    """What a node reads: a state, through candidate operations; one in a finished cell."""

    source: int
    candidates: tuple[str, ...]


#: Edges of each node.
Wiring = tuple[tuple[Edge, ...], ...]


class Cells(NamedTuple):
    """Wirings of the two kinds of cells; reduction cells halve the resolution."""

    normal: Wiring
    reduction: Wiring


def all_candidates(nodes: int) -> Cells:
    """Cells in which each node reads every earlier state through every operation."""
    wiring = tuple(
        tuple(Edge(source, tuple(OPERATIONS)) for source in range(2 + node))
        for node in range(nodes)
    )
    return Cells(wiring, wiring)


def edge_count(nodes: int) -> int:
    """Edges of a cell of :func:`all_candidates`."""
    return nodes * (nodes + 3) // 2


def derived(mixture: Tensor) -> Cells:
    """Each node keeps its two strongest edges, each edge its strongest operation.

    The strength of an edge is its largest weight. ``none`` is left out: every edge would lose by
    the same right. Source: Liu et al. 2019, Sec. 2.4.

    Args:
        mixture: (2, edges, operations) weights of normal and reduction cells, edges in the order
            of :func:`all_candidates`.
    """
    return Cells(*(_strongest(weights) for weights in mixture[:, :, 1:]))


def _strongest(weights: Tensor) -> Wiring:
    strengths, choices = weights.max(dim=1)
    nodes: list[tuple[Edge, ...]] = []
    for first, sources in _edges_by_node(len(weights)):
        two = strengths[first : first + sources].topk(2).indices.sort().values
        nodes.append(
            tuple(Edge(source, (CONNECTIONS[choices[first + source]],)) for source in two.tolist())
        )
    return tuple(nodes)


def _edges_by_node(edges: int) -> Iterator[tuple[int, int]]:
    """(place of a node's first edge, how many it has)."""
    first, sources = 0, 2
    while first < edges:
        yield first, sources
        first, sources = first + sources, sources + 1


def drawn(nodes: int, rng: np.random.Generator) -> Cells:
    """Random finished cells: two different inputs of each node, any operation but ``none``."""
    return Cells(*(_drawn(nodes, rng) for _ in Cells._fields))


def _drawn(nodes: int, rng: np.random.Generator) -> Wiring:
    return tuple(
        tuple(
            Edge(source, (str(rng.choice(CONNECTIONS)),))
            for source in sorted(rng.choice(2 + node, 2, replace=False).tolist())
        )
        for node in range(nodes)
    )


class Zero(nn.Module):
    """No connection."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> zeros (n, c, h / stride, w / stride)."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorisedReduction(nn.Module):
    """Halves the resolution: two strided 1x1 convolutions, one of them shifted by a pixel."""

    def __init__(self, before: int, after: int, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(before, after // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(before, after - after // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(after, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / 2, w / 2); h and w must be even."""
        x = x.relu()
        out: Tensor = self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))
        return out


def relu_conv_norm(before: int, after: int, affine: bool) -> nn.Sequential:
    """A 1x1 convolution between ReLU and batch normalisation."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(before, after, 1, bias=False),
        nn.BatchNorm2d(after, affine=affine),
    )


def depthwise_separable(
    channels: int, size: int, stride: int, dilation: int, affine: bool
) -> nn.Sequential:
    """ReLU, a convolution of each channel, one across channels, batch normalisation."""
    padding = dilation * (size - 1) // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, size, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def separable(channels: int, size: int, stride: int, affine: bool) -> nn.Sequential:
    """A depthwise separable convolution applied twice; the first one is strided."""
    return nn.Sequential(
        *depthwise_separable(channels, size, stride, 1, affine),
        *depthwise_separable(channels, size, 1, 1, affine),
    )


def pooled(pool: nn.Module, channels: int, affine: bool) -> nn.Module:
    """A pool; in a mixture its scale must be that of the convolutions, so there it is normalised.

    Where the normalisations have no parameters of their own the network is one of mixtures.
    """
    return pool if affine else nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


def skip(channels: int, stride: int, affine: bool) -> nn.Module:
    """The identity, or its nearest kin at half the resolution."""
    return nn.Identity() if stride == 1 else FactorisedReduction(channels, channels, affine)


#: Candidate operations by (channels, stride, whether batch normalisation is affine).
OPERATIONS: Final[dict[str, Callable[[int, int, bool], nn.Module]]] = {
    "none": lambda _c, stride, _affine: Zero(stride),
    "max_pool_3x3": lambda c, stride, affine: pooled(nn.MaxPool2d(3, stride, 1), c, affine),
    "avg_pool_3x3": lambda c, stride, affine: pooled(
        nn.AvgPool2d(3, stride, 1, count_include_pad=False), c, affine
    ),
    "skip_connect": skip,
    "sep_conv_3x3": lambda c, stride, affine: separable(c, 3, stride, affine),
    "sep_conv_5x5": lambda c, stride, affine: separable(c, 5, stride, affine),
    "dil_conv_3x3": lambda c, stride, affine: depthwise_separable(c, 3, stride, 2, affine),
    "dil_conv_5x5": lambda c, stride, affine: depthwise_separable(c, 5, stride, 2, affine),
}
#: What an edge of a finished cell can be: all but the first.
CONNECTIONS: Final = tuple(OPERATIONS)[1:]
