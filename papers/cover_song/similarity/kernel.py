"""One compiled kernel for all cheap measures: distances, DTW, SiMPle, Qmax and Dmax of pairs.

A pair's distance matrix is made once and stays in the processor's cache while all measures read it.
Loops run over the second song's frames, which lie next to each other, so that they become vector
instructions; DTW alone has a dependency from cell to cell.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.similarity.compiled import compiled

PITCH_CLASSES: Final = 12
#: Columns of :func:`score_pairs`. The one of SiMPle from x to y is that of x as the query.
MEAN, DTW, SIMPLE_XY, SIMPLE_YX, QMAX, DMAX, SHIFT = range(7)
COLUMNS: Final = 7
#: Rows and columns of zeros before a recursion's first cell, as far as a step of Dmax looks back.
MARGIN: Final = 3

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]


@compiled
def squared_distances(x: Float32s, y: Float32s, shift: int, out: Float32s) -> None:
    """``out[i, j] = |x[i] - roll(y[j], shift)|^2``; x (n, 12), y (m, 12), out (>= n, >= m)."""
    n, m = len(x), len(y)
    turned = np.empty((12, m), np.float32)
    for j in range(m):
        for c in range(12):
            turned[(c + shift) % 12, j] = y[j, c]
    for i in range(n):
        row = out[i]
        for c in range(0, 12, 4):
            x0, x1, x2, x3 = x[i, c], x[i, c + 1], x[i, c + 2], x[i, c + 3]
            y0, y1, y2, y3 = turned[c], turned[c + 1], turned[c + 2], turned[c + 3]
            if c == 0:
                for j in range(m):
                    d0, d1, d2, d3 = x0 - y0[j], x1 - y1[j], x2 - y2[j], x3 - y3[j]
                    row[j] = d0 * d0 + d1 * d1 + (d2 * d2 + d3 * d3)
            else:
                for j in range(m):
                    d0, d1, d2, d3 = x0 - y0[j], x1 - y1[j], x2 - y2[j], x3 - y3[j]
                    row[j] += d0 * d0 + d1 * d1 + (d2 * d2 + d3 * d3)


@compiled
def dtw_cost(distances: Float32s, n: int, m: int) -> float:
    """Cost of the cheapest path from corner to corner, steps (1,1), (1,0), (0,1), over n + m."""
    costs = np.empty(m, np.float64)
    total = 0.0
    for j in range(m):
        total += distances[0, j]
        costs[j] = total
    for i in range(1, n):
        row = distances[i]
        corner = costs[0]
        left = corner + row[0]
        costs[0] = left
        for j in range(1, m):
            above = costs[j]
            left = row[j] + min(left, min(corner, above))
            costs[j] = left
            corner = above
    return costs[m - 1] / (n + m)  # type: ignore[no-any-return]


@compiled
def window_minima(
    squares: Float32s, n: int, m: int, window: int, rows: Float64s, columns: Float64s
) -> None:
    """Least squared distance of each window of x to any of y (rows), and of y to any of x.

    That of two windows is the sum of ``squares`` along a diagonal; it moves on by one term more and
    one less. ``rows`` (>= n - window + 1), ``columns`` (>= m - window + 1) are written.
    """
    across, down = m - window + 1, n - window + 1
    sums = np.empty(across, np.float64)
    before = np.empty(across, np.float64)
    columns[:across] = np.inf
    for i in range(down):
        if i == 0:
            sums[:] = 0
            for k in range(window):
                for j in range(across):
                    sums[j] += squares[k, j + k]
        else:
            before, sums = sums, before
            new, old = squares[i + window - 1], squares[i - 1]
            first = 0.0
            for k in range(window):
                first += squares[i + k, k]
            sums[0] = first
            for j in range(1, across):
                sums[j] = before[j - 1] + new[j + window - 1] - old[j - 1]
        least = np.inf
        for j in range(across):
            value = sums[j]
            least = min(least, value)
            columns[j] = min(columns[j], value)
        rows[i] = least


@compiled
def _limit(values: Float32s, k: int, guess: float) -> float:
    """A number that exactly the k smallest of ``values`` (>= 0) do not exceed; on ties, the k-th.

    Found by bisection, from ``guess`` on: counting is a vector instruction, sorting is not.
    """
    low, high = np.float32(-1), np.float32(0)
    for value in values:
        high = max(high, value)
    middle = np.float32(guess)
    if not low < middle < high:
        middle = np.float32(0.5) * (low + high)
    while True:
        count = np.int32(0)
        for value in values:
            count += np.int32(value <= middle)
        if count == k:
            return middle  # type: ignore[return-value]
        if count > k:
            high = middle
        else:
            low = middle
        middle = np.float32(0.5) * (low + high)
        if not low < middle < high:
            return high  # type: ignore[return-value]


@compiled
def mutual_neighbours(
    squares: Float32s, n: int, m: int, stack: int, kappa: float, out: NDArray[np.float32]
) -> None:
    """1 where two stacks of frames are among the nearest of each other, else 0.

    Stacks of ``stack`` frames: (n - stack + 1) x (m - stack + 1) cells of ``out``, from (3, 3) on.
    Near is a distance among the ``kappa`` least of its row, and of its column.
    """
    down, across = n - stack + 1, m - stack + 1
    embedded = np.empty((down, across), np.float32)
    for i in range(down):
        row = embedded[i]
        first = squares[i]
        for j in range(across):
            row[j] = first[j]
        for k in range(1, stack):
            other = squares[i + k]
            for j in range(across):
                row[j] += other[j + k]
    of_row, of_column = max(1, int(kappa * across)), max(1, int(kappa * down))
    limits = np.empty(across, np.float32)
    turned = embedded.T.copy()
    limit = -1.0
    for j in range(across):
        limit = _limit(turned[j], of_column, limit)
        limits[j] = limit
    for i in range(down):
        limit = _limit(embedded[i], of_row, limit)
        row, near = embedded[i], out[i + 3]
        for j in range(across):
            near[j + 3] = np.float32((row[j] <= limit) and (row[j] <= limits[j]))


@compiled
def _step(
    near: Float32s, scores: Float32s, i: int, m: int, onset: float, extension: float, wide: bool
) -> None:
    """Row i (padded) of the recursion of Qmax, or of Dmax if ``wide``."""
    on, more = np.float32(onset), np.float32(extension)
    s1, s2, s3 = scores[i - 1], scores[i - 2], scores[i - 3]
    n0, n1, n2, n3 = near[i], near[i - 1], near[i - 2], near[i - 3]
    row = scores[i]
    zero, one = np.float32(0), np.float32(1)
    for j in range(3, m):
        a, b, c = s1[j - 1], s2[j - 1], s1[j - 2]
        if wide:
            b += n1[j]
            c += n0[j - 1]
        best = max(a, max(b, c))
        lost = max(
            a - (on if n1[j - 1] > 0 else more),
            max(b - (on if n2[j - 1] > 0 else more), c - (on if n1[j - 2] > 0 else more)),
        )
        if wide:
            d = s3[j - 1] + n2[j] + n1[j]
            e = s1[j - 3] + n0[j - 2] + n0[j - 1]
            best = max(best, max(d, e))
            gap = on if n3[j - 1] > 0 else more
            lost = max(lost, max(d - gap, e - (on if n1[j - 3] > 0 else more)))
        row[j] = best + one if n0[j] > 0 else max(zero, lost)


@compiled
def longest_alignment(
    near: Float32s,
    rows: int,
    columns: int,
    onset: float,
    extension: float,
    wide: bool,
    scores: Float32s,
) -> float:
    """The largest score of a path in ``near`` that may bend and skip: Qmax, or Dmax if ``wide``.

    ``near`` and ``scores`` have a margin of three rows and columns of zeros; scores are written.
    """
    largest = np.float32(0)
    for i in range(3, rows + 3):
        _step(near, scores, i, columns + 3, onset, extension, wide)
        row = scores[i]
        for j in range(3, columns + 3):
            largest = max(largest, row[j])
    return largest  # type: ignore[return-value]


@compiled
def score_pairs(
    frames: Float32s,
    smoothed: Float32s,
    lengths: NDArray[np.int64],
    pairs: NDArray[np.int64],
    shifts: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    window: int,
    stack: int,
    kappa: float,
    onset: float,
    extension: float,
    out: Float64s,
) -> None:
    """Measures of pairs of songs; of several shifts of a pair the best value of each measure.

    Args:
        frames, smoothed: (songs, frames, 12).
        lengths: (songs,), frames that hold the song.
        pairs: (p, 2), the second is shifted.
        shifts: (p, s), semitones.
        wanted: (7,), columns to be computed.
        window, stack, kappa, onset, extension: of SiMPle; of Qmax and Dmax.
        out: (p, 7): mean and DTW as distances, SiMPle as medians of squared ones, Qmax and Dmax as
            lengths, and the shift that gave the best of the last wanted column.
    """
    most = frames.shape[1]
    squares = np.empty((most, most), np.float32)
    distances = np.empty((most, most), np.float32)
    near = np.zeros((most + 3, most + 3), np.float32)
    scores = np.zeros((most + 3, most + 3), np.float32)
    rows, columns = np.empty(most, np.float64), np.empty(most, np.float64)
    for p in range(len(pairs)):
        a, b = pairs[p, 0], pairs[p, 1]
        n, m = lengths[a], lengths[b]
        for s in range(shifts.shape[1]):
            shift = shifts[p, s]
            values = np.full(7, np.inf)
            last = 0
            if wanted[0] or wanted[1] or wanted[4] or wanted[5]:
                squared_distances(frames[a, :n], frames[b, :m], shift, squares)
            if wanted[0] or wanted[1]:
                total = 0.0
                for i in range(n):
                    for j in range(m):
                        distances[i, j] = np.sqrt(squares[i, j])
                if wanted[0]:
                    for i in range(n):
                        for j in range(m):
                            total += distances[i, j]
                    values[0] = total / (n * m)
                    last = 0
                if wanted[1]:
                    values[1] = dtw_cost(distances, n, m)
                    last = 1
            if wanted[4] or wanted[5]:
                mutual_neighbours(squares, n, m, stack, kappa, near)
                down, across = n - stack + 1, m - stack + 1
                if wanted[4]:
                    values[4] = -longest_alignment(
                        near, down, across, onset, extension, False, scores
                    )
                    last = 4
                if wanted[5]:
                    values[5] = -longest_alignment(
                        near, down, across, onset, extension, True, scores
                    )
                    last = 5
            if wanted[2] or wanted[3]:
                squared_distances(smoothed[a, :n], smoothed[b, :m], shift, squares)
                window_minima(squares, n, m, window, rows, columns)
                values[2] = np.median(rows[: n - window + 1])
                values[3] = np.median(columns[: m - window + 1])
                last = 2
            if s == 0 or values[last] < out[p, last]:
                out[p, 6] = shift
            for k in range(6):
                out[p, k] = values[k] if s == 0 else min(out[p, k], values[k])
        out[p, 4], out[p, 5] = -out[p, 4], -out[p, 5]


@compiled
def standardised_distances(
    frames: Float32s, pairs: NDArray[np.int64], shifts: NDArray[np.int64], out: Float32s
) -> None:
    """Matrices for the network: similarity of pairs, each with mean 0 and deviation 1.

    ``S = (max D - D) / max D``, then ``(S - mean) / std``, is ``(mean D - D) / std D``. A matrix
    without spread (silence) becomes zeros.

    Args:
        frames: (songs, T, 12), zero after a song's end.
        pairs: (p, 2).
        shifts: (p,), of the second song.
        out: (p, T, T).
    """
    size = frames.shape[1]
    for p in range(len(pairs)):
        matrix = out[p]
        squared_distances(frames[pairs[p, 0]], frames[pairs[p, 1]], shifts[p], matrix)
        total, squares = 0.0, 0.0
        for i in range(size):
            for j in range(size):
                squares += matrix[i, j]
                matrix[i, j] = np.sqrt(matrix[i, j])
                total += matrix[i, j]
        mean = total / (size * size)
        variance = squares / (size * size) - mean * mean
        scale = np.float32(1 / np.sqrt(variance)) if variance > 1e-10 else np.float32(0)
        middle = np.float32(mean)
        for i in range(size):
            for j in range(size):
                matrix[i, j] = (middle - matrix[i, j]) * scale
