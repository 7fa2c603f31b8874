"""The last training step once more, with everything but the parameters as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Steps between looks at whether a cost draws from Python's or NumPy's generators: reading their
#: states takes 0.1 ms, as much as a small network's layer.
STEPS_BETWEEN_GENERATOR_LOOKS = 50


class MicroBatch:
    """What the cost on a batch was computed from, beside parameters.

    Attributes:
        batch: as ``training_step`` got it.
        random: states of torch's generators before it.
        others: of Python's and NumPy's; None where the cost does not draw from them.
        held: values that are constants in replays, by name.
    """

    def __init__(self, batch: Any, device: torch.device) -> None:
        self.batch = batch
        self.random = _random_state(device)
        self.others: tuple[Any, Any] | None = None
        self.held: dict[str, Tensor] = {}


class Replay:
    """Batches, random states, and values held constant, of a problem's last optimiser step.

    The random numbers are those of torch, and of Python's and NumPy's global generators. Whether a
    cost draws from the latter is looked at in the first step and in every 50th, and once it has
    they are replayed from then on. Of a generator that a program keeps itself it can hold the draw.
    """

    def __init__(self) -> None:
        self.micro_batches: list[MicroBatch] = []
        self._present: MicroBatch | None = None
        self._again = False
        self._steps, self._draws = 0, False

    @contextmanager
    def recorded(self, batch: Any, device: torch.device, first: bool) -> Iterator[None]:
        """Remember with what the cost on ``batch`` is computed inside.

        Args:
            first: of the micro-batches of an optimiser step; those of the last one are forgotten.
        """
        if first:
            self.micro_batches = []
        self._present = MicroBatch(batch, device)
        self.micro_batches.append(self._present)
        look = self._draws or self._steps % STEPS_BETWEEN_GENERATOR_LOOKS == 0
        self._steps += 1
        before = _other_states() if look else None
        try:
            yield
            if before is not None:
                self._draws = self._draws or not _same(before, _other_states())
                self._present.others = before if self._draws else None
        finally:
            self._present = None

    @contextmanager
    def again(
        self, recorded: MicroBatch, device: torch.device, buffered: Sequence[nn.Module]
    ) -> Iterator[None]:
        """Random numbers of a recorded batch; afterwards generators and buffers are put back.

        Args:
            buffered: modules whose buffers the cost may change.
        """
        present = _random_state(device)
        others = None if recorded.others is None else _other_states()
        buffers = [
            (module, name, buffer)
            for module in buffered
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        # Others take their place, rather than being overwritten: a graph may have saved them.
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.clone()
        _set_random_state(recorded.random, device)
        _set_other_states(recorded.others)
        self._present, self._again = recorded, True
        try:
            yield
        finally:
            self._present, self._again = None, False
            _set_random_state(present, device)
            _set_other_states(others)
            for module, name, buffer in buffers:
                module._buffers[name] = buffer

    def held(self, name: str, value: Tensor) -> Tensor:
        """``value`` of the recorded batch: stored there, returned in replays."""
        if self._present is None:  # another problem asks for this cost, or nobody differentiates it
            return value
        if self._again:
            return self._present.held[name]
        self._present.held[name] = value
        return value

    def state_dict(self) -> dict[str, Any]:
        """When it looks at Python's and NumPy's generators; between loops nothing else counts."""
        return {"steps": self._steps, "draws": self._draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._steps, self._draws = int(state["steps"]), bool(state["draws"])
        self.micro_batches = []


def _random_state(device: torch.device) -> tuple[Tensor, Any]:
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), gpu


def _set_random_state(state: tuple[Tensor, Any], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def _other_states() -> tuple[Any, Any]:
    """States of the global generators of Python and NumPy."""
    return random.getstate(), np.random.get_state()


def _set_other_states(states: tuple[Any, Any] | None) -> None:
    if states is not None:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _same(a: tuple[Any, Any], b: tuple[Any, Any]) -> bool:
    parts = zip(a[1], b[1], strict=True)
    return a[0] == b[0] and all(np.array_equal(mine, other) for mine, other in parts)
