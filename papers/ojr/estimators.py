"""How far a Jacobian is from a scaled isometry, estimated by random projections.

With A = J Jᵀ - c I on the side of the outputs, or Jᵀ J - c I on that of the inputs, d its side and
v a random vector, every estimator gives one number an example:

=========== ==================================== ==================================================
name        value                                mean over v
=========== ==================================== ==================================================
exact       ``|A|² / d``                         itself; needs the whole Jacobian
residual    ``|J Jᵀ v - c v|² / d``              ``|A|² / d``
one_product ``(|Jᵀ v|² - c |v|²)² / d``          ``(2 |A|² + (tr A)²) / d`` (Gaussian v)
variance    ``Var(|Jᵀ v|²) / 2d``, Rademacher v  sum of the off-diagonal entries' squares ``/ d``
=========== ==================================== ==================================================

``frobenius`` is the penalty of Hoffman et al. (2019), ``|J|² / 2``, that drives J to zero.
Source: reconstructed, see the README; ``variance`` after Wei et al. (2021).
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from papers.ojr.checks import check_gradients
from papers.ojr.products import Products, exact_jacobian

Side = Literal["auto", "output", "input"]
Estimator = Literal["exact", "residual", "one_product", "variance"]
ESTIMATORS: Final[tuple[Estimator, ...]] = ("exact", "residual", "one_product", "variance")


class Probing(NamedTuple):
    """What a penalty is estimated with.

    ``gain`` is c; None takes each example's own estimate of ``tr(J Jᵀ) / d``, so that only the
    spread of the singular values counts. ``side`` is that of A; "auto" takes the smaller one.
    """

    gain: float | None
    side: Side
    probes: int
    generator: torch.Generator | None


def estimate(name: Estimator, block: nn.Module, x: Tensor, probing: Probing) -> Tensor:
    """(n,) penalties of the examples, in the graph of the block's parameters."""
    if name == "exact":
        return exact(block, x, probing)
    products = Products(block, x)
    at_output = _at_output(probing.side, products.y[0].numel(), products.x[0].numel())
    like = products.y if at_output else products.x
    if name == "variance":
        draws = [
            squared_norms(_product(products, _signs(like, probing.generator), at_output))
            for _ in range(probing.probes)
        ]
        return torch.stack(draws).var(0) / (2 * like[0].numel())
    one = _residual if name == "residual" else _one_product
    found = [
        one(products, gaussian(like, probing.generator), at_output, probing.gain)
        for _ in range(probing.probes)
    ]
    return torch.stack(found).mean(0)


def exact(block: nn.Module, x: Tensor, probing: Probing) -> Tensor:
    """(n,) ``|A|² / d`` from whole Jacobians."""
    check_gradients()
    jacobian = exact_jacobian(block, x.detach())
    outputs, inputs = jacobian.shape[1:]
    at_output = _at_output(probing.side, outputs, inputs)
    gram = jacobian @ jacobian.mT if at_output else jacobian.mT @ jacobian
    d = gram.shape[-1]
    if probing.gain is None:
        gain = gram.diagonal(dim1=1, dim2=2).mean(1).detach()[:, None, None]
    else:
        gain = gram.new_tensor(probing.gain)
    return (gram - gain * torch.eye(d, dtype=gram.dtype, device=gram.device)).square().sum(
        (1, 2)
    ) / d


def frobenius(
    block: nn.Module, x: Tensor, probes: int, generator: torch.Generator | None
) -> Tensor:
    """(n,) estimates of ``|J|² / 2`` from vectors on the unit sphere of the outputs.

    Source: Hoffman, Roberts & Yaida 2019.
    """
    products = Products(block, x)
    found = []
    for _ in range(probes):
        v = gaussian(products.y, generator)
        v = v / _spread(squared_norms(v).sqrt(), v)
        found.append(products.y[0].numel() * squared_norms(products.transposed(v)) / 2)
    return torch.stack(found).mean(0)


def _residual(products: Products, v: Tensor, at_output: bool, gain: float | None) -> Tensor:
    if at_output:
        u, w = products.both(v)
    else:
        u = products.forward(v)
        w = products.transposed(u)
    own = (squared_norms(u) / squared_norms(v)).detach()
    scale = _spread(own, v) if gain is None else v.new_tensor(gain)
    return squared_norms(w - scale * v) / v[0].numel()


def _one_product(products: Products, v: Tensor, at_output: bool, gain: float | None) -> Tensor:
    squared = squared_norms(_product(products, v, at_output))
    scale = v.new_tensor(gain)  # a gain of its own would make each value zero
    return (squared - scale * squared_norms(v)).square() / v[0].numel()


def _product(products: Products, v: Tensor, at_output: bool) -> Tensor:
    return products.transposed(v) if at_output else products.forward(v)


def _at_output(side: Side, outputs: int, inputs: int) -> bool:
    return side == "output" or (side == "auto" and outputs <= inputs)


def _spread(each: Tensor, like: Tensor) -> Tensor:
    """A number an example, (n,), with as many dimensions as ``like`` (n, ...)."""
    return each.reshape(-1, *[1] * (like.ndim - 1))


def squared_norms(v: Tensor) -> Tensor:
    """(n,) squared norms, added up in 32 bits at least."""
    return v.reshape(len(v), -1).to(wide_type(v)).square().sum(1)


def gaussian(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """The same vectors in every precision."""
    kind = wide_type(like)
    drawn = torch.randn(like.shape, generator=generator, dtype=kind, device=like.device)
    return drawn.to(like.dtype)


def _signs(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return gaussian(like, generator).sign()


def wide_type(like: Tensor) -> torch.dtype:
    """A tensor's type, of 32 bits at least."""
    return torch.promote_types(like.dtype, torch.float32)
