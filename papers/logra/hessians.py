"""Second moments of gradients, block-diagonal over layers, and their damped inverses.

A block of H is factorised once, in float64. Every damping is then a matter of adding a number to
eigenvalues, and no call changes what another one gets. Where eigenvectors would take too long, a
Cholesky factor of one damping at a time does the same.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import InputError
from papers.logra.layout import Block, Layout

#: Of the mean eigenvalue of a layer's H (Choe et al. 2024, appendix C; Grosse et al. 2023).
RELATIVE_DAMPING = 0.1
#: Widest block whose eigenvectors are computed; wider ones are solved by Cholesky factors.
WIDEST_EIGENBASIS = 2048


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

    def _singular(self, damping: float) -> InputError:
        return InputError(
            f"layer {self.name}: damping {damping:g} leaves H singular to float64; allowed: more "
            f"(the mean eigenvalue is {self.mean_eigenvalue:g})"
        )


class Spectral(Curvature):
    """A block by its eigenvalues (width,) and a rotation into its eigenvectors."""

    def __init__(self, name: str, eigenvalues: Tensor) -> None:
        # Rounding makes eigenvalues of a second moment a little less than 0.
        self.name, self.eigenvalues = name, eigenvalues.clamp_min(0)
        self.mean_eigenvalue = float(self.eigenvalues.mean())
        self._extremes = float(self.eigenvalues.min()), float(self.eigenvalues.max())

    @abstractmethod
    def rotate(self, gradients: Tensor) -> Tensor:
        """Coordinates along eigenvectors."""

    @abstractmethod
    def rotate_back(self, coordinates: Tensor) -> Tensor:
        """Inverse of :meth:`rotate`."""

    def solve(self, gradients: Tensor, damping: float) -> Tensor:
        return self.rotate_back(self.rotate(gradients) / self._damped(damping))

    def whiten(self, gradients: Tensor, damping: float) -> Tensor:
        return self.rotate(gradients) / self._damped(damping).sqrt()

    def effective_dimension(self, damping: float) -> float:
        return float((self.eigenvalues / self._damped(damping)).sum())

    def _damped(self, damping: float) -> Tensor:
        smallest, largest = (value + damping for value in self._extremes)
        if smallest <= torch.finfo(torch.float64).eps * largest:
            raise self._singular(damping)
        return self.eigenvalues + damping


class DenseSpectral(Spectral):
    """A symmetric matrix (width, width)."""

    def __init__(self, name: str, matrix: Tensor, dtype: torch.dtype) -> None:
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        super().__init__(name, eigenvalues.to(dtype))
        self.vectors = vectors.to(dtype)

    def rotate(self, gradients: Tensor) -> Tensor:
        return torch.mm(gradients, self.vectors)

    def rotate_back(self, coordinates: Tensor) -> Tensor:
        return torch.mm(coordinates, self.vectors.mT)

    def factors(self) -> tuple[Tensor, ...]:
        return (self.eigenvalues, self.vectors)


class KroneckerSpectral(Spectral):
    """Eigenvectors q_out (x) q_inner, with an eigenvalue (out, inner) for each pair."""

    def __init__(
        self, name: str, outer: Tensor, inner: Tensor, eigenvalues: Tensor, dtype: torch.dtype
    ) -> None:
        super().__init__(name, eigenvalues.flatten().to(dtype))
        self.outer, self.inner = outer.to(dtype), inner.to(dtype)

    def rotate(self, gradients: Tensor) -> Tensor:
        return (self.outer.mT @ self._matrices(gradients) @ self.inner).flatten(1)

    def rotate_back(self, coordinates: Tensor) -> Tensor:
        return (self.outer @ self._matrices(coordinates) @ self.inner.mT).flatten(1)

    def factors(self) -> tuple[Tensor, ...]:
        return (self.eigenvalues, self.outer, self.inner)

    def _matrices(self, flat: Tensor) -> Tensor:
        return torch.unflatten(flat, 1, (len(self.outer), len(self.inner)))


class DenseByCholesky(Curvature):
    """A symmetric matrix too wide for eigenvectors; the factor of the last damping is kept."""

    def __init__(self, name: str, matrix: Tensor) -> None:
        self.name, self.matrix = name, matrix
        self.mean_eigenvalue = float(matrix.diagonal().mean())
        self._last: tuple[float, Tensor] | None = None

    def solve(self, gradients: Tensor, damping: float) -> Tensor:
        return torch.cholesky_solve(gradients.mT, self._factor(damping)).mT

    def whiten(self, gradients: Tensor, damping: float) -> Tensor:
        factor = self._factor(damping)
        white: Tensor = torch.linalg.solve_triangular(factor, gradients.mT, upper=False)
        return white.mT

    def effective_dimension(self, damping: float) -> float:
        inverse = torch.cholesky_inverse(self._factor(damping))
        return len(self.matrix) - damping * float(inverse.diagonal().sum())

    def factors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def _factor(self, damping: float) -> Tensor:
        if self._last is None or self._last[0] != damping:
            self._last = None  # two factors at once would be one too many for the memory
            damped = self.matrix.clone()
            damped.diagonal().add_(damping)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if failed:
                raise self._singular(damping)
            self._last = (damping, factor)
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
            like = curvature.factors()[-1]
            part = product(curvature)(gradients[:, columns].to(like), added)
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
        moments: {layer: (width, width)}, uncentred and divided by their number.
        dtype: of products; factors are computed in float64.
        device: of factors and products; by default that of the moments.
        widest_eigenbasis: wider blocks are solved by Cholesky factors.

    Raises:
        InputError: a moment is missing, of another shape or not finite.
    """

    def __init__(
        self,
        layout: Layout,
        moments: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
        widest_eigenbasis: int = WIDEST_EIGENBASIS,
    ) -> None:
        def curvature(block: Block) -> Curvature:
            shape = (block.width, block.width)
            moment = _moment(moments, "gradients' second moment", block, shape, device)
            if block.width > widest_eigenbasis:
                return DenseByCholesky(block.name, moment)
            return DenseSpectral(block.name, moment, dtype)

        super().__init__(layout, {block.name: curvature(block) for block in layout.blocks})


