"""Second moments of gradients, block-diagonal over layers, and their damped inverses.

A block of H is factorised once, in float64. Every damping is then a matter of adding a number to
eigenvalues, and no call changes what another one gets. Where eigenvectors would take too long, the
rows that H is the moment of do the same if they are few, else the inverse of one damping at a time.

Products are in the gradients' type as long as rounding of its size, which gradients have anyway,
stays small in them: damping bounds how much H^-1 magnifies it. Else they are in float64.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.errors import InputError
from papers.logra.curvature.layout import Block, Layout
from papers.logra.curvature.product_sums import PackedMoment, RowMoment

#: Of the mean eigenvalue of a layer's H (Choe et al. 2024, appendix C; Grosse et al. 2023).
RELATIVE_DAMPING = 0.1
#: Widest block whose eigenvectors are computed; wider ones are solved by Cholesky factors.
WIDEST_EIGENBASIS = 2048
#: About the largest relative error, by rounding, of products that are not in float64.
ROUNDING = 3e-4
#: Columns of rows that are in float64 at once.
COLUMNS = 512


class Damping(NamedTuple):
    """What is added to eigenvalues of H: a number, or one relative to each layer's mean."""

    value: float = RELATIVE_DAMPING
    relative: bool = True

    @classmethod
    def of(cls, damping: float | None, relative_damping: float | None) -> Damping:
        """Of one of two options, or the default. Raises InputError on both, or below 0."""
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
        """Of products with gradients: theirs, at least float32, or float64."""
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


class OfRows(DenseSpectral):
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


class DenseByCholesky(Curvature):
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


