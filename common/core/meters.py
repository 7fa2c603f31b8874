"""Throughput and peak memory."""

from __future__ import annotations

import time

import torch


class Throughput:
    """Samples per second after a warm-up, with the device synchronised at both ends.

    Args:
        warm_up: optimiser steps that are not counted.
    """

    def __init__(self, device: torch.device, warm_up: int = 5) -> None:
        self._device, self._warm_up = device, warm_up
        self._steps, self._samples, self._started = 0, 0, 0.0

    def add(self, samples: int) -> None:
        """Count one optimiser step of ``samples`` samples."""
        self._steps += 1
        if self._steps == self._warm_up:
            self._started = self._now()
        elif self._steps > self._warm_up:
            self._samples += samples

    def samples_per_s(self) -> float:
        """0 until a step was counted."""
        if not self._samples:
            return 0.0
        return self._samples / (self._now() - self._started)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def peak_gpu_bytes(device: torch.device) -> int:
    """Most memory that tensors held on a GPU so far; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
