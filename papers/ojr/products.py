"""Products of a block's Jacobian with vectors, one example at a time, as torch's graph has them.

One forward pass serves all products: with a vector that takes part in differentiation, the
vector-Jacobian product is linear in it, and its own derivative is the Jacobian-vector product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Products:
    """Jacobian of a block at a batch of inputs, with one forward pass.

    Products stay part of the graph, so that what is computed from them can be differentiated by the
    block's parameters.

    Args:
        block: maps (n, *a) to (n, *b), each example by itself.
        x: (n, *a) floating-point inputs; what made them gets no gradient.

    Attributes:
        y: (n, *b), the outputs.

    Raises:
        ValueError: inputs or outputs are not real floating-point numbers, or the outputs have
            another number of rows, or do not depend on the inputs.
    """

    def __init__(self, block: nn.Module, x: Tensor) -> None:
        if not torch.is_grad_enabled():
            raise ValueError("gradients are off; allowed: outside of torch.no_grad()")
        if not x.is_floating_point():
            raise ValueError(f"inputs of type {x.dtype}; allowed: real floating-point numbers")
        # A module that is compiled cannot be differentiated twice; the one inside can.
        block = getattr(block, "_orig_mod", block)
        self.x = x.detach().requires_grad_()
        self.y: Tensor = block(self.x)
        if not isinstance(self.y, Tensor) or not self.y.is_floating_point():
            what = self.y.dtype if isinstance(self.y, Tensor) else type(self.y).__name__
            raise ValueError(f"outputs of type {what}; allowed: one tensor of real numbers")
        if self.y.ndim == 0 or len(self.y) != len(x):
            shape = tuple(self.y.shape)
            raise ValueError(f"outputs {shape} for {len(x)} inputs; allowed: one row for each")
        if not self.y.requires_grad:
            raise ValueError("outputs come of nothing that can be differentiated")

    def transposed(self, v: Tensor) -> Tensor:
        """Jᵀ v of each example, (n, *b) -> (n, *a)."""
        return self._pulled(self.y, self.x, v)

    def forward(self, v: Tensor) -> Tensor:
        """J v of each example, (n, *a) -> (n, *b)."""
        inner = torch.zeros_like(self.y, requires_grad=True)
        return self._pulled(self.transposed(inner), inner, v)

    def both(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """(Jᵀ v, J Jᵀ v) of each example for v (n, *b), in two passes instead of three."""
        v = v.detach().requires_grad_()
        u = self.transposed(v)
        return u, self._pulled(u, v, u)

    @staticmethod
    def _pulled(outputs: Tensor, inputs: Tensor, v: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(outputs, inputs, v, create_graph=True, allow_unused=True)
        if found is None:
            raise ValueError("outputs do not depend on the inputs by anything differentiable")
        return found


def exact_jacobian(block: nn.Module, x: Tensor) -> Tensor:
    """(n, outputs, inputs): every example's whole Jacobian, in the graph; for small blocks.

    Row by row or column by column, whichever are fewer: of each example as many copies, each with a
    unit vector, in one pass. (torch.func's transforms take seconds to load, and refuse weights that
    a power iteration changes.)
    """
    with torch.no_grad():
        outputs = block(x[:1]).numel()
    inputs = x[:1].numel()
    count = min(outputs, inputs)
    with torch.enable_grad():
        products = Products(block, x.repeat_interleave(count, 0))
        wide = outputs <= inputs
        like = products.y if wide else products.x
        units = torch.eye(count, dtype=like.dtype, device=like.device).repeat(len(x), 1)
        units = units.view_as(like)
        found = (products.transposed if wide else products.forward)(units)
    found = found.reshape(len(x), count, -1)
    return found if wide else found.mT
