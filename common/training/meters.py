"""Throughput and peak memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

Batch = TypeVar("Batch")


class Throughput:
    """Samples per second of training after a warm-up.

    The clock runs while batches are taken from :meth:`timed`, so neither warm-up nor what lies
    between epochs (evaluation) counts; the device is synchronised where it starts and stops.

    Args:
        warm_up: optimiser steps that are not counted.
    """

    def __init__(self, device: torch.device, warm_up: int = 5) -> None:
        self._device, self._warm_up = device, warm_up
        self._steps, self._samples, self._seconds = 0, 0, 0.0
        self._started: float | None = None

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """``batches``, with the clock running while they last."""
        if self._steps >= self._warm_up:
            self._started = self._now()
        yield from batches
        self._seconds, self._started = self._elapsed(), None

    def add(self, samples: int) -> None:
        """Count one optimiser step of ``samples`` samples."""
        self._steps += 1
        if self._started is not None:
            self._samples += samples
        elif self._steps == self._warm_up:
            self._started = self._now()

    def samples_per_s(self) -> float:
        """0 until a step was counted."""
        return self._samples / self._elapsed() if self._samples else 0.0

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._started is None else self._now() - self._started)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def peak_gpu_bytes(device: torch.device) -> int:
    """Most memory that tensors held on a GPU so far; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
