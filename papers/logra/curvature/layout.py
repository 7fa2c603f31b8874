"""Which columns of a gradient matrix belong to which layer.

A sample's gradient is a row: the blocks of all watched layers side by side, each a matrix
(out, in) in row-major order. Every part of the package agrees on this one layout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.errors import InputError


class Block(NamedTuple):
    """The gradient of one layer: ``out`` x ``inner`` numbers."""

    name: str
    out: int
    inner: int

    @property
    def width(self) -> int:
        """Numbers in it."""
        return self.out * self.inner


class Layout:
    """Blocks of a gradient in their order.

    Args:
        blocks: one for each watched layer.

    Raises:
        InputError: two blocks of one name, or none at all.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.blocks = tuple(Block(*block) for block in blocks)
        names = [block.name for block in self.blocks]
        if not names:
            raise InputError("no layer is watched; allowed: at least one")
        if len(set(names)) < len(names):
            raise InputError(f"layers {names}: names must differ")
        self.slices: dict[str, slice] = {}
        start = 0
        for block in self.blocks:
            self.slices[block.name] = slice(start, start + block.width)
            start += block.width
        self.width = start

    @classmethod
    def of(cls, gradients: Mapping[str, Tensor]) -> Layout:
        """The layout of (n, out, in) gradients by layer."""
        return cls(Block(name, *part.shape[1:]) for name, part in gradients.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.blocks == other.blocks

    def __hash__(self) -> int:
        return hash(self.blocks)

    def flatten(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """{layer: (n, out, in)} -> (n, width). Raises InputError on other layers or shapes."""
        if Layout.of(gradients) != self:
            raise InputError(f"gradients of {Layout.of(gradients)}; allowed: {self}, in this order")
        return torch.cat([part.flatten(1) for part in gradients.values()], dim=1)

    def unflatten(self, matrix: Tensor) -> dict[str, Tensor]:
        """(n, width) -> {layer: (n, out, in)}, views. Raises InputError on another width."""
        if matrix.shape[-1] != self.width:
            raise InputError(f"gradients {matrix.shape[-1]} wide; allowed: {self.width}")
        return {
            block.name: torch.unflatten(
                matrix[:, self.slices[block.name]], 1, (block.out, block.inner)
            )
            for block in self.blocks
        }

    def __str__(self) -> str:
        return ", ".join(f"{block.name} {block.out}x{block.inner}" for block in self.blocks)

    def to_json(self) -> list[list[Any]]:
        """Plain values, for :meth:`from_json`."""
        return [list(block) for block in self.blocks]

    @classmethod
    def from_json(cls, value: Iterable[Iterable[Any]]) -> Layout:
        """Inverse of :meth:`to_json`."""
        return cls(Block(str(name), int(out), int(inner)) for name, out, inner in value)

    @property
    def digest(self) -> str:
        """SHA-256 that two equal layouts share."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()
