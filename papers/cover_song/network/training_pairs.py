"""Which pairs the network learns from: all covers, and as many non-covers or more."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError

Pairs = NDArray[np.int64]


def cover_pairs(works: ArrayLike) -> Pairs:
    """Every unordered pair inside a work, i < j: (p, 2), by work."""
    labels = np.asarray(works)
    found = []
    for work in np.unique(labels):
        members = np.flatnonzero(labels == work)
        i, j = np.triu_indices(len(members), 1)
        found.append(np.stack([members[i], members[j]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def non_cover_pairs(works: ArrayLike, count: int, rng: np.random.Generator) -> Pairs:
    """``count`` distinct pairs i < j of different works, at random: (count, 2).

    Raises: InputError if there are not as many.
    """
    labels = np.asarray(works)
    _, sizes = np.unique(labels, return_counts=True)
    total = len(labels)
    there = total * (total - 1) // 2 - int((sizes * (sizes - 1) // 2).sum())
    if count > there:
        raise InputError(f"{count} non-cover pairs: the songs have {there}; allowed: at most these")
    chosen: dict[tuple[int, int], None] = {}
    while len(chosen) < count:
        drawn = rng.integers(0, total, (2 * (count - len(chosen)) + 8, 2))
        for i, j in np.sort(drawn, axis=1).tolist():
            if labels[i] != labels[j] and len(chosen) < count:
                chosen[i, j] = None
    return np.array(list(chosen), dtype=np.int64).reshape(count, 2)


def split_works(
    works: ArrayLike, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Songs for training and for validation, no work in both.

    Args:
        share: of all cover pairs that validation has at least, in whole works.
    """
    labels = np.asarray(works)
    names, sizes = np.unique(labels, return_counts=True)
    pairs = sizes * (sizes - 1) // 2
    order = rng.permutation(len(names))
    taken = np.searchsorted(np.cumsum(pairs[order]), share * pairs.sum()) + 1
    held_out = np.isin(labels, names[order[:taken]])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
