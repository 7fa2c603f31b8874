"""Generators and discriminators of points in the plane."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def plane_generator(
    width: int, layers: int, noise: int = 2, normalised: bool = True
) -> nn.Sequential:
    """Noise (n, ``noise``) -> points (n, 2): layers with batch normalisation and ReLU.

    Without ``normalised`` they have leaky ReLU of slope 0.1, as in the authors' notebook of cycles.
    PacGAN's has four of 400 (Lin et al. 2018).
    """
    parts: list[nn.Module] = []
    for before, after in pairwise([noise, *[width] * layers]):
        if normalised:
            parts += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        else:
            parts += [nn.Linear(before, after), nn.LeakyReLU(0.1)]
    return nn.Sequential(*parts, nn.Linear(width, 2))


def plane_discriminator(
    width: int, layers: int, points: int = 1, slope: float = 0.2
) -> nn.Sequential:
    """(n, 2 ``points``) -> (n, 1): layers with leaky ReLU of ``slope``."""
    parts: list[nn.Module] = []
    for before, after in pairwise([2 * points, *[width] * layers]):
        parts += [nn.Linear(before, after), nn.LeakyReLU(slope)]
    return nn.Sequential(*parts, nn.Linear(width, 1))
