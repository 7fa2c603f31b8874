"""The example's benchmark: NumPy's sum beside Python's."""

from __future__ import annotations

import numpy as np

from common.experiments.schema import Scale
from common.results.benchmarks import BenchmarkRow, compare


def speed(scale: Scale) -> list[BenchmarkRow]:
    """Time of one sum of a thousand numbers."""
    numbers = np.arange(1000)
    listed = numbers.tolist()
    timed = compare(lambda: numbers.sum(), lambda: sum(listed), repeats=3)
    return [timed.row("example_paper", f"sum of 1000 numbers at {scale}", "sum")]


BENCHMARKS = {"speed": speed}
