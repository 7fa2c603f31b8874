"""A small seeded random stream for compiled code: xoshiro256++ (Blackman and Vigna, 2019).

Numba's own generator is one global state per thread; a state of our own makes a search a pure
function of its arguments, so that simulations are reproducible and can run side by side.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from papers.pollux_sim import compiled  # noqa: F401  (where compiled code is kept)

State = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_U11, _U17, _U23, _U27 = np.uint64(11), np.uint64(17), np.uint64(23), np.uint64(27)
_U30, _U31, _U32, _U41 = np.uint64(30), np.uint64(31), np.uint64(32), np.uint64(41)
_U45, _U19 = np.uint64(45), np.uint64(19)


@njit(cache=True, error_model="numpy")
def mix(value: np.uint64) -> np.uint64:
    """SplitMix64's finaliser: a 64-bit hash of ``value``."""
    value = value + _GOLDEN
    value = (value ^ (value >> _U30)) * _MIX1
    value = (value ^ (value >> _U27)) * _MIX2
    return value ^ (value >> _U31)


@njit(cache=True, error_model="numpy")
def seeded(seed: int) -> State:
    """The (4,) state of a fresh stream."""
    state = np.empty(4, np.uint64)
    value = np.uint64(seed)
    for index in range(4):
        value = mix(value + np.uint64(index))
        state[index] = value
    return state


@njit(cache=True, error_model="numpy")
def next_bits(state: State) -> np.uint64:
    """64 random bits; advances ``state``."""
    first, second, third, fourth = state[0], state[1], state[2], state[3]
    total = first + fourth
    result: np.uint64 = ((total << _U23) | (total >> _U41)) + first
    third ^= first
    fourth ^= second
    state[1] = second ^ third
    state[0] = first ^ fourth
    state[2] = third ^ (second << _U17)
    state[3] = (fourth << _U45) | (fourth >> _U19)
    return result


@njit(cache=True, error_model="numpy")
def uniform(state: State) -> float:
    """A float64 in [0, 1)."""
    return float(next_bits(state) >> _U11) * (1.0 / 9007199254740992.0)


@njit(cache=True, error_model="numpy")
def below(state: State, bound: int) -> int:
    """An integer in {0, ..., bound - 1}, bound < 2**32 (bias below bound / 2**32)."""
    return int(((next_bits(state) >> _U32) * np.uint64(bound)) >> _U32)


@njit(cache=True, error_model="numpy")
def shuffle(state: State, items: NDArray[np.int64], count: int) -> None:
    """Permute the first ``count`` items in place, uniformly (Fisher and Yates)."""
    for last in range(count - 1, 0, -1):
        other = below(state, last + 1)
        items[last], items[other] = items[other], items[last]
