"""Texts of a CTC network's frames: the best path, and a search over prefixes.

A path has a symbol for each frame; its text is what is left when repeats are merged and blanks
(number 0) are dropped, and a text's probability is the sum over its paths (Graves et al. 2006).
torchaudio's own search needs further packages.
"""

from __future__ import annotations

import math
from itertools import groupby

from torch import Tensor

from common.errors import InputError

Prefix = tuple[int, ...]


def decode_best_path(log_chances: Tensor) -> list[int]:
    """Symbols of the most probable path of frames (t, symbols)."""
    return [symbol for symbol, _ in groupby(log_chances.argmax(-1).tolist()) if symbol]


def prefix_search(
    log_chances: Tensor, beam: int, least: float = -12.0
) -> list[tuple[Prefix, float]]:
    """The ``beam`` most probable texts of frames (t, symbols), each with its log-probability.

    After each frame the ``beam`` most probable prefixes are kept (Graves 2012; Hannun et al.
    2014), so that a text's probability is a lower bound, and exact if the beam holds all prefixes.

    Args:
        least: symbols with a lower log-probability in a frame are left out of it; minus infinity
            keeps all.

    Raises:
        InputError: beam < 1.
    """
    if beam < 1:
        raise InputError(f"beam {beam}; allowed: from 1")
    # A prefix has the log-probability of its paths that end in a blank, and of those that do not.
    kept: dict[Prefix, tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_chances.tolist():
        symbols = [number for number, chance in enumerate(frame) if number and chance >= least]
        grown: dict[Prefix, tuple[float, float]] = {}
        for prefix, (blank, other) in kept.items():
            both = log_sum(blank, other)
            again = other + frame[prefix[-1]] if prefix else -math.inf
            add_probabilities(grown, prefix, both + frame[0], again)
            for symbol in symbols:
                # The last symbol once more is a new one only after a blank.
                before = blank if prefix and prefix[-1] == symbol else both
                if before > -math.inf:
                    add_probabilities(grown, (*prefix, symbol), -math.inf, before + frame[symbol])
        ranked = sorted(grown.items(), key=lambda item: -log_sum(*item[1]))
        kept = dict(ranked[:beam])
    return [(prefix, log_sum(*chances)) for prefix, chances in kept.items()]


def add_probabilities(
    into: dict[Prefix, tuple[float, float]], prefix: Prefix, blank: float, other: float
) -> None:
    """Add probabilities to those of a prefix."""
    before = into.get(prefix)
    into[prefix] = (
        (log_sum(before[0], blank), log_sum(before[1], other)) if before else (blank, other)
    )


def log_sum(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    high, low = (a, b) if a > b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
