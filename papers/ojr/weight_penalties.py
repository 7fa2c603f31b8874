"""Penalties on weights alone: soft orthogonality and its relatives, with the gain as a parameter.

A weight is (out, in) or, of a convolution, (out, in * k * k). With G = Wᵀ W - c I on the columns
and H = W Wᵀ - c I on the rows:

====  ============================ ===================================================
so    ``|S|²``, S the smaller side  soft orthogonality
dso   ``|G|² + |H|²``               double
mc    ``|S|`` infinity             mutual coherence: the largest sum of a row's magnitudes
srip  largest ``|eigenvalue|``      spectral restricted isometry, by one power iteration
====  ============================ ===================================================

Source: Bansal, Chen & Wang 2018, with the identity in the place of c I.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.ojr.checks import check_gain, check_real

WeightPenalty = Literal["so", "dso", "mc", "srip"]
WEIGHT_PENALTIES: Final[tuple[WeightPenalty, ...]] = ("so", "dso", "mc", "srip")


def weight_penalty(
    name: WeightPenalty,
    layers: Iterable[nn.Module],
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sum of a penalty over linear and convolutional layers.

    Raises:
        InputError: an unknown penalty, a gain that is not positive, complex weights, or no layer
            has a weight of at least two dimensions.
    """
    if name not in WEIGHT_PENALTIES:
        raise InputError(f"penalty {name!r}; allowed: {', '.join(WEIGHT_PENALTIES)}")
    check_gain(gain)
    weights = [
        layer.weight.flatten(1)
        for layer in layers
        if isinstance(layer.weight, Tensor) and layer.weight.ndim > 1
    ]
    if not weights:
        raise InputError("layers: none with a weight of two or more dimensions")
    for weight in weights:
        check_real("weights", weight)
    return torch.stack([_penalty(name, weight, gain, generator) for weight in weights]).sum()


def _penalty(
    name: WeightPenalty, weight: Tensor, gain: float, generator: torch.Generator | None
) -> Tensor:
    if name == "dso":
        return _defect(weight.mT, gain).square().sum() + _defect(weight, gain).square().sum()
    # The larger side has no isometry to be near to.
    defect = _defect(weight if weight.shape[0] <= weight.shape[1] else weight.mT, gain)
    if name == "so":
        return defect.square().sum()
    if name == "mc":
        return defect.abs().sum(1).amax()
    start = torch.randn(len(defect), generator=generator, dtype=weight.dtype, device=weight.device)
    direction = nn.functional.normalize(defect @ start, dim=0)
    found: Tensor = torch.linalg.vector_norm(defect @ direction)
    return found


def _defect(rows: Tensor, gain: float) -> Tensor:
    """``rows rowsᵀ - gain I``."""
    identity = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    return rows @ rows.mT - gain * identity
