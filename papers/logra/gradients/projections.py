"""The matrices P_i and P_o that gradients of a layer are projected with: ``P_o G P_i^T``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.logra.curvature.layout import Block, Layout
from papers.logra.curvature.moments import Statistics
from papers.logra.curvature.tensor_files import digest_tensors, read_tensors, write_tensors
from papers.logra.gradients.layers import find_rule

FILE = "LoGra projections"


class Projection(NamedTuple):
    """One layer's matrices: ``inner`` is P_i (k_i, inner), ``out`` is P_o (k_o, out)."""

    inner: Tensor
    out: Tensor


class Projections(Mapping[str, Projection]):
    """Projections by layer; never changed once made.

    Args:
        matrices: P_i and P_o of each layer.
        shared: of layers whose projected gradients add up, the name of their common block.

    Raises:
        InputError: layers of one block are projected to different shapes.
    """

    def __init__(
        self,
        matrices: Mapping[str, tuple[Tensor, Tensor]],
        shared: Mapping[str, str] | None = None,
    ) -> None:
        self._matrices = {name: Projection(*pair) for name, pair in matrices.items()}
        self.shared = dict(shared or {})
        if self.shared:
            _ = self.layout  # which refuses layers that cannot share

    def __getitem__(self, name: str) -> Projection:
        return self._matrices[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._matrices)

    def __len__(self) -> int:
        return len(self._matrices)

    @property
    def layout(self) -> Layout:
        """The layout of projected gradients."""
        blocks = (Block(name, len(p.out), len(p.inner)) for name, p in self.items())
        return joined(blocks, self.shared)

    @property
    def digest(self) -> str:
        """SHA-256 that two equal sets of projections share."""
        return digest_tensors(self._tensors(), self._content())

    def save(self, path: Path) -> None:
        """Write all matrices."""
        write_tensors(path, FILE, self._tensors(), self._content())

    @classmethod
    def load(cls, path: Path) -> Projections:
        """What :meth:`save` wrote. Raises InputError if it is another file or altered."""
        tensors, content = read_tensors(path, FILE)
        names = content["layers"]
        matrices = {name: (tensors[f"inner/{name}"], tensors[f"out/{name}"]) for name in names}
        return cls(matrices, content["shared"])

    def _content(self) -> dict[str, Any]:
        return {"layers": list(self), "shared": self.shared}

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{side}/{name}": matrix
            for name, projection in self.items()
            for side, matrix in projection._asdict().items()
        }


def joined(blocks: Iterable[Block], shared: Mapping[str, str]) -> Layout:
    """The layout where blocks of some layers are one, in place of the first.

    The trained matrix of LogIX's bottleneck is then one for these layers, each between projections
    of its own, and its gradient is the sum over them.

    Args:
        blocks: of each layer.
        shared: ``{layer: name of the common block}``.

    Raises:
        InputError: layers of one block differ in shape, or some of them are missing.
    """
    found: dict[str, Block] = {}
    layers: set[str] = set()
    for block in blocks:
        name = shared.get(block.name, block.name)
        kept = found.setdefault(name, Block(name, block.out, block.inner))
        if kept[1:] != block[1:]:
            raise InputError(
                f"layer {block.name}, {block.out}x{block.inner}, shares block {name},"
                f" {kept.out}x{kept.inner}; allowed: one shape (a smaller rank, or other groups)"
            )
        layers.add(block.name)
    for layer, name in shared.items():
        if name in found and layer not in layers:
            raise InputError(f"block {name} without its layer {layer}; allowed: all or none of it")
    return Layout(found.values())


def random_projections(
    layers: Mapping[str, nn.Module],
    rank: int,
    seed: int,
    *,
    bias: bool = False,
    orthonormal: bool = False,
) -> Projections:
    """Random matrices of at most ``rank`` rows, the same for a seed in every process.

    As published (Choe et al. 2024, kaiming-uniform layers): entries of P_i uniform in
    +- 1/sqrt(inner), those of P_o in +- 1/sqrt(k_o).

    Args:
        layers: to project the gradients of.
        rank: of both sides, where the layer is that wide.
        seed: each layer draws its own numbers, from this and its name.
        bias: whether biases count, as in the capture.
        orthonormal: rows of length 1 at right angles instead, uniformly distributed.

    Raises:
        InputError: ``rank`` below 1, or a layer has no gradient rule.
    """
    _check_rank(rank)
    draw = _orthonormal if orthonormal else _uniform
    matrices = {}
    for name, module in layers.items():
        rule = find_rule(module, bias)
        inner, out = min(rank, rule.inner), min(rank, rule.out)
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        matrices[name] = (
            draw(inner, rule.inner, rule.inner, generator),
            draw(out, rule.out, out, generator),
        )
    return Projections(matrices)


def pca_projections(statistics: Statistics, rank: int) -> Projections:
    """The eigenvectors of the forward and backward second moments with the largest eigenvalues.

    Args:
        statistics: with both covariances of whole rows, of all layers to project.
        rank: of both sides, where the layer is that wide.

    Raises:
        InputError: ``rank`` below 1, or a covariance is missing.
    """
    _check_rank(rank)
    forward, backward = statistics.covariance("forward"), statistics.covariance("backward")
    if forward.keys() != backward.keys():
        odd = sorted(forward.keys() ^ backward.keys())
        raise InputError(f"layers {odd} have one covariance of two; allowed: both for every layer")
    return Projections(
        {
            name: (_principal(forward[name], rank), _principal(backward[name], rank))
            for name in forward
        }
    )


def _check_rank(rank: int) -> None:
    if rank < 1:
        raise InputError(f"rank {rank}; allowed: at least 1")


def _uniform(rows: int, columns: int, fan_in: int, generator: torch.Generator) -> Tensor:
    return torch.rand(rows, columns, generator=generator).mul(2).sub(1).div(fan_in**0.5)


def _orthonormal(rows: int, columns: int, fan_in: int, generator: torch.Generator) -> Tensor:
    normal = torch.randn(columns, rows, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    # Without these signs the distribution would not be uniform.
    return torch.mul(q, r.diagonal().sign()).T.float()


def _principal(covariance: Tensor, rank: int) -> Tensor:
    """(width, width) -> (min(rank, width), width), the largest first, in float32."""
    vectors: Tensor = torch.linalg.eigh(covariance.double()).eigenvectors
    return vectors.flip(1)[:, :rank].T.float().contiguous()
