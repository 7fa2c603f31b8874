"""How a kernel's bandwidth changes over training."""

from __future__ import annotations

from collections.abc import Callable

from common.errors import InputError

#: Step, from 0, -> gamma.
Schedule = Callable[[int], float]


def fixed(gamma: float) -> Schedule:
    """The same at every step."""
    _check(gamma=gamma)
    return lambda step: gamma


def linear(start: float, end: float, steps: int) -> Schedule:
    """From ``start`` to ``end`` in equal steps; ``end`` afterwards."""
    _check(start=start, end=end, steps=steps)
    return lambda step: start + (end - start) * min(step / steps, 1.0)


def exponential(start: float, end: float, steps: int) -> Schedule:
    """From ``start`` to ``end`` in equal ratios; ``end`` afterwards.

    The published one multiplies by ``rho`` after every epoch: ``end = start rho^epochs``.
    """
    _check(start=start, end=end, steps=steps)
    return lambda step: start * (end / start) ** min(step / steps, 1.0)


def _check(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"bandwidth schedule: {name}={value}; allowed: above 0")
