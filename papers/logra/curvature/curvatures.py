"""Damped inverses of one layer's block of H, a second moment of gradients.

A block of H is factorised once, in float64. Every damping is then a matter of adding a number to
eigenvalues, and no call changes what another one gets. Where eigenvectors would take too long, the
rows that H is the moment of do the same if they are few, else the inverse of one damping at a time.

Products are in the gradients' type as long as rounding of its size, which gradients have anyway,
stays small in them: damping bounds how much H^-1 magnifies it. Else they are in float64.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.errors import InputError
from papers.logra.curvature.product_sums import RowMoment

#: Default damping over the mean eigenvalue of a layer's H (Choe et al. 2024, appendix C; Grosse et
#: al. 2023).
RELATIVE_DAMPING = 0.1
#: The largest relative error, about, that rounding makes in products that are not in float64.
ROUNDING = 3e-4
#: Columns of rows that are in float64 at once.
COLUMNS = 512


class Damping(NamedTuple):
    """What is added to eigenvalues of H: a number, or one relative to each layer's mean."""

    value: float = RELATIVE_DAMPING
    relative: bool = True

    @classmethod
    def of(cls, damping: float | None, relative_damping: float | None) -> Damping:
        """What one of two options says, or the default. Raises InputError on both, or below 0."""
        if damping is not None and relative_damping is not None:
            raise InputError(
                f"damping={damping} and relative_damping={relative_damping}; allowed: one of them"
            )
        if damping is not None:
            chosen = cls(float(damping), relative=False)
        elif relative_damping is not None:
            chosen = cls(float(relative_damping), relative=True)
        else:
            return cls()
        if not (math.isfinite(chosen.value) and chosen.value >= 0):
            name = "relative_damping" if chosen.relative else "damping"
            raise InputError(f"{name}={chosen.value}; allowed: a finite number, at least 0")
        return chosen

    def added(self, mean_eigenvalue: float) -> float:
        """The number itself, for a layer."""
        return self.value * mean_eigenvalue if self.relative else self.value


class Curvature(ABC):
    """One layer's block of H, of gradients (n, width) of that layer."""

    name: str
    mean_eigenvalue: float
    #: Bounds of the eigenvalues.
    smallest: float
    largest: float

    @abstractmethod
    def solve(self, gradients: Tensor, damping: float) -> Tensor:
        """(H + damping I)^-1 g, (n, width)."""

    @abstractmethod
    def whiten(self, gradients: Tensor, damping: float) -> Tensor:
        """(n, width) whose products are g^T (H + damping I)^-1 g'."""

    @abstractmethod
    def effective_dimension(self, damping: float) -> float:
        """sum_i lambda_i / (lambda_i + damping)."""

    @abstractmethod
    def factors(self) -> tuple[Tensor, ...]:
        """All that it is made of."""

    def _product_type(self, gradients: Tensor, damping: float) -> torch.dtype:
        """The type of products with gradients: theirs, at least float32, or float64."""
        kind = torch.promote_types(gradients.dtype, torch.float32)
        exact = torch.finfo(kind).eps * (self.largest + damping)
        return kind if exact <= ROUNDING * (self.smallest + damping) else torch.float64

    def _require_regular(self, damping: float) -> None:
        """Raises InputError where H + damping I is singular, by its eigenvalues."""
        exact = torch.finfo(torch.float64).eps * (self.largest + damping)
        if self.smallest + damping <= exact:
            raise self._singular(damping)

    def _singular(self, damping: float) -> InputError:
        return InputError(
            f"layer {self.name}: damping {damping:g} leaves H singular to float64; allowed: more "
            f"(the mean eigenvalue is {self.mean_eigenvalue:g})"
        )


