"""The total derivative of an upper cost: direct part, and a product of Jacobians for each path."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from papers.betty.hypergradient.differentiable import Upper
from papers.betty.hypergradient.methods import METHODS
from papers.betty.hypergradient.reach import warn_of_nothing
from papers.betty.hypergradient.vectors import Partial, added, split, zeros_for_none


def hypergradient(upper: Upper, loss: Tensor, params: Sequence[Tensor]) -> Partial:
    """Total derivative of ``loss`` of ``upper`` by its own ``params``. Eq. 1 and 2.

    Vectors are pushed from ``upper`` down the l2u edges and summed where paths meet; a problem's
    Jacobian product is evaluated once, for all problems that it is taken by.
    """
    read = [seed.meta_trainable_parameters() for seed in upper.seeds]
    flat = upper.distribution.gradients(
        loss, [*params, *(tensor for part in read for tensor in part)]
    )
    direct, *pieces = split(flat, [params, *read])
    upper.check_unused(direct, params)
    vectors: dict[str, Partial] = {
        seed.name: piece for seed, piece in zip(upper.seeds, pieces, strict=True)
    }
    total: Partial = direct
    look = bool(upper.factors) and upper.first_time("hypergradient")
    given, products = dict(vectors), []
    for curr, prevs in upper.factors:
        vector = vectors.get(curr.name)
        if vector is None or all(part is None for part in vector):
            continue
        method = METHODS[curr.jacobian_type(upper)]
        full = zeros_for_none(vector, curr.meta_trainable_parameters())
        for prev, partial in zip(prevs, method(full, curr, prevs, upper), strict=True):
            if look:
                products.append((curr, prev, partial))
            if prev is upper:
                total = added(total, partial)
            else:
                vectors[prev.name] = added(vectors.get(prev.name), partial)
    if look:
        warn_of_nothing(upper, given, products)
    return total
