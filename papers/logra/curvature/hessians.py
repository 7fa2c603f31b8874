"""H of a model's layers: identity, empirical Fisher, KFAC or EKFAC, block-diagonal over layers.

What one layer's block does with gradients is in :mod:`.curvature.curvatures`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from papers.logra.curvature.curvatures import (
    Curvature,
    Damping,
    DenseCholesky,
    DenseSpectral,
    KroneckerSpectral,
    LowRankSpectral,
    Spectral,
)
from papers.logra.curvature.layout import Block, Layout
from papers.logra.curvature.product_sums import PackedMoment, RowMoment

#: Widest block whose eigenvectors are computed; wider ones are solved by Cholesky factors.
WIDEST_EIGENBASIS = 2048


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

    def resolve_damping(self, layer: str, damping: Damping | None = None) -> float:
        """lambda of one layer."""
        return (damping or Damping()).added(self.curvatures[layer].mean_eigenvalue)

    def effective_dimension(self, damping: Damping | None = None) -> dict[str, float]:
        """{layer: sum_i lambda_i / (lambda_i + lambda)}, directions that damping leaves."""
        return {
            name: curvature.effective_dimension(self.resolve_damping(name, damping))
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
            added = self.resolve_damping(name, damping)
            if added == 0 == curvature.mean_eigenvalue and (damping or Damping()).relative:
                continue
            columns = self.layout.slices[name]
            place = curvature.factors()[-1].device
            part = product(curvature)(gradients[:, columns].to(place), added)
            result[:, columns] = part.to(gradients)
        return result


class IdentityHessian(Hessian):
    """H = I and no damping: influence is the product of gradients."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout, {})

    def precondition(self, gradients: Tensor, damping: Damping | None = None) -> Tensor:
        return gradients

    def whiten(self, gradients: Tensor, damping: Damping | None = None) -> Tensor:
        return gradients


class EmpiricalFisher(Hessian):
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
                return LowRankSpectral(block.name, given._replace(rows=rows))
            if isinstance(given, PackedMoment):
                packed = given._replace(packed=given.packed.to(device))

                def made() -> Tensor:
                    return _checked(packed.matrix(), what, block, shape, device).double()

                return DenseCholesky(block.name, packed.packed, made)
            moment = _moment(moments, what, block, shape, device)
            if block.width > widest_eigenbasis:
                return DenseCholesky(block.name, moment, moment.clone)
            return DenseSpectral(block.name, moment)

        super().__init__(layout, {block.name: curvature(block) for block in layout.blocks})


class KFAC(Hessian):
    """KFAC: C_backward (x) C_forward.

    Args:
        layout: of the gradients.
        forward: {layer: (inner, inner)} second moments of inputs.
        backward: {layer: (out, out)} second moments of outputs' gradients.
        device: as of :class:`EmpiricalFisher`.

    Raises:
        InputError: as :class:`EmpiricalFisher`.
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


class EKFAC(Hessian):
    """EKFAC: KFAC's eigenvectors with the second moments of gradients along them.

    Args:
        layout: of the gradients.
        eigenvectors: {layer: (of inputs (inner, inner), of output gradients (out, out))}, columns:
            the ones that ``eigenvalues`` are of.
        eigenvalues: {layer: (out, inner)}.
        device: as of :class:`EmpiricalFisher`.

    Raises:
        InputError: as :class:`EmpiricalFisher`.
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
        found[name] = values / (values + hessian.resolve_damping(name, damping))
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
