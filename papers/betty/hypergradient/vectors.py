"""Lists of tensors as vectors: what the Jacobian products share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Tensors shaped like a problem's parameters; None where a cost does not depend on one.
Vector = list[Tensor]
Partial = list[Tensor | None]


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product, a scalar tensor."""
    products = torch._foreach_mul(list(a), list(b))
    return torch.stack([product.sum() for product in products]).sum()


def norm(vector: Sequence[Tensor]) -> Tensor:
    """Euclidean norm over all tensors, a scalar tensor."""
    length: Tensor = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(list(vector)))))
    return length


def local(tensors: Sequence[Tensor]) -> Vector:
    """The shard that this process holds, of tensors that are sharded (FSDP)."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def zeros_for_none(partial: Sequence[Tensor | None], like: Sequence[Tensor]) -> Vector:
    """``partial`` with zeros where a cost does not depend on a tensor."""
    return [torch.zeros_like(p) if g is None else g for g, p in zip(partial, like, strict=True)]


def added(a: Sequence[Tensor | None] | None, b: Sequence[Tensor | None]) -> Partial:
    """Sum, where None is zero."""
    if a is None:
        return list(b)
    return [y if x is None else (x if y is None else x + y) for x, y in zip(a, b, strict=True)]


def split(flat: Sequence[Tensor | None], parts: Sequence[Sequence[Tensor]]) -> list[Partial]:
    """One flat list cut to the lengths of ``parts``."""
    pieces, start = [], 0
    for part in parts:
        pieces.append(list(flat[start : start + len(part)]))
        start += len(part)
    return pieces
