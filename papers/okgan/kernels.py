"""Kernels, and sums of their values over key points with closed-form gradients.

A kernel reads the squared distance ``D = |x - y|^2``, the inner product ``s = x'y``, or both, so
that sums over key points and their gradients are matrix products of (n, M) tables. Source of the
list: the authors' code of June 2020.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.errors import InputError

#: Exponents are cut here: exp(-80) is still a normal number in single precision, and denormal ones
#: slow a processor several times.
LARGEST_EXPONENT = 80.0
#: Entries of a table of kernel values that are held at a time.
TABLE = 2**25


class Profile(NamedTuple):
    """A kernel's values, and their derivatives by D and by s; None where it does not read that."""

    value: Tensor
    by_distance: Tensor | None = None
    by_inner: Tensor | None = None


class Kernel(abc.ABC):
    """A positive definite function of two points."""

    reads_distance = True
    reads_inner = False

    @abc.abstractmethod
    def profile(self, distance: Tensor, inner: Tensor, slopes: bool) -> Profile:
        """Values, and with ``slopes`` derivatives.

        Args:
            distance, inner: D and s of the same shape; the one that is not read may hold anything.
        """

    def gram(self, x: Tensor, keys: Tensor) -> Tensor:
        """(n, d), (M, d) -> (n, M) kernel values; differentiable by autograd."""
        return self._table(x, keys, slopes=False).value

    def _table(self, x: Tensor, keys: Tensor, slopes: bool) -> Profile:
        if not self.reads_distance:
            inner = x @ keys.T
            return self.profile(inner, inner, slopes)
        squares = x.square().sum(1, keepdim=True), keys.square().sum(1, keepdim=True)
        if not self.reads_inner:
            # |x|^2 + |y|^2 - 2 x'y as one product, without another pass over the table.
            left = torch.cat([x * -2, squares[0], torch.ones_like(squares[0])], dim=1)
            right = torch.cat([keys, torch.ones_like(squares[1]), squares[1]], dim=1)
            distance = (left @ right.T).clamp_min_(0)
            return self.profile(distance, distance, slopes)
        inner = x @ keys.T
        distance = squares[0] + squares[1].T - 2 * inner
        return self.profile(distance.clamp_min_(0), inner, slopes)


@dataclass(frozen=True)
class Gaussian(Kernel):
    """``exp(-gamma D)``, ``gamma = 1 / (2 sigma^2)``."""

    gamma: float

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)

    def profile(self, distance: Tensor, inner: Tensor, slopes: bool) -> Profile:
        value = (distance * -self.gamma).clamp_min_(-LARGEST_EXPONENT).exp_()
        return Profile(value, value * -self.gamma if slopes else None)


@dataclass(frozen=True)
class MixedGaussian(Kernel):
    """``sum_j exp(-gamma_j D)``, a plain sum."""

    gammas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.gammas:
            raise InputError("kernel: gammas=(); allowed: one or more")
        for gamma in self.gammas:
            _check_positive("gamma", gamma)

    @classmethod
    def of_widths(cls, sigmas: Sequence[float]) -> MixedGaussian:
        """By standard deviations instead: ``gamma_j = 1 / (2 sigma_j^2)``."""
        for sigma in sigmas:
            _check_positive("sigma", sigma)
        return cls(tuple(0.5 / sigma**2 for sigma in sigmas))

    def profile(self, distance: Tensor, inner: Tensor, slopes: bool) -> Profile:
        parts = [Gaussian(gamma).profile(distance, inner, slopes) for gamma in self.gammas]
        return _summed(parts)


@dataclass(frozen=True)
class Linear(Kernel):
    """``s``."""

    reads_distance = False
    reads_inner = True

    def profile(self, distance: Tensor, inner: Tensor, slopes: bool) -> Profile:
        return Profile(inner, None, torch.ones_like(inner) if slopes else None)


@dataclass(frozen=True)
class Polynomial(Kernel):
    """``(gamma s + shift)^degree``."""

    gamma: float
    degree: int = 3
    shift: float = 0.0

    reads_distance = False
    reads_inner = True

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)
        if self.degree < 1 or not 0 <= self.shift < math.inf:
            raise InputError(
                f"kernel: degree={self.degree}, shift={self.shift}; allowed: 1 or more, 0 or more"
            )

    def profile(self, distance: Tensor, inner: Tensor, slopes: bool) -> Profile:
        base = inner * self.gamma + self.shift
        below = base ** (self.degree - 1)
        return Profile(below * base, None, below * (self.degree * self.gamma) if slopes else None)


