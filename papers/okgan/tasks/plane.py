"""Distributions in the plane.

Source: Lin et al. 2018 (PacGAN) for ring and grid; the authors' code of June 2020 for the circle
and of October 2020 for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from papers.okgan.metrics.modes import Balance, balance_of_circle, balance_over_modes

Points = npt.NDArray[np.float64]
MixtureName = Literal["ring", "grid", "circle", "uneven_ring", "unit_grid"]
CurveName = Literal["gaussians", "swiss_roll", "two_spirals"]
PlaneName = Literal[
    "ring", "grid", "circle", "uneven_ring", "unit_grid", "gaussians", "swiss_roll", "two_spirals"
]
CIRCLE_RADIUS: Final = 2.0


class Mixture:
    """Modes of equal width, K of them.

    Attributes:
        means: (K, 2).
        deviation: of each mode along each axis.
        sizes: (K,) points of the training set in each mode.
    """

    def __init__(self, means: Points, deviation: float, sizes: npt.NDArray[np.int64]) -> None:
        self.means, self.deviation, self.sizes = means, deviation, sizes

    def draw(self, rng: np.random.Generator) -> Points:
        """The training set (n, 2)."""
        centres = self.means.repeat(self.sizes, axis=0)
        return centres + rng.normal(0, self.deviation, centres.shape)

    def judge(self, samples: Points) -> dict[str, float]:
        """Modes, high quality (%), and reverse divergences of samples (n, 2)."""
        found = balance_over_modes(samples, self.means, self.deviation, self.sizes.astype(float))
        return _metrics(found)


class Circle(Mixture):
    """A ring of 100 modes with a blob of 3 in 103 parts at its centre."""

    def __init__(self) -> None:
        angles = np.arange(100) * (2 * math.pi / 100)
        ring = CIRCLE_RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        sizes = np.array([100] * 100 + [300])
        super().__init__(np.concatenate([ring, np.zeros((1, 2))]), 0.05, sizes)

    def judge(self, samples: Points) -> dict[str, float]:
        share = float(self.sizes[-1] / self.sizes.sum())
        found, captured = balance_of_circle(samples, CIRCLE_RADIUS, self.deviation, share)
        return {**_metrics(found), "centre": float(captured)}


def _metrics(found: Balance) -> dict[str, float]:
    return {
        "modes": float(found.modes),
        "high_quality_pct": 100 * found.high_quality,
        "reverse_kl": found.reverse_kl,
        "reverse_kl_all": found.reverse_kl_all,
    }


def ring(sizes: npt.NDArray[np.int64] | None = None) -> Mixture:
    """Eight modes on the unit circle."""
    angles = np.arange(8) * (math.pi / 4)
    means = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(means, 0.01, np.full(8, 1000) if sizes is None else sizes)


def grid() -> Mixture:
    """Five by five modes, two apart."""
    axis = np.linspace(-4, 4, 5)
    means = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return Mixture(means, 0.05, np.full(25, 400))


def unit_grid() -> Mixture:
    """Five by five modes inside the unit square, as in the authors' notebook of cycles."""
    axis = np.arange(1, 6) / 6
    means = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return Mixture(means, 0.01, np.full(25, 400))


def mixture(name: MixtureName, seed: int) -> Mixture:
    """A mixture. Those of ``uneven_ring`` have sizes between 1 and 5 to 1, drawn by ``seed``."""
    if name == "uneven_ring":
        weights = np.random.default_rng(seed).uniform(1, 5, 8)
        return ring(np.rint(8000 * weights / weights.sum()).astype(np.int64))
    makers = {"ring": ring, "grid": grid, "unit_grid": unit_grid, "circle": Circle}
    return makers[name]()


def draw_curve(name: CurveName, count: int, rng: np.random.Generator) -> Points:
    """Points (count, 2) that are judged by their neighbours, for lack of modes."""
    return CURVES[name](count, rng)


def _gaussians(count: int, rng: np.random.Generator) -> Points:
    """Five modes of other shapes and sizes. Their covariances are ours: a width of 0.5 along a
    direction that turns by 36 degrees from one to the next, and of 0.15 across."""
    means = np.array([(-3.0, 3), (0, 0), (2, 3), (5, 1), (7, 3)])
    weights = np.array([1, 2, 2.5, 1, 1])
    modes = rng.choice(5, count, p=weights / weights.sum())
    angles = np.deg2rad(36.0 * modes)
    along, across = rng.normal(0, 0.5, count), rng.normal(0, 0.15, count)
    cosine, sine = np.cos(angles), np.sin(angles)
    offsets = np.stack([along * cosine - across * sine, along * sine + across * cosine], axis=1)
    points: Points = means[modes] + offsets
    return points


def _swiss_roll(count: int, rng: np.random.Generator) -> Points:
    from sklearn.datasets import make_swiss_roll  # takes seconds, which other sets are spared

    points, _ = make_swiss_roll(count, noise=0.2, random_state=int(rng.integers(2**31)))
    flat: Points = points[:, [0, 2]] / 5
    return flat


def _two_spirals(count: int, rng: np.random.Generator) -> Points:
    """One and a half turns outwards, and the same turned by half."""
    lengths = np.sqrt(rng.random(count)) * 3 * math.pi
    arms = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    points = np.stack([-np.cos(lengths) * lengths, np.sin(lengths) * lengths], axis=1)
    points = arms[:, None] * points / 3 + rng.normal(0, 0.1, (count, 2))
    return points


CURVES: Final[dict[str, Callable[[int, np.random.Generator], Points]]] = {
    "gaussians": _gaussians,
    "swiss_roll": _swiss_roll,
    "two_spirals": _two_spirals,
}
