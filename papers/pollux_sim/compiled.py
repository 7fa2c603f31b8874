"""Numba's decorators for the search, with the flags that it needs and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., object])
compiled = njit(cache=True, error_model="numpy")
# For functions that allocate nothing: compiled without reference counting. Numba would count each
# array again at every access through a tuple, atomically, which took two thirds of the time.
lean: Callable[[_Function], _Function] = njit(  # type: ignore[call-overload]
    cache=True, error_model="numpy", _nrt=False
)
