"""Memory of arrays during a call."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable


def peak_array_bytes(work: Callable[[], object]) -> int:
    """Most bytes of arrays at once; NumPy tells the interpreter of each."""
    work()  # what is compiled or loaded once does not count
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
