"""A training that went astray: what raises, and what a record says of it."""

from __future__ import annotations

from common.errors import InputError


class DivergedError(InputError):
    """A loss or a generated point is not finite; what came before may still be of use."""
