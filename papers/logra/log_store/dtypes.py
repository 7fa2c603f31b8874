"""How a number of a gradient is kept on disk, and how far it may be off.

=========  ================  =================================================================
dtype      bytes             error of a value x
=========  ================  =================================================================
float64    8                 none
float32    4                 none; at most 2^-24 of |x| where gradients are float64
bfloat16   2                 at most 2^-8 of |x|
float16    2                 at most 2^-11 of |x| + 2^-25; larger than 65504 is refused
int8       1, 4 for a scale  at most 1/254 of the largest |x| in the row's block
=========  ================  =================================================================

Numbers under 2^-126, about 1e-38, are kept less exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from common.errors import InputError
from papers.logra.curvature.layout import Layout

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}


class Encoding:
    """Rows of ``layout`` kept as ``dtype``."""

    def __init__(self, dtype: str, layout: Layout) -> None:
        self.dtype, self.layout = DTYPES[dtype], layout
        self.scaled = self.dtype == torch.int8
        self.largest = torch.finfo(torch.float32 if self.scaled else self.dtype).max

    def shapes(self, rows: int) -> dict[str, tuple[tuple[int, int], torch.dtype]]:
        """Shape and type of each tensor that ``rows`` rows take."""
        found = {"gradients": ((rows, self.layout.width), self.dtype)}
        if self.scaled:
            found["scales"] = ((rows, len(self.layout.blocks)), torch.float32)
        return found

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(shape[1] * dtype.itemsize for shape, dtype in self.shapes(1).values())

    def empty(self, rows: int) -> dict[str, Tensor]:
        """Room for ``rows`` rows."""
        return {
            name: torch.empty(shape, dtype=dtype)
            for name, (shape, dtype) in self.shapes(rows).items()
        }

    def check(self, gradients: Tensor) -> None:
        """Raise InputError where (n, width) gradients are not what can be kept."""
        shape, width = tuple(gradients.shape), self.layout.width
        if len(shape) != 2 or shape[1] != width or not gradients.is_floating_point():
            raise InputError(
                f"gradients {shape} of {gradients.dtype}; allowed: floating point (n, {width})"
            )
        if not len(gradients):
            return
        # A float16 store would turn a large gradient into an infinite one, and its scores too.
        extreme = torch.stack(torch.aminmax(gradients)).abs().max().item()
        if not extreme <= self.largest:
            raise InputError(
                f"a gradient of magnitude {extreme:g}; allowed in a store of {self.dtype}:"
                f" up to {self.largest:g}"
            )

    def put(self, room: Mapping[str, Tensor], start: int, gradients: Tensor) -> None:
        """Copy (n, width) gradients into the rows of ``room`` from ``start`` on."""
        rows = slice(start, start + len(gradients))
        if not self.scaled:
            room["gradients"][rows].copy_(gradients)
            return
        for place, block in enumerate(self.layout.blocks):
            part = gradients[:, self.layout.slices[block.name]].float()
            largest = part.abs().amax(1, keepdim=True)
            # A block of zeros has a scale too, so that nothing is divided by zero.
            scale = (largest / 127).clamp_(min=torch.finfo(torch.float32).tiny)
            codes = (part / scale).round_()
            room["gradients"][rows, self.layout.slices[block.name]].copy_(codes)
            room["scales"][rows, place].copy_(scale[:, 0])

    def get(self, stored: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Stored rows -> (n, width) gradients of ``dtype``; of the stored one it is no copy."""
        if not self.scaled:
            return stored["gradients"].to(dtype)
        found = stored["gradients"].to(torch.float32)
        for place, part in enumerate(self.layout.slices.values()):
            found[:, part] *= stored["scales"][:, place, None]
        return found.to(dtype)
