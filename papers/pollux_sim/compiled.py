"""Numba's decorators for the search, with the flags that it needs and why, and where code is kept.

Modules that keep compiled code (``cache=True``) import this one before they compile.
"""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import TypeVar

from numba import config, njit


def _temporary_cache() -> TemporaryDirectory[str] | None:
    """Give Numba a folder for compiled code that goes with this process, if it finds no other.

    It keeps code beside the source, or in the user's cache. In a read-only checkout without a
    writable home, decorating a function with ``cache=True`` would raise RuntimeError.
    """
    try:
        # To decorate is to look for the folder; nothing is compiled.
        njit(cache=True)(_temporary_cache)
    except RuntimeError:
        folder = TemporaryDirectory(prefix="numba-")
        config.CACHE_DIR = folder.name  # type: ignore[attr-defined]
        return folder
    return None


_cache = _temporary_cache()
_Function = TypeVar("_Function", bound=Callable[..., object])
compiled = njit(cache=True, error_model="numpy")
# For functions that allocate nothing: compiled without reference counting. Numba would count each
# array again at every access through a tuple, atomically, which took two thirds of the time.
lean: Callable[[_Function], _Function] = njit(  # type: ignore[call-overload]
    cache=True, error_model="numpy", _nrt=False
)