@dataclass(frozen=True)
class RationalQuadratic(Kernel):
    """``(1 + D / (2a))^-a``."""

    a: float = 0.5

    def __post_init__(self) -> None:
        _check_positive("a", self.a)

    def profile(self, distance: Tensor, inner: Tensor, slopes: bool) -> Profile:
        base = 1 + distance / (2 * self.a)
        value = base**-self.a
        return Profile(value, value / base * -0.5 if slopes else None)


@dataclass(frozen=True)
class MixedRationalQuadratic(Kernel):
    """``sum_j (1 + D / (2 a_j))^-a_j``, plus ``s`` where ``linear``."""

    scales: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0)
    linear: bool = True

    reads_inner = True

    def __post_init__(self) -> None:
        for a in self.scales:
            _check_positive("a", a)

    def profile(self, distance: Tensor, inner: Tensor, slopes: bool) -> Profile:
        parts = [RationalQuadratic(a).profile(distance, inner, slopes) for a in self.scales]
        if self.linear:
            parts.append(Linear().profile(distance, inner, slopes))
        return _summed(parts)


def expand(kernel: Kernel, x: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    """``f(x) = sum_i weights_i k(x, keys_i)`` with closed-form gradients by ``x`` and ``keys``.

    Of ``weights``, which a discriminator learns by its own rule, there is no gradient, nor are
    there second derivatives. A table of kernel values larger than :data:`TABLE` is made in parts.

    Args:
        x: (n, d).
        keys: (M, d).
        weights: (M,).

    Returns:
        (n,).
    """
    found: Tensor = _Expansion.apply(kernel, x, keys, weights.detach())  # type: ignore[no-untyped-call]
    return found


class _Expansion(torch.autograd.Function):
    """The sum; with ``w = weights``, a = dk/dD, c = dk/ds:

    ``df/dx = 2 [(a w) x - a (w keys)] + c (w keys)`` and, for a gradient g of f,
    ``g df/dkeys_i = w_i {2 [(a'g)_i keys_i - (a'(g x))_i] + (c'(g x))_i}``.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, x: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        _, by_x, by_keys, _ = ctx.needs_input_grad
        values, gradients = [], []
        ctx.kernel, ctx.by_keys = kernel, by_keys
        weighted = weights[:, None] * keys
        for part in torch.split(x, _rows_at_once(len(keys))):
            profile = kernel._table(part, keys, slopes=by_x)
            values.append(profile.value @ weights)
            if by_x:
                gradients.append(_pulled(profile, part, weights, weighted))
        slope = torch.cat(gradients) if by_x else x.new_empty(0)
        ctx.save_for_backward(slope, *((x, keys, weights) if by_keys else ()))
        return torch.cat(values)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        slope, *rest = ctx.saved_tensors
        by_x = grad[:, None] * slope if ctx.needs_input_grad[1] else None
        if not ctx.by_keys:
            return None, by_x, None, None
        x, keys, weights = rest
        by_keys = torch.zeros_like(keys)
        rows = _rows_at_once(len(keys))
        for part, given in zip(torch.split(x, rows), torch.split(grad, rows), strict=True):
            profile = ctx.kernel._table(part, keys, slopes=True)
            by_keys += _pulled(_transposed(profile), keys, given, given[:, None] * part)
        return None, by_x, weights[:, None] * by_keys, None


def _pulled(profile: Profile, x: Tensor, weights: Tensor, weighted: Tensor) -> Tensor:
    """``sum_i weights_i dk(x, keys_i)/dx`` (n, d); ``weighted`` are ``weights_i keys_i``."""
    parts = []
    if profile.by_distance is not None:
        # One product: the last column is what multiplies x.
        both = profile.by_distance @ torch.cat([weighted, weights[:, None]], dim=1)
        parts.append(2 * (both[:, -1:] * x - both[:, :-1]))
    if profile.by_inner is not None:
        parts.append(profile.by_inner @ weighted)
    return sum(parts[1:], start=parts[0])


def _transposed(profile: Profile) -> Profile:
    return Profile(*(None if part is None else part.T for part in profile))  # type: ignore[arg-type]


def _rows_at_once(keys: int) -> int:
    return max(1, TABLE // max(1, keys))


def _summed(parts: Sequence[Profile]) -> Profile:
    columns = []
    for column in zip(*parts, strict=True):
        given = [part for part in column if part is not None]
        total = given[0] if given else None
        for part in given[1:]:
            assert total is not None
            total = total + part
        columns.append(total)
    return Profile(*columns)  # type: ignore[arg-type]


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"kernel: {name}={value}; allowed: finite, above 0")
