"""Bytes and seconds of a cycle of steps, of one process."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from time import perf_counter, process_time
from typing import NamedTuple

import torch

from common.training.peak_memory import peak_tensor_bytes
from common.training.saved_tensors import SavedTensors

#: Cycles before any measure: buckets of gradients are ordered anew after the first one.
WARM_UP = 2


class Cost(NamedTuple):
    """What a cycle takes.

    Attributes:
        saved_bytes: most that autograd kept for backward passes at once.
        peak_bytes: most in tensors at once, networks, optimisers and batches included.
        cycle_s: median time.
        cycle_cpu_s: median CPU time, which does not count waiting for others: for a core, a GPU or
            another process.
    """

    saved_bytes: int
    peak_bytes: int
    cycle_s: float
    cycle_cpu_s: float


def measure(make: Callable[[], Callable[[], None]], cycles: int, device: torch.device) -> Cost:
    """Cost of a program's cycle.

    Args:
        make: sets the program up, with all of its tensors, and returns its cycle.
        cycles: timed ones.
    """
    made: list[Callable[[], None]] = []

    def begin() -> None:
        made.append(make())
        for _ in range(WARM_UP):
            made[0]()

    gc.collect()
    peak = peak_tensor_bytes(begin)
    (cycle,) = made
    with SavedTensors().watched() as saved:
        cycle()
    times = []
    for _ in range(cycles):
        _wait(device)
        start, cpu = perf_counter(), process_time()
        cycle()
        _wait(device)
        times.append((perf_counter() - start, process_time() - cpu))
    wall, own = (statistics.median(each) for each in zip(*times, strict=True))
    return Cost(saved.peak_bytes, peak, wall, own)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