class Spectral(Curvature):
    """A block by its eigenvalues (width,) and a rotation into its eigenvectors.

    Args:
        bases: eigenvectors, as the rotation has them, in float64.
    """

    def __init__(self, name: str, eigenvalues: Tensor, *bases: Tensor) -> None:
        # Rounding makes eigenvalues of a second moment a little less than 0.
        self.name, self.eigenvalues = name, eigenvalues.clamp_min(0)
        values = self.eigenvalues if len(eigenvalues) else eigenvalues.new_zeros(1)
        self.mean_eigenvalue = float(values.mean())
        self.smallest, self.largest = float(values.min()), float(values.max())
        self._bases = {torch.float64: bases}

    @abstractmethod
    def rotate(self, gradients: Tensor) -> Tensor:
        """Coordinates along eigenvectors, in the gradients' type."""

    @abstractmethod
    def rotate_back(self, coordinates: Tensor) -> Tensor:
        """Inverse of :meth:`rotate`."""

    def solve(self, gradients: Tensor, damping: float) -> Tensor:
        kind = self._product_type(gradients, damping)
        return self.rotate_back(self.rotate(gradients.to(kind)) / self._damped(damping, kind))

    def whiten(self, gradients: Tensor, damping: float) -> Tensor:
        kind = self._product_type(gradients, damping)
        return self.rotate(gradients.to(kind)) / self._damped(damping, kind).sqrt()

    def effective_dimension(self, damping: float) -> float:
        self._require_regular(damping)
        return float((self.eigenvalues / (self.eigenvalues + damping)).sum())

    def factors(self) -> tuple[Tensor, ...]:
        return (self.eigenvalues, *self._bases[torch.float64])

    def bases(self, like: Tensor) -> tuple[Tensor, ...]:
        """Eigenvectors in a tensor's type."""
        if like.dtype not in self._bases:
            self._bases[like.dtype] = tuple(b.to(like.dtype) for b in self._bases[torch.float64])
        return self._bases[like.dtype]

    def _damped(self, damping: float, kind: torch.dtype) -> Tensor:
        self._require_regular(damping)
        return (self.eigenvalues + damping).to(kind)


class DenseSpectral(Spectral):
    """A symmetric matrix (width, width)."""

    def __init__(self, name: str, matrix: Tensor) -> None:
        super().__init__(name, *torch.linalg.eigh(matrix))

    def rotate(self, gradients: Tensor) -> Tensor:
        return torch.mm(gradients, self.bases(gradients)[0])

    def rotate_back(self, coordinates: Tensor) -> Tensor:
        return torch.mm(coordinates, self.bases(coordinates)[0].mT)


class LowRankSpectral(DenseSpectral):
    """``R^T R / n`` of fewer rows R (n, width) than numbers: the eigenvectors of values above 0.

    They are ``R^T u / sqrt(n s)`` of eigenpairs (s, u) of ``R R^T / n``, so that no matrix is made
    of the width on both sides. All other directions have the eigenvalue 0.
    """

    def __init__(self, name: str, moment: RowMoment) -> None:
        rows, number = moment
        gram = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
        for part in torch.split(rows, COLUMNS, 1):  # no copy of all rows in float64
            exact = part.double()
            gram.addmm_(exact, exact.mT)
        values, vectors = torch.linalg.eigh(gram.div_(number))
        # Rounding leaves nothing of directions with less.
        kept = values > torch.finfo(torch.float64).eps * len(rows) * values.sum()
        weights = vectors[:, kept] / (number * values[kept]).sqrt()
        basis = rows.new_empty(rows.shape[1], weights.shape[1], dtype=torch.float64)
        for target, part in zip(
            torch.split(basis, COLUMNS), torch.split(rows, COLUMNS, 1), strict=True
        ):
            torch.mm(part.double().mT, weights, out=target)
        Spectral.__init__(self, name, values[kept], basis)
        self.mean_eigenvalue = float(values[kept].sum()) / rows.shape[1]
        self.smallest = 0.0

    def solve(self, gradients: Tensor, damping: float) -> Tensor:
        self._require_regular(damping)
        return self._scaled(gradients, damping, lambda value: 1 / value)

    def whiten(self, gradients: Tensor, damping: float) -> Tensor:
        """The symmetric root: unlike coordinates it is as wide as gradients."""
        self._require_regular(damping)
        return self._scaled(gradients, damping, lambda value: value**-0.5)

    def _scaled(self, gradients: Tensor, damping: float, scale: Callable[[Any], Any]) -> Tensor:
        """Gradients with each direction times a function of its damped eigenvalue."""
        gradients = gradients.to(self._product_type(gradients, damping))
        (basis,), rest = self.bases(gradients), scale(damping)
        beyond = (scale(self.eigenvalues + damping) - rest).to(gradients)
        return torch.addmm(gradients, torch.mm(gradients, basis) * beyond, basis.mT, beta=rest)


