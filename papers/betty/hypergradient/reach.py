"""Says once which problem no hypergradient reached, and why: it would train for ever without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper

Product = tuple[Lower, Differentiable, Sequence[Tensor | None]]


def warn_of_nothing(
    upper: Upper, vectors: Mapping[str, Sequence[Tensor | None]], products: Sequence[Product]
) -> None:
    """Warn of every edge of ``upper``'s paths along which nothing came, and of a zero in all.

    Args:
        vectors: derivative of its cost by each problem whose optimum enters it.
        products: (problem, by whose parameters, its Jacobian product), for each that was evaluated.
    """
    for lower, vector in vectors.items():
        if _absent(vector):
            upper.warn_once(
                f"no hypergradient comes through {lower!r}: its cost does not depend on the"
                f" parameters of {lower!r}, though dependencies['l2u'] has {lower!r} ->"
                f" {upper.name!r} (is what it reads detached, or a copy? are u2l and l2u swapped?)"
            )
    for curr, prev, product in products:
        if _absent(product):
            kind = "u2l" if prev is upper else "l2u"
            upper.warn_once(
                f"no hypergradient comes through {curr.name!r}: the cost of {curr.name!r} does not"
                f" depend on the parameters of {prev.name!r}, though dependencies[{kind!r}] has"
                f" {prev.name!r} -> {curr.name!r} (is what it reads detached, or a copy?)"
            )
    ends = [(curr, product) for curr, prev, product in products if prev is upper]
    present = [(curr, product) for curr, product in ends if not _absent(product)]
    if present and all(_vanishes(product) for _, product in present):
        if all(_vanishes(vector) for vector in vectors.values()):
            why = f"the derivative of its cost by the parameters of {_names(vectors)} is 0"
        else:
            types = ", ".join(
                f"{curr.name!r} (type {curr.jacobian_type(upper)!r})" for curr, _ in present
            )
            why = (
                f"the product with the Jacobian of {types} is 0; has that cost a term in the"
                " parameters of both, and has type 'itd' a learning rate above 0?"
            )
        upper.warn_once(f"its hypergradient is exactly 0 in its first step: {why}")


def _absent(partial: Sequence[Tensor | None]) -> bool:
    return all(part is None for part in partial)


def _vanishes(partial: Sequence[Tensor | None]) -> bool:
    return not any(bool(part.any()) for part in partial if part is not None)


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(map(repr, names))
