"""A network for longer songs: matrices of 180 s made coarser before the published layers.

A stripe is a diagonal, so means along short diagonals keep it where means of blocks alone would
blur it; blocks then make the matrix small enough for a CPU. The layers after that are those of the
network for 64 s, which may be where training begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from common.errors import InputError
from papers.cover_song.network.architectures import published_network
from papers.cover_song.network.scoring import (
    built_network,
    read_network,
    save_network,
    with_weights,
)

#: What a file's metadata calls this form.
COARSE: Final = "coarse"
#: What its metadata must tell beside that.
_TOLD: Final = ("frames", "factor", "diagonal", "keys", "filters")


class CoarseMatrices(nn.Module):
    """Means along diagonals, then of blocks, standardised again: (n, 1, T, T) to (n, 1, S, S).

    S is ``ceil((T - diagonal + 1) / factor)``; a block at the end may be a part of one.

    Args:
        factor: seconds of a block.
        diagonal: cells of a diagonal whose mean replaces its first.
    """

    def __init__(self, factor: int, diagonal: int) -> None:
        super().__init__()
        if factor < 1 or diagonal < 1:
            raise InputError(f"factor {factor}, diagonal {diagonal}: allowed: from 1 on")
        self.factor, self.diagonal = factor, diagonal

    def side(self, frames: int) -> int:
        """S for matrices of ``frames`` a side."""
        return -(-(frames - self.diagonal + 1) // self.factor)

    def forward(self, matrices: torch.Tensor) -> torch.Tensor:
        """See the class."""
        count = matrices.shape[-1] - self.diagonal + 1
        total = matrices[..., :count, :count]
        for step in range(1, self.diagonal):
            total = total + matrices[..., step : step + count, step : step + count]
        # A last block that is a part of one has the mean of what is there.
        blocks = avg_pool2d(total, self.factor, ceil_mode=True)
        deviations = blocks - blocks.mean((-2, -1), keepdim=True)
        spread = deviations.square().mean((-2, -1), keepdim=True).sqrt()
        return deviations / torch.where(spread > 0, spread, 1)


def coarse_network(frames: int, factor: int, diagonal: int, filters: int = 8) -> nn.Sequential:
    """:class:`CoarseMatrices`, then the published network for what these leave.

    Args:
        frames: T, seconds of a song.

    Raises: InputError if fewer than 32 cells a side are left.
    """
    coarser = CoarseMatrices(factor, diagonal)
    return nn.Sequential(coarser, published_network(coarser.side(frames), filters))


def begin_as(network: nn.Sequential, other: nn.Module) -> None:
    """Give the layers of a coarse network the weights of a published one for shorter songs.

    Raises: InputError if these do not fit: both must leave as many cells after five poolings.
    """
    try:
        network[1].load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise InputError(f"the weights to begin with do not fit: {error}") from None


class PairNetwork(NamedTuple):
    """A network with what its pairs must be.

    Attributes:
        network: of either form, ready to score.
        frames: seconds of a song that it takes.
        keys: best transpositions among which Qmax chooses; 1: the optimal transposition.
    """

    network: nn.Module
    frames: int
    keys: int


def save_coarse_network(
    network: nn.Sequential, path: Path, *, frames: int, filters: int, keys: int
) -> None:
    """Weights as safetensors, with what is needed to build the network again and to use it."""
    coarser: Any = network[0]
    told = {"factor": coarser.factor, "diagonal": coarser.diagonal}
    save_network(
        network, path, architecture=COARSE, frames=frames, filters=filters, keys=keys, **told
    )


def load_pair_network(path: Path) -> PairNetwork:
    """A network of either form, as :func:`save_coarse_network` or ``save_network`` wrote it.

    Raises: InputError if the file is none of these.
    """
    stored = read_network(path)
    told = stored.told
    if told.get("architecture") != COARSE:
        network, frames = built_network(stored, path)
        return PairNetwork(network, frames, 1)
    numbers = {name: told[name] for name in _TOLD if isinstance(told.get(name), int)}
    if len(numbers) < len(_TOLD):
        raise InputError(f"{path}: its metadata is {told}; needed: {', '.join(_TOLD)}")
    frames, keys = numbers.pop("frames"), numbers.pop("keys")
    coarse = coarse_network(frames, **numbers)
    return PairNetwork(with_weights(coarse, stored, path), frames, keys)
