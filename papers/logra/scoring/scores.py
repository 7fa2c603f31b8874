"""Influence scores of queries and training gradients, a block of training rows at a time.

A score is ``g_te^T (H + lambda I)^-1 g_tr``: positive where the training sample is a proponent,
whose removal is predicted to raise the query's loss. It is not divided by the number of training
samples. Queries are preconditioned once; a block of training rows then costs one matrix product,
in the type and on the device of the queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, distributed

from common.errors import InputError
from papers.logra.curvature.curvatures import Damping
from papers.logra.curvature.hessians import Hessian
from papers.logra.curvature.layout import Layout
from papers.logra.processes import processes, rank

#: ``dot`` is the influence s; ``relatif`` is l-RelatIF, s / sqrt(I) with the self-influence I of
#: the training sample alone (Barshan et al. 2020); ``l2`` is s - I / 2. LogIX calls l-RelatIF
#: ``cosine``.
Mode = Literal["dot", "relatif", "l2", "cosine"]
#: Training rows and where the first of them stands.
Blocks = Iterable[tuple[int, Tensor]]
#: Columns of each group of layers.
Groups = Mapping[str, Sequence[slice]]
#: The group of all columns.
TOTAL = "total"


class Top(NamedTuple):
    """Best training rows of each query, the best first: both (q, k)."""

    scores: Tensor
    positions: Tensor


def iterate_blocks(gradients: Tensor, rows: int = 4096) -> Iterator[tuple[int, Tensor]]:
    """A gradient matrix in memory (n, width), ``rows`` at a time."""
    for start in range(0, len(gradients), rows):
        yield start, gradients[start : start + rows]


def group_columns(layout: Layout, names: Sequence[str]) -> dict[str, list[slice]]:
    """Columns of the layers whose name contains each of these strings.

    Raises:
        InputError: no layer's does, or a group is called as the one of all layers.
    """
    if isinstance(names, str):
        raise InputError(f"influence_groups {names!r}; allowed: a list of substrings")
    found = {}
    for name in names:
        if name == TOTAL:
            raise InputError(f"influence group {name!r}; allowed: another name")
        found[name] = [layout.slices[b.name] for b in layout.blocks if name in b.name]
        if not found[name]:
            layers = ", ".join(layout.slices)
            raise InputError(f"influence group {name!r}; allowed: a part of one of {layers}")
    return found


@torch.no_grad()
def scores(
    queries: Tensor,
    blocks: Blocks,
    rows: int,
    *,
    mode: Mode = "dot",
    self_influences: Mapping[str, Tensor] | None = None,
    groups: Groups | None = None,
) -> dict[str, Tensor]:
    """Scores of all pairs.

    Args:
        queries: (q, width) preconditioned gradients.
        blocks: training rows.
        rows: of all blocks together.
        mode: of normalisation.
        self_influences: {group: (rows,)} of these rows, where the mode needs them.
        groups: of layers to score on their own as well.

    Returns:
        {group: (q, rows)} on the CPU; ``total`` is the group of all layers.

    Raises:
        InputError: widths differ, an unknown mode, or a mode's self-influences are missing.
    """
    _check(mode, self_influences, groups)
    kind = torch.promote_types(queries.dtype, torch.float32)
    found = {name: torch.empty(len(queries), rows, dtype=kind) for name in (TOTAL, *(groups or ()))}
    for columns, _, block in _placed(blocks, rows):
        for name, part in _of_block(queries, block, groups).items():
            found[name][:, columns] = _normalised(part, mode, self_influences, name, columns)
    return found


@torch.no_grad()
def top_scores(
    queries: Tensor,
    blocks: Blocks,
    k: int,
    *,
    mode: Mode = "dot",
    self_influences: Mapping[str, Tensor] | None = None,
) -> Top:
    """The k highest scores of each query, without the matrix of all pairs.

    Of equal scores the one of the earlier row comes first. Fewer rows than k give fewer scores.

    Args:
        queries, blocks, mode, self_influences: as of :func:`scores`.
        k: at least 1.

    Raises:
        InputError: as :func:`scores`, or k below 1.
    """
    if k < 1:
        raise InputError(f"k={k}; allowed: at least 1")
    _check(mode, self_influences, None)
    best: Top | None = None
    for columns, start, block in _placed(blocks):
        part = _of_block(queries, block, None)[TOTAL]
        top = _highest(_normalised(part, mode, self_influences, TOTAL, columns), k)
        top = Top(top.scores, top.positions + start)
        if best is not None:
            both = torch.cat([best.scores, top.scores], 1)
            chosen = _highest(both, k)
            positions = torch.cat([best.positions, top.positions], 1)
            top = Top(chosen.scores, positions.gather(1, chosen.positions))
        best = top
    assert best is not None
    return Top(best.scores.cpu(), best.positions.cpu())


@torch.no_grad()
def self_influences(
    blocks: Blocks,
    rows: int,
    hessian: Hessian,
    damping: Damping | None = None,
    groups: Groups | None = None,
) -> dict[str, Tensor]:
    """``g^T (H + lambda I)^-1 g`` of each row, as the squared length of whitened gradients.

    Args:
        blocks, rows, groups: as of :func:`scores`.
        hessian, damping: as of :meth:`papers.logra.curvature.hessians.Hessian.whiten`.

    Returns:
        {group: (rows,)} on the CPU, in float64, at least 0.
    """
    found = {name: torch.empty(rows, dtype=torch.float64) for name in (TOTAL, *(groups or ()))}
    for columns, _, block in _placed(blocks, rows):
        squares = hessian.whiten(block, damping).square()
        found[TOTAL][columns] = squares.sum(1, dtype=torch.float64)
        for name, slices in (groups or {}).items():
            found[name][columns] = _sum(squares[:, s].sum(1, dtype=torch.float64) for s in slices)
    return found


def check_mode(mode: str) -> None:
    """Raises InputError on an unknown mode."""
    if mode not in get_args(Mode):
        raise InputError(f"mode {mode!r}; allowed: {', '.join(get_args(Mode))}")


def share_of_rows(rows: int) -> range:
    """The rows that this process of ``torch.distributed`` scores: all of them if it is alone."""
    mine, world = rank(), processes()
    return range(rows * mine // world, rows * (mine + 1) // world)


def gather_scores(share: Tensor, rows: int) -> Tensor:
    """Scores (q, share) of each process's :func:`share_of_rows` -> (q, rows) in all of them."""
    world = processes()
    if world == 1:
        return share
    widths = [rows * (r + 1) // world - rows * r // world for r in range(world)]
    padded = share.new_zeros(share.shape[0], max(widths))
    padded[:, : share.shape[1]] = share
    if distributed.get_backend() == "nccl":
        padded = padded.cuda()
    every = [torch.empty_like(padded) for _ in widths]
    distributed.all_gather(every, padded)
    parts = [part[:, :width] for part, width in zip(every, widths, strict=True)]
    return torch.cat(parts, 1).to(share.device)


def _check(mode: Mode, self_influences: Mapping[str, Tensor] | None, groups: Groups | None) -> None:
    check_mode(mode)
    for name in (TOTAL, *(groups or ())):
        if mode != "dot" and name not in (self_influences or {}):
            raise InputError(f"mode {mode!r} without self-influences of {name}; allowed: with")


def _placed(blocks: Blocks, rows: int | None = None) -> Iterator[tuple[slice, int, Tensor]]:
    """Blocks with the place of their rows among all that came, which must be ``rows``."""
    done = 0
    for start, block in blocks:
        if rows is not None and done + len(block) > rows:
            raise InputError(f"more than {rows} training rows; allowed: as many as were announced")
        yield slice(done, done + len(block)), start, block
        done += len(block)
    if done < (1 if rows is None else rows):
        raise InputError(f"{done} training rows; allowed: {rows or 'at least 1'}")


def _of_block(queries: Tensor, block: Tensor, groups: Groups | None) -> dict[str, Tensor]:
    """{group: (q, n)} products of queries and a block's rows."""
    if block.shape[1:] != queries.shape[1:]:
        raise InputError(
            f"training gradients {tuple(block.shape[1:])} wide; allowed: "
            f"{tuple(queries.shape[1:])}, as the queries"
        )
    block = block.to(queries)
    found = {TOTAL: queries @ block.mT}
    for name, slices in (groups or {}).items():
        found[name] = _sum(queries[:, s] @ block[:, s].mT for s in slices)
    return found


def _normalised(
    part: Tensor,
    mode: Mode,
    self_influences: Mapping[str, Tensor] | None,
    group: str,
    columns: slice,
) -> Tensor:
    """Scores (q, n) of these columns in a mode."""
    if mode == "dot" or self_influences is None:
        return part
    own = self_influences[group][columns].to(part)
    if mode == "l2":
        return part - own / 2
    # A sample without a gradient has no influence, of whatever length.
    return torch.where(own > 0, part / own.sqrt(), 0.0)


def _highest(values: Tensor, k: int) -> Top:
    """The k highest of each row, and among equals the ones that stand first."""
    k = min(k, values.shape[1])
    least = values.topk(k).values[:, -1:]
    above, equal = values > least, values == least
    wanted = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1) <= wanted))
    positions = chosen.nonzero()[:, 1].view(len(values), k)
    found, order = values.gather(1, positions).sort(dim=1, descending=True, stable=True)
    return Top(found, positions.gather(1, order))


def _sum(parts: Iterable[Tensor]) -> Tensor:
    first, *others = parts
    for part in others:
        first = first + part
    return first
