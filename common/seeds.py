"""Where the randomness of a run starts: one number seeds every generator."""

from __future__ import annotations

import random

import numpy as np


def private_generator(seed: int) -> np.random.Generator:
    """A generator that nothing else draws from."""
    return np.random.default_rng(seed)


def seed_python(seed: int) -> None:
    """Seed Python's and NumPy's global generators; torch is seeded by :mod:`common.training`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
