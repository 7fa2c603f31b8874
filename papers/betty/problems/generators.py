"""States of a program's own random generators, as plain values that a saved state may hold."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def find_generators(holders: Iterable[Any]) -> list[Any]:
    """Generators that are attributes of ``holders``, each once, in their order."""
    values = [value for holder in holders for value in getattr(holder, "__dict__", {}).values()]
    found = [value for value in values if isinstance(value, _KINDS)]
    return list({id(generator): generator for generator in found}.values())


def get_state(generator: Any) -> Any:
    """State of one of the kinds that :func:`find_generators` finds."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _to_plain(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _to_plain(generator.get_state(legacy=False))
    return generator.getstate()


def set_state(generator: Any, state: Any) -> None:
    """Inverse of :func:`get_state`."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = _to_arrays(state)
    elif isinstance(generator, torch.Generator | np.random.RandomState):
        generator.set_state(_to_arrays(state))  # type: ignore[arg-type]
    else:
        generator.setstate(state)


def _to_plain(state: Any) -> Any:
    """Arrays as lists, named as such."""
    if isinstance(state, dict):
        return {key: _to_plain(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": str(state.dtype), "array": state.tolist()}
    return state


def _to_arrays(state: Any) -> Any:
    """Inverse of :func:`_plain`."""
    if not isinstance(state, dict):
        return state
    if set(state) == {"dtype", "array"}:
        return np.array(state["array"], state["dtype"])
    return {key: _to_arrays(value) for key, value in state.items()}
