"""Sums of rows' products with themselves: symmetric matrices, of which one triangle is kept.

The triangle is cut into panels of rows, each from its diagonal block to the right end, which lie
one after the other in one tensor. That takes half the memory and half the multiplications of the
whole matrix, and leaves products as large as processors are good at. Fewer rows than half the
width take less memory than the triangle: until there are more, they are kept and not multiplied.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from papers.logra.curvature.memory_limits import require_memory

#: Rows of a panel.
PANEL = 512
#: Rows wait until there are this many, or a share of the width: a few at a time would have the
#: processor read and write the whole triangle for few multiplications.
LEAST_WAITING, WAITING_SHARE = 64, 8
#: The first rows wait until there are this share of the width: whoever needs the sum of so few can
#: do with less than the matrix, see :class:`RowMoment`.
HELD_SHARE = 2
#: Memory for rows that wait is taken at once up to so many bytes, beyond as rows come: of a wide
#: layer the share above may be a hundred times what there is.
AT_ONCE_BYTES = 64 << 20


class RowMoment(NamedTuple):
    """The second moment ``rows^T rows / number`` of fewer rows (n, width) than numbers."""

    rows: Tensor
    number: float


class PackedMoment(NamedTuple):
    """The second moment ``packed / number``, of a sum as :class:`ProductSum` keeps it."""

    packed: Tensor
    number: float

    def matrix(self) -> Tensor:
        """(width, width), a new one for each call."""
        # In place: another matrix of this size may be one too many for the memory.
        width = infer_width(self.packed)
        _require(width * width * self.packed.itemsize, self.packed, width, "whole")
        return unpacked(self.packed).div_(self.number)


def packed_size(width: int) -> int:
    """Numbers that are kept of a (width, width) matrix."""
    whole, rest = divmod(width, PANEL)
    return sum(PANEL * (width - panel * PANEL) for panel in range(whole)) + rest * rest


def infer_width(packed: Tensor) -> int:
    """Inverse of :func:`packed_size`, of a tensor that holds so many numbers."""
    return bisect_left(range(packed.numel() + 1), packed.numel(), key=packed_size)


def unpacked(packed: Tensor) -> Tensor:
    """The whole matrix (width, width)."""
    width = infer_width(packed)
    matrix = packed.new_empty(width, width)
    for start, panel in _panels(packed, width):
        matrix[start : start + len(panel), start:] = panel
        matrix[start:, start : start + len(panel)] = panel.mT
    return matrix


def _panels(packed: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
    """(first row, (rows, width - first row)) of each panel; they share memory with ``packed``."""
    place = 0
    for start in range(0, width, PANEL):
        rows = min(PANEL, width - start)
        numbers = rows * (width - start)
        yield start, packed[place : place + numbers].view(rows, width - start)
        place += numbers


class ProductSum:
    """A sum over rows r of ``r^T r``.

    Args:
        width: of rows.
        dtype: of the sum.
        device: of the sum; rows may be elsewhere, and are multiplied where they are.
    """

    def __init__(self, width: int, *, dtype: torch.dtype, device: torch.device | str) -> None:
        self.width = width
        # Empty until rows are multiplied for the first time.
        self._packed = torch.empty(0, dtype=dtype, device=device)
        self._waiting: Tensor | None = None
        self._count = 0
        #: Whether somebody else has the sum and relies on it.
        self._lent = False

    @classmethod
    def of(cls, packed: Tensor, waiting: Tensor | None = None) -> ProductSum:
        """Goes on from what :attr:`packed`, or both parts of :attr:`state`, gave."""
        width = infer_width(packed) if waiting is None else waiting.shape[1]
        found = cls(width, dtype=packed.dtype, device=packed.device)
        found._packed = packed
        if waiting is not None:
            found.add(waiting)
        return found

    @property
    def packed(self) -> Tensor:
        """The sum of all rows so far, (:func:`packed_size`,); to read it changes no later sum."""
        if self._packed.numel() and not self._count:
            return self._packed
        whole = self._packed.clone() if self._packed.numel() else self._zeros()
        self._multiply_waiting(whole)
        return whole

    def lend(self) -> Tensor:
        """As :attr:`packed`, and no later row changes it."""
        self._lent |= not self._count
        return self.packed

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """What was multiplied, as :attr:`packed`, and rows that wait to be, (n, width).

        The former is empty where nothing was.
        """
        waiting = self._packed.new_empty(0, self.width) if self._waiting is None else self._waiting
        return self._packed, waiting[: self._count]

    @property
    def rows(self) -> Tensor | None:
        """All rows (n, width) while these are few and none is multiplied; they will not change."""
        few = self._count <= self.width // HELD_SHARE
        return self.state[1] if few and not self._packed.numel() else None

    def to(self, device: torch.device | str) -> ProductSum:
        """Itself where it lies there, else a copy."""
        packed, waiting = self.state
        moved = packed.to(device)
        return self if moved is packed else ProductSum.of(moved, waiting)

    def add(self, rows: Tensor) -> None:
        """Add rows (n, width); they may change afterwards."""
        if self._waiting is not None and self._waiting.dtype != rows.dtype:
            self.multiply()
            self._waiting = None
        if self._count + len(rows) > self._room(rows):
            self.multiply()
        room = self._room(rows)
        if len(rows) > room:
            _multiply(self._own(), rows)
            return
        waiting = self._have_room(rows, room)
        waiting[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def multiply(self) -> None:
        """Multiply the rows that wait, if any."""
        if not self._count:
            return
        first = not self._packed.numel()
        self._multiply_waiting(self._own())
        if first:
            self._waiting = None  # there is less room from now on, and :attr:`rows` stay
        self._count = 0

    def _few(self) -> int:
        return max(LEAST_WAITING, self.width // WAITING_SHARE)

    def _room(self, rows: Tensor) -> int:
        """How many of such rows may wait."""
        # Those of another device would take the memory that the sum is kept off.
        if self._packed.numel() or rows.device != self._packed.device:
            return self._few()
        return max(self._few(), self.width // HELD_SHARE)

    def _have_room(self, rows: Tensor, most: int) -> Tensor:
        """Memory where those that wait stand, with room for these, and for ``most`` if small."""
        wanted, held = self._count + len(rows), self._waiting
        if held is not None and wanted <= len(held):
            return held
        row_bytes = self.width * rows.itemsize
        if most * row_bytes > AT_ONCE_BYTES:
            # Half as many again, for all are copied.
            most = min(most, max(wanted, self._count * 3 // 2, AT_ONCE_BYTES // row_bytes))
            _require(most * row_bytes, rows, self.width, f"of {wanted} rows")
        larger = rows.new_empty(most, self.width)
        if held is not None:
            larger[: self._count] = held[: self._count]
        self._waiting = larger
        return larger

    def _own(self) -> Tensor:
        """The sum, to be changed."""
        if not self._packed.numel():
            self._packed = self._zeros()
        elif self._lent:
            self._packed, self._lent = self._packed.clone(), False
        return self._packed

    def _zeros(self) -> Tensor:
        numbers = packed_size(self.width)
        _require(numbers * self._packed.itemsize, self._packed, self.width, "of more rows")
        return self._packed.new_zeros(packed_size(self.width))

    def _multiply_waiting(self, packed: Tensor) -> None:
        # Never more at once than later: rows' own type would round longer sums more.
        for part in torch.split(self.state[1], self._few()):
            _multiply(packed, part)


def _require(needed: int, where: Tensor, width: int, what: str) -> None:
    """Raises InputError where so many bytes are not free, beyond those that are taken unasked."""
    if needed > AT_ONCE_BYTES:
        require_memory(
            needed,
            where.device,
            f"second moments of {width} numbers, {what}",
            "projections (lora), hessian 'kfac' or 'ekfac', layers of fewer numbers, fewer samples",
        )


def _multiply(packed: Tensor, rows: Tensor) -> None:
    """Add ``rows^T rows`` in place."""
    for start, panel in _panels(packed, rows.shape[1]):
        left, right = rows[:, start : start + len(panel)].mT, rows[:, start:]
        if rows.dtype == panel.dtype and rows.device == panel.device:
            panel.addmm_(left, right)
        else:
            panel += (left @ right).to(panel.device)