class Kronecker(Hessian):
    """KFAC: C_backward (x) C_forward.

    Args:
        layout: of the gradients.
        forward: {layer: (inner, inner)} second moments of inputs.
        backward: {layer: (out, out)} second moments of outputs' gradients.
        dtype, device: as of :class:`Raw`.

    Raises:
        InputError: as :class:`Raw`.
    """

    def __init__(
        self,
        layout: Layout,
        forward: Mapping[str, Tensor],
        backward: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float64,
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
            return KroneckerSpectral(block.name, outer, inner, values, dtype)

        super().__init__(layout, {block.name: curvature(block) for block in layout.blocks})


class EigenvalueCorrected(Hessian):
    """EKFAC: KFAC's eigenvectors with the second moments of gradients along them.

    Args:
        layout: of the gradients.
        eigenvectors: {layer: (of inputs (inner, inner), of output gradients (out, out))}, columns:
            the ones that ``eigenvalues`` are of.
        eigenvalues: {layer: (out, inner)}.
        dtype, device: as of :class:`Raw`.

    Raises:
        InputError: as :class:`Raw`.
    """

    def __init__(
        self,
        layout: Layout,
        eigenvectors: Mapping[str, tuple[Tensor, Tensor]],
        eigenvalues: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float64,
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
            return KroneckerSpectral(block.name, outer, inner, values, dtype)

        super().__init__(layout, {block.name: curvature(block) for block in layout.blocks})


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
    held: Mapping[str, Tensor],
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
    found = held[block.name]
    if found.shape != shape:
        raise InputError(
            f"layer {block.name}: {what} of shape {tuple(found.shape)}; allowed: {shape}"
        )
    if not found.isfinite().all():
        raise InputError(f"layer {block.name}: {what} is not finite; allowed: finite numbers")
    return found.to(device=device, dtype=torch.float64)
