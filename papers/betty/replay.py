"""The last training step once more, with everything but the parameters as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from papers.betty.problems.problem import Problem


class Replay:
    """Random state, and values held constant, of a problem's last step."""

    def __init__(self) -> None:
        self._random: tuple[Tensor, Tensor | None] | None = None
        self._held: dict[str, Tensor] = {}
        self._again = False

    def record(self, problem: Problem) -> None:
        """Remember the random state with which a step begins; forget what the last one held."""
        self._random = _random_state(problem.device)
        self._held = {}

    @contextmanager
    def again(self, problem: Problem) -> Iterator[None]:
        """Random numbers of the recorded step; afterwards generators and buffers are put back."""
        present = _random_state(problem.device)
        buffers = [
            (module, name, buffer)
            for module in problem.modules_with_buffers()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        # Others take their place, rather than being overwritten: a graph may have saved them.
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.clone()
        if self._random is not None:
            _set_random_state(self._random, problem.device)
        self._again = True
        try:
            yield
        finally:
            self._again = False
            _set_random_state(present, problem.device)
            for module, name, buffer in buffers:
                module._buffers[name] = buffer

    def held(self, name: str, value: Tensor) -> Tensor:
        """``value`` of the recorded step: stored there, returned in replays."""
        if self._again:
            return self._held[name]
        self._held[name] = value
        return value


def _random_state(device: torch.device) -> tuple[Tensor, Any]:
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), gpu


def _set_random_state(state: tuple[Tensor, Any], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
