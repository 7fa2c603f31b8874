"""The hypergradient of SAMA as a function of two costs: three first-order passes.

Source: Choe et al. 2023 (NeurIPS). With the Jacobian ``du/dw`` of the base optimiser's update taken
as the identity and ``D = du/dg``,

    ``dL_meta/dl = direct - d2L_base/(dl dw) v``,  ``v = D dL_meta/dw``,

and the mixed derivative is a central difference of ``dL_base/dl`` along v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.errors import InputError
from papers.betty.hypergradient.adaptation import Adaptation
from papers.betty.hypergradient.adaptation.step import precise
from papers.betty.hypergradient.shift import Shift
from papers.betty.hypergradient.vectors import Partial, Vector, added, local, zeros_for_none

#: A cost at the present parameters: a scalar.
Cost = Callable[[], Tensor]


def hypergradient(
    meta_cost: Cost,
    base_cost: Cost,
    params: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    adaptation: Adaptation | None = None,
    *,
    alpha: float = 1.0,
    nudge: bool = False,
) -> Partial:
    """Total derivative of the meta cost by ``params``, of one process.

    Args:
        meta_cost: of the base weights, and perhaps of ``params`` directly.
        base_cost: on the batch of the last base step; called twice, it must differ by the weights
            alone. What enters it as a constant, as losses that a weight network reads, is computed
            outside.
        params: the meta parameters.
        weights: base weights that depend on them; fewer than all is the last-layer variant.
        adaptation: watches the base optimiser; its weights are taken. None is SAMA-NA, ``D = I``.
        alpha: length of the shift of the weights.
        nudge: leave the weights at ``w - eps v``, a normalised step down the meta cost.

    Returns:
        None for parameters that neither cost depends on; error O(eps^2).

    Raises:
        InputError: as :func:`pull_back`, :func:`adapted` and :class:`Shift` do, or the base cost
            depends on no parameter.
    """
    weights = shared_weights(weights, adaptation)
    _, vector, direct = pull_back(meta_cost, weights, params)
    with Shift(weights, adapted(vector, adaptation), alpha, nudge) as shift:
        above = _gradient(base_cost, params, shift, 1)
        below = _gradient(base_cost, params, shift, -1)
    check_depends(below)
    return added(direct, difference(above, below, shift.eps))


def shared_weights(
    weights: Sequence[Tensor] | None, adaptation: Adaptation | None
) -> Sequence[Tensor]:
    """The weights, given here or there. Raises InputError if they differ, repeat, or are none."""
    if adaptation is None:
        if not weights:
            raise InputError("SAMA: neither weights nor an adaptation; allowed: one of them")
        if len({id(weight) for weight in weights}) < len(weights):
            raise InputError("SAMA: a weight is given twice; allowed: each once")
        return weights
    mine = adaptation.weights
    if weights is not None and [id(w) for w in weights] != [id(w) for w in mine]:
        raise InputError("SAMA: weights differ from the adaptation's; allowed: those, or none")
    return mine


def pull_back(
    meta_cost: Cost,
    weights: Sequence[Tensor],
    params: Sequence[Tensor],
    gradients: Callable[[Tensor, Sequence[Tensor]], Partial] | None = None,
) -> tuple[Tensor, Vector, Partial]:
    """Pass 1: (meta cost, its derivative by the weights, shards of it, that by the parameters).

    Raises:
        InputError: the meta cost depends on no weight, or one is frozen.
    """
    for weight in weights:
        if not weight.requires_grad:
            raise InputError(
                f"SAMA: a base weight of shape {tuple(weight.shape)} requires no gradient;"
                " allowed: weights that do, or an Adaptation made after freezing"
            )
    cost = meta_cost()
    found = (gradients or _local_gradients)(cost, [*weights, *params])
    vector, direct = found[: len(weights)], found[len(weights) :]
    if all(part is None for part in vector):
        raise InputError(
            "SAMA: the meta cost depends on no base weight; allowed: one computed with the weights"
            " themselves, not with a copy or detached values"
        )
    return cost.detach(), local(zeros_for_none(vector, weights)), direct


def adapted(vector: Vector, adaptation: Adaptation | None) -> Vector:
    """``D vector``; ``vector`` is emptied.

    Raises InputError as the adaptation does, or after one step if D is 0 then.
    """
    if adaptation is None:
        return precise(vector)
    if adaptation.flat:
        raise InputError(
            "SAMA: the base optimiser has taken one step, whose length does not depend on the"
            " gradient's, so that D is 0; allowed: a meta step after two or more base steps"
        )
    return adaptation(vector, consume=True)


def difference(above: Partial, below: Partial, eps: float) -> Partial:
    """``(below - above) / (2 eps)``, where None is zero."""
    negative = [None if part is None else -part for part in above]
    return [None if part is None else part / (2 * eps) for part in added(below, negative)]


def check_depends(gradient: Partial) -> None:
    """Raise InputError if the base cost has no derivative by any meta parameter."""
    if all(part is None for part in gradient):
        raise InputError(
            "SAMA: the base cost depends on no meta parameter; allowed: one computed with the"
            " parameters themselves, not with detached values"
        )


def _gradient(cost: Cost, params: Sequence[Tensor], shift: Shift, side: int) -> Partial:
    shift.to(side)
    return _local_gradients(cost(), params)


def _local_gradients(cost: Tensor, tensors: Sequence[Tensor]) -> Partial:
    return list(torch.autograd.grad(cost, tensors, allow_unused=True))
