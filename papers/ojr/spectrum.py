"""Singular values of a block's Jacobian: all of them, or largest and mean square of a large map.

Of numbers below 32 bits they are taken in 32. All raise InputError where
:class:`~papers.ojr.products.Products` does, but for gradients that are off.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor, nn

from papers.ojr.checks import check_count, check_inputs
from papers.ojr.estimators import gaussian, squared_norms, wide_type
from papers.ojr.products import Products, exact_jacobian


def singular_values(block: nn.Module, x: Tensor) -> Tensor:
    """(n, min(outputs, inputs)) singular values at inputs (n, ...), descending, by a whole SVD."""
    jacobian = exact_jacobian(block, x).detach()
    found: Tensor = torch.linalg.svdvals(jacobian.to(wide_type(jacobian)))
    return found


def largest_singular_values(block: nn.Module, x: Tensor, count: int, seed: int = 0) -> Tensor:
    """(n, count) largest singular values, descending, by Lanczos on products alone.

    Raises:
        InputError: ``count`` is not below the smaller side, as Lanczos needs.
    """
    check_inputs(block, x)
    with torch.enable_grad():
        return torch.stack([_largest(block, row.unsqueeze(0), count, seed) for row in x])


def rms_singular_values(block: nn.Module, x: Tensor, probes: int = 8, seed: int = 0) -> Tensor:
    """(n,) roots of ``|J|² / d``, d the smaller side, by products with ``probes`` random vectors.

    Its square is right on average, with a relative standard deviation of at most
    ``sqrt(2 / probes)`` and of ``sqrt(2 / (probes d))`` where all singular values are alike.

    Raises:
        InputError: ``probes`` is not a whole number of at least 1.
    """
    check_count("probes", probes)
    with torch.enable_grad():
        products = Products(block, x)
        generator = torch.Generator(x.device).manual_seed(seed)
        wide = products.y[0].numel() <= x[0].numel()
        like, product = (
            (products.y, products.transposed) if wide else (products.x, products.forward)
        )
        squares = [
            squared_norms(product(gaussian(like, generator)).detach()) for _ in range(probes)
        ]
    return (torch.stack(squares).mean(0) / like[0].numel()).sqrt()


def _largest(block: nn.Module, x: Tensor, count: int, seed: int) -> Tensor:
    products = Products(block, x)
    y = products.y
    sides = (y.numel(), x.numel())
    check_count("count", count, most=min(sides) - 1, note=", below the smaller side")

    def forward(v: np.ndarray) -> np.ndarray:
        return _numpy(products.forward(torch.from_numpy(v).to(x).reshape(x.shape)))

    def transposed(v: np.ndarray) -> np.ndarray:
        return _numpy(products.transposed(torch.from_numpy(v).to(y).reshape(y.shape)))

    kind = _numpy(y).dtype
    operator = LinearOperator(sides, matvec=forward, rmatvec=transposed, dtype=kind)
    start = np.random.default_rng(seed).standard_normal(min(sides)).astype(kind)
    found = svds(operator, k=count, v0=start, return_singular_vectors=False)
    return torch.from_numpy(np.sort(found)[::-1].copy()).to(x.device, wide_type(x))


def _numpy(tensor: Tensor) -> np.ndarray:
    flat: np.ndarray = tensor.detach().cpu().to(wide_type(tensor)).reshape(-1).numpy()
    return flat