class Hessian:
    """Blocks of H for the layers of a layout.

    Args:
        layout: of the gradients.
        curvatures: of each layer of it.
    """

    def __init__(self, layout: Layout, curvatures: Mapping[str, Curvature]) -> None:
        self.layout, self.curvatures = layout, dict(curvatures)

    def precondition(self, gradients: Tensor, damping: Damping | None = None) -> Tensor:
        """(H + lambda I)^-1 g.

        Args:
            gradients: (n, width) rows.
            damping: lambda; by default 0.1 of each layer's mean eigenvalue.

        Returns:
            (n, width), of the gradients' type and on their device. A layer whose H is zero, as no
            training sample has a gradient there, gives zero under relative damping.

        Raises:
            InputError: rows of another width, or H + lambda I is singular.
        """
        return self._by_layer(gradients, damping, lambda block: block.solve)

    def whiten(self, gradients: Tensor, damping: Damping | None = None) -> Tensor:
        """(n, width) whose products are g^T (H + lambda I)^-1 g', as :meth:`precondition`."""
        return self._by_layer(gradients, damping, lambda block: block.whiten)

    def damping_of(self, layer: str, damping: Damping | None = None) -> float:
        """lambda of one layer."""
        return (damping or Damping()).added(self.curvatures[layer].mean_eigenvalue)

    def effective_dimension(self, damping: Damping | None = None) -> dict[str, float]:
        """{layer: sum_i lambda_i / (lambda_i + lambda)}, directions that damping leaves."""
        return {
            name: curvature.effective_dimension(self.damping_of(name, damping))
            for name, curvature in self.curvatures.items()
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all factors."""
        whole = hashlib.sha256(f"{type(self).__name__} {self.layout.digest}".encode())
        for curvature in self.curvatures.values():
            for factor in curvature.factors():
                whole.update(factor.cpu().contiguous().numpy().data)
        return whole.hexdigest()

    @torch.no_grad()
    def _by_layer(
        self,
        gradients: Tensor,
        damping: Damping | None,
        product: Callable[[Curvature], Callable[[Tensor, float], Tensor]],
    ) -> Tensor:
        if gradients.shape[1:] != (self.layout.width,):
            raise InputError(
                f"gradients of shape {tuple(gradients.shape)}; allowed: (n, {self.layout.width})"
            )
        result = torch.zeros_like(gradients)
        for name, curvature in self.curvatures.items():
            added = self.damping_of(name, damping)
            if added == 0 == curvature.mean_eigenvalue and (damping or Damping()).relative:
                continue
            columns = self.layout.slices[name]
            place = curvature.factors()[-1].device
            part = product(curvature)(gradients[:, columns].to(place), added)
            result[:, columns] = part.to(gradients)
        return result


class Identity(Hessian):
    """H = I and no damping: influence is the product of gradients."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, {})

    def precondition(self, gradients: Tensor, damping: Damping | None = None) -> Tensor:
        return gradients

    def whiten(self, gradients: Tensor, damping: Damping | None = None) -> Tensor:
        return gradients


class Raw(Hessian):
    """The whole second moment of each layer's gradients, as LoGra uses it.

    Args:
        layout: of the gradients.
        moments: {layer: (width, width)}, uncentred and divided by their number, or what
            they are made of.
        device: of factors and products; by default that of the moments.
        widest_eigenbasis: wider blocks are solved by Cholesky factors.

    Raises:
        InputError: a moment is missing, of another shape or not finite.
    """

    def __init__(
        self,
        layout: Layout,
        moments: Mapping[str, Tensor | RowMoment | PackedMoment],
        *,
        device: torch.device | str | None = None,
        widest_eigenbasis: int = WIDEST_EIGENBASIS,
    ) -> None:
        def curvature(block: Block) -> Curvature:
            what, given = "gradients' second moment", moments.get(block.name)
            shape = (block.width, block.width)
            if isinstance(given, RowMoment):
                rows = _checked(given.rows, what, block, (len(given.rows), block.width), device)
                return OfRows(block.name, given._replace(rows=rows))
            if isinstance(given, PackedMoment):
                packed = given._replace(packed=given.packed.to(device))

                def made() -> Tensor:
                    return _checked(packed.matrix(), what, block, shape, device).double()

                return DenseByCholesky(block.name, packed.packed, made)
            moment = _moment(moments, what, block, shape, device)
            if block.width > widest_eigenbasis:
                return DenseByCholesky(block.name, moment, moment.clone)
            return DenseSpectral(block.name, moment)

        super().__init__(layout, {block.name: curvature(block) for block in layout.blocks})


class Kronecker(Hessian):
    """KFAC: C_backward (x) C_forward.

    Args:
        layout: of the gradients.
        forward: {layer: (inner, inner)} second moments of inputs.
        backward: {layer: (out, out)} second moments of outputs' gradients.
        device: as of :class:`Raw`.

    Raises:
        InputError: as :class:`Raw`.
    """

    def __init__(
        self,
        layout: Layout,
        forward: Mapping[str, Tensor],
        backward: Mapping[str, Tensor],
        *,
        device: torch.device | str | None = None,
    ) -> None:
        def curvature(block: Block) -> Curvature:
            square = (block.inner, block.inner)
            inputs = _moment(forward, "inputs' second moment", block, square, device)
            square = (block.out, block.out)
            outputs = _moment(backward, "output gradients' second moment", block, square, device)
            inner_values, inner = torch.linalg.eigh(inputs)
            outer_values, outer = torch.linalg.eigh(outputs)
            # Before the product: two values a little below 0 would make one above it.
            values = torch.outer(outer_values.clamp_min(0), inner_values.clamp_min(0))
            return KroneckerSpectral(block.name, outer, inner, values)

        super().__init__(layout, {block.name: curvature(block) for block in layout.blocks})


class EigenvalueCorrected(Hessian):
    """EKFAC: KFAC's eigenvectors with the second moments of gradients along them.

    Args:
        layout: of the gradients.
        eigenvectors: {layer: (of inputs (inner, inner), of output gradients (out, out))}, columns:
            the ones that ``eigenvalues`` are of.
        eigenvalues: {layer: (out, inner)}.
        device: as of :class:`Raw`.

    Raises:
        InputError: as :class:`Raw`.
    """

    def __init__(
        self,
        layout: Layout,
        eigenvectors: Mapping[str, tuple[Tensor, Tensor]],
        eigenvalues: Mapping[str, Tensor],
        *,
        device: torch.device | str | None = None,
    ) -> None:
        of_inputs = {name: pair[0] for name, pair in eigenvectors.items()}
        of_outputs = {name: pair[1] for name, pair in eigenvectors.items()}

        def curvature(block: Block) -> Curvature:
            square = (block.inner, block.inner)
            inner = _moment(of_inputs, "inputs' eigenvectors", block, square, device)
            square = (block.out, block.out)
            outer = _moment(of_outputs, "output gradients' eigenvectors", block, square, device)
            shape = (block.out, block.inner)
            values = _moment(eigenvalues, "corrected eigenvalues", block, shape, device)
            return KroneckerSpectral(block.name, outer, inner, values)

        super().__init__(layout, {block.name: curvature(block) for block in layout.blocks})


def _matrices(flat: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    return torch.unflatten(flat, 1, (len(outer), len(inner)))


def components(hessian: Hessian, gradients: Tensor, floor: float = 1e-12) -> dict[str, Tensor]:
    """Coefficients c of ``g = sum_i c_i sqrt(lambda_i) e_i`` over a layer's eigenpairs.

    Args:
        hessian: with eigenvectors.
        gradients: (n, width) rows.
        floor: eigenvalues of at most this much of the largest are left out.

    Returns:
        {layer: (n, r)}, eigenvalues rising. The mean of their squares over the gradients that H
        is made of is 1. Source: Choe et al. 2024, Lemma 1.

    Raises:
        InputError: a layer has no eigenvectors, as it is identity or too wide.
    """
    found = {}
    for name, block in _spectral(hessian).items():
        kept = block.eigenvalues > floor * block.eigenvalues.max()
        rows = block.rotate(gradients[:, hessian.layout.slices[name]].to(block.eigenvalues))
        found[name] = rows[:, kept] / block.eigenvalues[kept].sqrt()
    return found


def component_weights(
    hessian: Hessian, damping: Damping | None = None, floor: float = 1e-12
) -> dict[str, Tensor]:
    """{layer: (r,)} lambda_i / (lambda_i + lambda) of the :func:`components`."""
    found = {}
    for name, block in _spectral(hessian).items():
        values = block.eigenvalues[block.eigenvalues > floor * block.eigenvalues.max()]
        found[name] = values / (values + hessian.damping_of(name, damping))
    return found


def _spectral(hessian: Hessian) -> dict[str, Spectral]:
    found = {
        name: block for name, block in hessian.curvatures.items() if isinstance(block, Spectral)
    }
    for block in hessian.layout.blocks:
        if block.name not in found:
            raise InputError(f"layer {block.name} has no eigenvectors; allowed: {list(found)}")
    return found


def _moment(
    held: Mapping[str, Any],
    what: str,
    block: Block,
    shape: tuple[int, int],
    device: torch.device | str | None,
) -> Tensor:
    """A layer's matrix in float64, checked."""
    if block.name not in held:
        raise InputError(
            f"layer {block.name}: no {what} was gathered; gathered for: "
            f"{', '.join(held) or 'no layer'}"
        )
    return _checked(held[block.name], what, block, shape, device).double()


def _checked(
    found: Tensor,
    what: str,
    block: Block,
    shape: tuple[int, int],
    device: torch.device | str | None,
) -> Tensor:
    if found.shape != shape:
        raise InputError(
            f"layer {block.name}: {what} of shape {tuple(found.shape)}; allowed: {shape}"
        )
    if not found.isfinite().all():
        raise InputError(f"layer {block.name}: {what} is not finite; allowed: finite numbers")
    return found.to(device)
