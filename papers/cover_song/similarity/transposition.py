"""The optimal transposition index: by how many semitones one song is moved to the other's key.

Of global profiles ``g`` (sums of a song's frames) it is ``argmax_k <g_x, roll(g_y, k)>``, the
lowest ``k`` on ties. Source: Serra, Gomez, Herrera 2008, as the scripts of Chang et al. have it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

PITCH_CLASSES: Final = 12
#: Row k gives the places that a roll by +k reads: ``roll(g, k)[c] = g[(c - k) % 12]``.
_ROLLED: Final = (np.arange(PITCH_CLASSES) - np.arange(PITCH_CLASSES)[:, None]) % PITCH_CLASSES


def global_profile(frames: ArrayLike) -> NDArray[np.float64]:
    """Sum over frames, over its maximum: (..., frames, 12) to (..., 12); silence stays zero."""
    total = np.asarray(frames, dtype=np.float64).sum(axis=-2)
    largest = total.max(axis=-1, keepdims=True)
    return total / np.where(largest > 0, largest, 1)  # type: ignore[no-any-return]


def shift_products(profiles_x: ArrayLike, profiles_y: ArrayLike) -> NDArray[np.float64]:
    """``<g_x, roll(g_y, k)>`` of each k: (..., 12) and (..., 12) to (..., 12), broadcast."""
    x, y = (np.asarray(each, dtype=np.float64) for each in (profiles_x, profiles_y))
    for each in (x, y):
        if each.shape[-1:] != (PITCH_CLASSES,):
            raise ValueError(f"profiles {each.shape}: the last axis must hold 12 pitch classes")
    return np.einsum("...c,...kc->...k", x, y[..., _ROLLED])  # type: ignore[no-any-return]


def best_shifts(profiles_x: ArrayLike, profiles_y: ArrayLike, count: int = 1) -> NDArray[np.int64]:
    """The ``count`` best shifts of y to the key of x, the best first; the lower on ties.

    Args:
        profiles_x, profiles_y: (..., 12), broadcast against each other.
        count: 1 to 12.

    Returns:
        (..., count) in semitones, 0 to 11: y's frames are to be rolled by that much, upwards.
    """
    if not 1 <= count <= PITCH_CLASSES:
        raise ValueError(f"count {count}: must be 1 to {PITCH_CLASSES}")
    products = shift_products(profiles_x, profiles_y)
    return np.argsort(-products, axis=-1, kind="stable")[..., :count]


def optimal_transposition(frames_x: ArrayLike, frames_y: ArrayLike) -> int:
    """Semitones by which every frame of y is rolled: (n, 12) and (m, 12) to 0 ... 11."""
    return int(best_shifts(global_profile(frames_x), global_profile(frames_y))[0])


def transposed(frames: NDArray[np.float32], shift: int) -> NDArray[np.float32]:
    """Frames moved up by ``shift`` semitones, along the pitch axis alone: (n, 12) to (n, 12)."""
    return np.roll(frames, shift, axis=-1)
