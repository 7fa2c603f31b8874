"""A training that went astray: what raises, and how batches are checked before they are learned."""

from __future__ import annotations

from torch import Tensor

from common.errors import InputError


class DivergedError(InputError):
    """A loss or a generated point is not finite; what came before may still be of use."""


def check_shapes(what: str, real: Tensor, fake: Tensor) -> None:
    """Raise InputError unless there are real and generated points, of one shape."""
    if not len(real) or not len(fake):
        raise InputError(
            f"{what}: {len(real)} real points, {len(fake)} generated ones; allowed: one or more"
        )
    if real.shape[1:] != fake.shape[1:]:
        raise InputError(
            f"{what}: real points of shape {tuple(real.shape[1:])}, generated ones of"
            f" {tuple(fake.shape[1:])}; allowed: one shape"
        )


def check_finite(what: str, real: Tensor, fake: Tensor) -> None:
    """Raise InputError for real points, DivergedError for generated ones, of no finite length."""
    if not bool(real.square().sum().isfinite()):
        raise InputError(f"{what}: real points are not finite, or too large to be squared")
    if not bool(fake.square().sum().isfinite()):
        raise DivergedError(f"{what}: generated points are not finite, or too large to be squared")
