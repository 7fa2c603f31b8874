"""Benchmarks: ratios to a peer that is timed in the same process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from common.experiments.settings import Settings


class BenchmarkRow(Settings):
    """Ours over a peer's: ``ratio`` below 1 means less time (or memory) than the peer.

    Of a score ``higher_is_better``: above 1 means a better one. ``low`` and ``high`` are the
    extremes over ``n`` pairs of measurements.
    """

    paper: str
    what: str
    peer: str
    ratio: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    n: int = Field(ge=1)
    ours: float | None = None
    theirs: float | None = None
    unit: str = ""
    note: str = ""
    higher_is_better: bool = False


def memory_row(
    paper: str, what: str, peer: str, ours: int, theirs: int, note: str = ""
) -> BenchmarkRow:
    """Bytes of both, measured once, as a row of the report.

    Raises:
        ValueError: one of them took none: they have no ratio.
    """
    if min(ours, theirs) <= 0:
        raise ValueError(f"{what}: {ours} and {theirs} bytes; both must be positive")
    ratio = ours / theirs
    return BenchmarkRow(
        paper=paper,
        what=what,
        peer=peer,
        ratio=ratio,
        low=ratio,
        high=ratio,
        n=1,
        ours=ours / 2**20,
        theirs=theirs / 2**20,
        unit="MiB",
        note=note,
    )


def score_row(
    paper: str,
    what: str,
    peer: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    note: str = "",
) -> BenchmarkRow:
    """Scores of both, higher for better, in pairs: their means as a row of the report.

    Raises:
        ValueError: not as many of both, none, or one that is not positive and finite: it has no
            ratio.
    """
    usable = all(0 < score < math.inf for score in (*ours, *theirs))
    if len(ours) != len(theirs) or not ours or not usable:
        raise ValueError(f"scores {list(ours)} and {list(theirs)}: must be pairs of positive ones")
    pairs = np.array([ours, theirs], dtype=float)
    mine, other = pairs.mean(1)
    ratios = pairs[0] / pairs[1]
    return BenchmarkRow(
        paper=paper,
        what=what,
        peer=peer,
        ratio=float(mine / other),
        low=float(ratios.min()),
        high=float(ratios.max()),
        n=len(ours),
        ours=float(mine),
        theirs=float(other),
        note=note,
        higher_is_better=True,
    )


@dataclass(frozen=True)
class Comparison:
    """Times of two callables, measured alternately: medians in seconds and ratio ours / peer."""

    ratio: float
    low: float
    high: float
    n: int
    ours: float
    theirs: float

    def row(self, paper: str, what: str, peer: str, note: str = "") -> BenchmarkRow:
        """The comparison as a row of the report."""
        return BenchmarkRow(paper=paper, what=what, peer=peer, note=note, unit="s", **self.__dict__)


@contextmanager
def one_thread() -> Iterator[None]:
    """The libraries share work over threads differently; on one they compare."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(ours: Callable[[], object], peer: Callable[[], object], repeats: int = 7) -> Comparison:
    """Time two callables in pairs, in turns first and second, after one call of each unmeasured.

    Args:
        ours, peer: do the same work; a GPU callable must synchronise itself.
        repeats: number of pairs.

    Returns:
        Median, minimum and maximum of the pairs' ratios, and both median times.

    Raises:
        ValueError: no repeats, or a callable that is done before the clock moves.
    """
    if repeats < 1:
        raise ValueError(f"repeats {repeats}: must be >= 1")
    times = np.empty((repeats, 2))
    sides = (ours, peer)
    for side in sides:
        side()
    for i in range(repeats):
        for j in (0, 1) if i % 2 == 0 else (1, 0):
            start = time.perf_counter()
            sides[j]()
            times[i, j] = time.perf_counter() - start
    if times.min() <= 0:
        raise ValueError("a callable took no time that the clock can tell; give both more work")
    ratios = times[:, 0] / times[:, 1]
    return Comparison(
        ratio=float(np.median(ratios)),
        low=float(ratios.min()),
        high=float(ratios.max()),
        n=repeats,
        ours=float(np.median(times[:, 0])),
        theirs=float(np.median(times[:, 1])),
    )