class KroneckerSpectral(Spectral):
    """Eigenvectors q_out (x) q_inner, with an eigenvalue (out, inner) for each pair."""

    def __init__(self, name: str, outer: Tensor, inner: Tensor, eigenvalues: Tensor) -> None:
        super().__init__(name, eigenvalues.flatten(), outer, inner)

    def rotate(self, gradients: Tensor) -> Tensor:
        outer, inner = self.bases(gradients)
        return (outer.mT @ _matrices(gradients, outer, inner) @ inner).flatten(1)

    def rotate_back(self, coordinates: Tensor) -> Tensor:
        outer, inner = self.bases(coordinates)
        return (outer @ _matrices(coordinates, outer, inner) @ inner.mT).flatten(1)


class DenseCholesky(Curvature):
    """A symmetric matrix too wide for eigenvectors; the factor of the last damping is kept.

    Args:
        held: what the matrix is made of.
        matrix: makes it anew, for it is in the way once it is inverted.
    """

    def __init__(self, name: str, held: Tensor, matrix: Callable[[], Tensor]) -> None:
        self.name, self._held, self._matrix = name, held, matrix
        whole = matrix()
        self.mean_eigenvalue = float(whole.diagonal().mean())
        # The length of all eigenvalues bounds each of them.
        self.smallest, self.largest = 0.0, float(torch.linalg.vector_norm(whole))
        self._last: tuple[object, Tensor] | None = None

    def solve(self, gradients: Tensor, damping: float) -> Tensor:
        kind = self._product_type(gradients, damping)
        if kind == torch.float64:
            factor = self._kept("factor", damping, kind)
            return torch.cholesky_solve(gradients.mT.to(kind), factor).mT
        # One product with the inverse is faster than two solves with triangles.
        return torch.mm(gradients.to(kind), self._kept("inverse", damping, kind))

    def whiten(self, gradients: Tensor, damping: float) -> Tensor:
        kind = self._product_type(gradients, damping)
        factor, rows = self._kept("factor", damping, kind), gradients.to(kind)
        white: Tensor = torch.linalg.solve_triangular(factor, rows.mT, upper=False)
        return white.mT

    def effective_dimension(self, damping: float) -> float:
        inverse = self._kept("inverse", damping, torch.float64)
        return len(inverse) - damping * float(inverse.diagonal().sum())

    def factors(self) -> tuple[Tensor, ...]:
        return (self._held,)

    def _kept(self, what: str, damping: float, kind: torch.dtype) -> Tensor:
        """A factor or an inverse, computed in float64: the last that was asked for is kept."""
        if self._last is None or self._last[0] != (what, damping, kind):
            self._last = None  # two at once would be one too many for the memory
            # Column after column, as LAPACK has it: so all is done in place.
            found = self._matrix().mT
            found.diagonal().add_(damping)
            failed = found.new_empty((), dtype=torch.int32)
            torch.linalg.cholesky_ex(found, out=(found, failed))
            if failed:
                raise self._singular(damping)
            if what == "inverse":
                torch.cholesky_inverse(found, out=found)
            self._last = ((what, damping, kind), found.to(kind))
        return self._last[1]


def _matrices(flat: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    return torch.unflatten(flat, 1, (len(outer), len(inner)))
