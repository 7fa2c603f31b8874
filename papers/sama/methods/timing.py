"""How long a part of a run took."""

from __future__ import annotations

import time

import torch


class Clock:
    """Seconds inside ``with clock:``, over all of a run that was resumed.

    On a CPU those of this process's processor time, which other programs do not lengthen; on a GPU
    those on the wall, all of its work waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device, self._started = device, 0.0

    def __enter__(self) -> Clock:
        self._started = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += self._now() - self._started

    def _now(self) -> float:
        if self._device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()
