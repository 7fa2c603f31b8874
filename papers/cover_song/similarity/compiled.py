"""Numba's decorators for the alignment kernel, and where compiled code is kept.

Modules with ``cache=True`` import this one before they compile.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

from numba import config, njit


def _cache_of_this_process() -> TemporaryDirectory[str] | None:
    """A folder for compiled code that ends with this process, where Numba has no place of its own.

    In a read-only checkout without a writable home decorating with ``cache=True`` raises.
    """
    try:
        njit(cache=True)(_cache_of_this_process)  # looks for the folder, compiles nothing
    except RuntimeError:
        folder = TemporaryDirectory(prefix="numba-")
        config.CACHE_DIR = folder.name  # type: ignore[attr-defined]
        return folder
    return None


_cache = _cache_of_this_process()
#: Products and sums may become one instruction; nothing else of the arithmetic changes.
compiled = njit(cache=True, error_model="numpy", fastmath={"contract"}, nogil=True)
