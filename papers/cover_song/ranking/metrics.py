"""What a ranking is worth: MAP, MNIT10, MR1 and top-k, as in MIREX's cover song task.

A query is never among its own candidates. Ties count against: of equal scores the non-covers come
first, so that a method without any idea gets no credit from the order of songs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError


@dataclass(frozen=True)
class Retrieval:
    """Means over the queries that have a cover.

    Attributes:
        map: mean of average precision over the whole list.
        mnit10: mean number of covers among the first ten.
        mr1: mean rank of the first cover, from 1 on.
        top1, top10: share of queries with a cover at the first place, and among the first ten.
        queries: how many.
    """

    map: float
    mnit10: float
    mr1: float
    top1: float
    top10: float
    queries: int

    def metrics(self, suffix: str = "") -> dict[str, float]:
        """By name, for records."""
        return {
            f"{name}{suffix}": float(getattr(self, name))
            for name in ("map", "mnit10", "mr1", "top1", "top10")
        }


def cover_ranks(scores: NDArray[np.float64], works: ArrayLike, query: int) -> NDArray[np.int64]:
    """Ranks (from 1) of a query's covers among the other songs, ascending."""
    labels = np.asarray(works)
    others = np.arange(len(labels)) != query
    row, relevant = scores[query][others], (labels == labels[query])[others]
    order = np.lexsort((relevant, -row))
    return np.flatnonzero(relevant[order]) + 1


def retrieval(
    scores: NDArray[np.float64], works: ArrayLike, queries: ArrayLike | None = None
) -> Retrieval:
    """Judge a ranking.

    Args:
        scores: (n, n), higher is more alike; the diagonal is not read.
        works: (n,), what each song is a version of.
        queries: indices (default: every song that has a cover).

    Raises:
        InputError: shapes that do not fit, a score that is not a number, a query without a cover.
    """
    labels = np.asarray(works)
    if scores.shape != (len(labels), len(labels)):
        raise InputError(f"scores {scores.shape}: allowed: ({len(labels)}, {len(labels)})")
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    covers = counts[inverse] - 1
    asked = np.flatnonzero(covers) if queries is None else np.asarray(queries)
    if not len(asked):
        raise InputError("queries: none has a cover; nothing can be judged")
    if (alone := asked[covers[asked] == 0]).size:
        raise InputError(f"query {alone[0]}: no other song is of its work {labels[alone[0]]}")
    off = ~np.eye(len(labels), dtype=bool)
    if np.isnan(scores[off]).any():
        raise InputError("scores: NaN off the diagonal; every pair must have been scored")
    found = [cover_ranks(scores, labels, query) for query in asked.tolist()]
    precisions = [np.mean(np.arange(1, len(ranks) + 1) / ranks) for ranks in found]
    first = np.array([ranks[0] for ranks in found])
    return Retrieval(
        map=float(np.mean(precisions)),
        mnit10=float(np.mean([(ranks <= 10).sum() for ranks in found])),
        mr1=float(first.mean()),
        top1=float((first == 1).mean()),
        top10=float((first <= 10).mean()),
        queries=len(asked),
    )
