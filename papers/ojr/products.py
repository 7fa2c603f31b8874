"""Products of a block's Jacobian with vectors, one example at a time, as torch's graph has them.

One forward pass serves all products: with a vector that takes part in differentiation, the
vector-Jacobian product is linear in it, and its own derivative is the Jacobian-vector product.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.ojr.checks import check_gradients, check_inputs, check_real


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
        InputError: gradients are off; batch normalisation couples the examples; inputs or outputs
            are not real floating-point numbers; inputs have no examples, or are of a shape that the
            block does not take; outputs have another number of rows, or do not depend on the
            inputs.
    """

    def __init__(self, block: nn.Module, x: Tensor) -> None:
        check_gradients()
        check_inputs(block, x)
        self.x = x.detach().requires_grad_()
        self.y = _outputs(block, self.x)
        if not self.y.requires_grad:
            raise InputError("outputs come of nothing that can be differentiated")

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
            raise InputError("outputs do not depend on the inputs by anything differentiable")
        return found


def exact_jacobian(block: nn.Module, x: Tensor) -> Tensor:
    """(n, outputs, inputs): every example's whole Jacobian, in the graph; for small blocks.

    Row by row or column by column, whichever are fewer: of each example as many copies, each with a
    unit vector, in one pass. (torch.func's transforms take seconds to load, and refuse weights that
    a power iteration changes.)

    Raises:
        InputError: what :class:`Products` refuses, but for gradients that are off.
    """
    check_inputs(block, x)
    with torch.no_grad():
        outputs = _outputs(block, x[:1]).numel()
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


def _outputs(block: nn.Module, x: Tensor) -> Tensor:
    """(n, *b), one row for each example; what the block itself refuses is told in one line."""
    try:
        with _not_compiled():
            y = block(x)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError | torch.OutOfMemoryError):
            raise
        raise InputError(
            f"block {type(block).__name__} fails on examples of shape {tuple(x.shape[1:])} and type"
            f" {x.dtype}; allowed: one tensor that it takes ({str(error).partition(chr(10))[0]})"
        ) from error
    check_real("outputs", y)
    if y.ndim == 0 or len(y) != len(x):
        shape = tuple(y.shape)
        raise InputError(f"outputs {shape} of a batch of {len(x)}; allowed: one row for each")
    found: Tensor = y
    return found


def _not_compiled() -> AbstractContextManager[object]:
    """Compiled modules run as they were written: their compiled form has no second derivative."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
