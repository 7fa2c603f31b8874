"""Networks stacked of cells: the one in which edges mix their candidates, and finished ones.

Source: Liu et al. 2019, Sec. 2 and Appendix A.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from papers.betty.tasks.search_space import (
    OPERATIONS,
    Cells,
    Edge,
    FactorisedReduction,
    Wiring,
    relu_conv_norm,
)


class Logits(NamedTuple):
    """(n, classes) each; those of the auxiliary head while training, where there is one."""

    main: Tensor
    auxiliary: Tensor | None


class CellNetwork(nn.Module):
    """Stem, cells, mean over places, linear layer.

    The cells at one and two thirds of the depth are reduction cells: they halve the resolution and
    double the channels.

    Args:
        cells: the wirings; of finished cells, or with all candidates on every edge.
        depth: how many cells; from 3 on both kinds are there.
        channels: of a node in the first cell.
        image_channels: 1 for grey images.
        affine: whether batch normalisations in cells have parameters: not where edges mix, as they
            would rescale the mixture's weights.
        auxiliary: whether a second head reads the second reduction cell; its output must be 8x8.

    Attributes:
        drop_path: probability that an edge, but for identities, is left out of a sample.
    """

    def __init__(
        self,
        cells: Cells,
        depth: int,
        channels: int,
        image_channels: int,
        classes: int = 10,
        *,
        affine: bool,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.drop_path = 0.0
        before = last = 3 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(image_channels, last, 3, padding=1, bias=False), nn.BatchNorm2d(last)
        )
        self.cells = nn.ModuleList()
        self.auxiliary: AuxiliaryHead | None = None
        halved = False
        for place in range(depth):
            reduces = place in reductions(depth)
            channels *= 2 if reduces else 1
            wiring = cells.reduction if reduces else cells.normal
            self.cells.append(Cell(wiring, (before, last), channels, reduces, halved, affine))
            before, last, halved = last, channels * len(wiring), reduces
            if auxiliary and place == max(reductions(depth)):
                self.auxiliary = AuxiliaryHead(last, classes)
        self.head = nn.Linear(last, classes)

    def forward(self, images: Tensor, mixture: Tensor | None = None) -> Logits:
        """(n, image_channels, h, w), h and w multiples of 4 -> logits.

        ``mixture``: (2, edges, operations) weights of the candidates in normal and in reduction
        cells; None for finished cells.
        """
        # Channels-last is faster, but on a CPU its small strided 1x1 convolutions write past their
        # memory: docs/known_faults.md. A clone: contiguous() leaves the strides of grey images.
        layout = torch.channels_last if images.is_cuda else torch.contiguous_format
        before = last = self.stem(images.clone(memory_format=layout))
        auxiliary = None
        drop_path = self.drop_path if self.training else 0.0
        halving = reductions(len(self.cells))
        for place, cell in enumerate(self.cells):
            weights = None if mixture is None else mixture[int(place in halving)]
            before, last = last, cell(before, last, weights, drop_path)
            if self.training and self.auxiliary is not None and place == max(halving):
                auxiliary = self.auxiliary(last)
        return Logits(self.head(last.mean(dim=(2, 3))), auxiliary)


def reductions(depth: int) -> set[int]:
    """Places of the reduction cells among ``depth`` cells."""
    return {depth // 3, 2 * depth // 3}


class Cell(nn.Module):
    """Nodes that sum what their edges give; their concatenation is the output.

    Args:
        inputs: channels of the cell before the last, and of the last.
        channels: of a node.
        reduces: edges from the inputs have stride 2.
        halved: the last cell reduced, so that the one before it has twice the resolution.
    """

    def __init__(
        self,
        wiring: Wiring,
        inputs: tuple[int, int],
        channels: int,
        reduces: bool,
        halved: bool,
        affine: bool,
    ) -> None:
        super().__init__()
        adapted = FactorisedReduction if halved else relu_conv_norm
        self.before = adapted(inputs[0], channels, affine)
        self.last = relu_conv_norm(inputs[1], channels, affine)
        self.wiring = wiring
        self.edges = nn.ModuleList(
            MixedOperation(edge, channels, 2 if reduces and edge.source < 2 else 1, affine)
            for node in wiring
            for edge in node
        )

    def forward(
        self, before: Tensor, last: Tensor, mixture: Tensor | None, drop_path: float
    ) -> Tensor:
        """Outputs of the two cells before -> (n, nodes * channels, ...)."""
        states = [self.before(before), self.last(last)]
        edges = iter(enumerate(self.edges))
        for node in self.wiring:
            parts = []
            for source, _ in node:
                place, edge = next(edges)
                part = edge(states[source], None if mixture is None else mixture[place])
                parts.append(part if edge.is_identity else dropped(part, drop_path))
            states.append(reduce(torch.add, parts))
        return torch.cat(states[2:], dim=1)


class MixedOperation(nn.Module):
    """Sum of an edge's candidate operations by their weights; without weights, the only one."""

    def __init__(self, edge: Edge, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(
            OPERATIONS[name](channels, stride, affine) for name in edge.candidates
        )
        self.is_identity = isinstance(self.candidates[0], nn.Identity)

    def forward(self, x: Tensor, weights: Tensor | None) -> Tensor:
        """(n, c, h, w) and (candidates,) -> (n, c, h / stride, w / stride)."""
        if weights is None:
            (only,) = self.candidates
            out: Tensor = only(x)
            return out
        parts = [w * candidate(x) for w, candidate in zip(weights, self.candidates, strict=True)]
        mixed: Tensor = reduce(torch.add, parts)
        return mixed


def dropped(x: Tensor, probability: float) -> Tensor:
    """``x`` (n, ...) with each sample zero with ``probability``; the others are scaled up, so that
    the expectation stays. Source: Larsson et al. 2017."""
    if not probability:
        return x
    kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - probability)
    return x * kept / (1 - probability)


class AuxiliaryHead(nn.Sequential):
    """(n, channels, 8, 8) -> (n, classes) logits. Source: Liu et al. 2019, Appendix A.2."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, classes),
        )
