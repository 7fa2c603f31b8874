"""Rankings out of scores of all pairs.

Lee et al. 2018 take a song's row of scores against all songs as what represents it, and rank by how
alike two rows are. Hubs, songs that are near to all, are what the other two act against.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

Ranking = Literal["raw", "cosine", "correlation", "zscore", "proximity"]
RANKINGS: Final = get_args(Ranking)
#: Those that compare rows.
BY_ROWS: Final[tuple[Ranking, ...]] = ("cosine", "correlation")
Scores = NDArray[np.float64]


def ranked(scores: Scores, ranking: Ranking) -> Scores:
    """Scores that the ranking orders by, higher for what is more alike; the diagonal is NaN.

    Args:
        scores: (n, n) of queries i and references j, higher is more alike; the diagonal is not
            read.
        ranking: ``raw``; ``cosine`` and ``correlation`` of rows; ``zscore``, standardised over all
            queries of a reference; ``proximity``, the share of other songs that are farther from
            both (mutual proximity, by ranks).

    Raises:
        InputError: not a square matrix, of other rankings than ``raw`` of at least three songs, or
            a score is not finite.
    """
    given = _checked(scores, 1 if ranking == "raw" else 3)
    if ranking == "raw":
        found = given.copy()
    elif ranking in BY_ROWS:
        found = _row_likeness(given, centred=ranking == "correlation")
    elif ranking == "zscore":
        found = _standardised(given)
    elif ranking == "proximity":
        found = _mutual_proximity(given)
    else:
        raise InputError(f"ranking {ranking!r}: allowed: {', '.join(RANKINGS)}")
    np.fill_diagonal(found, np.nan)
    return found


def ranked_log_odds(log_odds: Scores, ranking: Ranking) -> Scores:
    """:func:`ranked` of a network's log-odds: (n, n), the diagonal NaN.

    Rows are compared as probabilities, as published; elsewhere log-odds order where these are 1.
    """
    from scipy.special import expit

    return ranked(expit(log_odds) if ranking in BY_ROWS else log_odds, ranking)


def _checked(scores: Scores, least: int) -> Scores:
    given = np.array(scores, dtype=np.float64)
    if given.ndim != 2 or len(given) != given.shape[1] or len(given) < least:
        raise InputError(f"scores {given.shape}: allowed: (n, n) of at least {least} songs")
    np.fill_diagonal(given, 0)
    if not np.isfinite(given).all():
        i, j = np.argwhere(~np.isfinite(given))[0]
        raise InputError(f"scores[{i}, {j}] is {given[i, j]}; allowed: finite numbers")
    return given


def _row_likeness(given: Scores, centred: bool) -> Scores:
    """Cosine of rows, less their means if ``centred``; on the diagonal stands the largest score.

    A row that is constant is like none: its cosine is 0.
    """
    rows = given.copy()
    off = ~np.eye(len(rows), dtype=bool)
    np.fill_diagonal(rows, given[off].max())
    if centred:
        rows -= rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norms > 0, norms, 1)
    return unit @ unit.T  # type: ignore[no-any-return]


def _standardised(given: Scores) -> Scores:
    """Less the mean, over the deviation, of what a reference gives to the other songs."""
    count = len(given) - 1
    mean = given.sum(axis=0) / count
    deviations = given - mean
    np.fill_diagonal(deviations, 0)
    spread = np.sqrt((deviations**2).sum(axis=0) / count)
    return deviations / np.where(spread > 0, spread, 1)  # type: ignore[no-any-return]


def _mutual_proximity(given: Scores) -> Scores:
    """Product of two shares: of j's queries with a lower score, and of i's references with one."""
    count = len(given) - 1
    lower = given.copy()
    np.fill_diagonal(lower, -np.inf)
    order = lower.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") / count
    column = lower.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable") / count
    # The raw score decides between products that are equal.
    scale = np.abs(given).max() or 1.0
    return order * column + 1e-9 * given / scale  # type: ignore[no-any-return]


def rank_sum(first: Scores, second: Scores) -> Scores:
    """Two rankings fused: minus the sum of each candidate's ranks, the diagonal NaN."""
    total = np.zeros_like(first)
    for scores in (first, second):
        given = np.where(np.eye(len(scores), dtype=bool), -np.inf, scores)
        total -= (-given).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    np.fill_diagonal(total, np.nan)
    return total
