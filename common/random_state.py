"""States of the generators that all code shares, as plain values that a saved state may hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def global_states(device: torch.device) -> dict[str, Any]:
    """Of the generators of Python, NumPy and torch, a GPU's among them."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_global_states(states: dict[str, Any], device: torch.device) -> None:
    """Inverse of :func:`global_states`."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)
