"""The methods under comparison, each at the same gain: penalties, starts, constraints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from common.experiments.settings import Settings
from papers.ojr.estimators import Estimator
from papers.ojr.isometric import constrain_orthogonal
from papers.ojr.orthogonality import BlockRegularizer, JacobianFrobenius, JacobianOrthogonality
from papers.ojr.tasks.networks import PlainNetwork
from papers.ojr.weight_penalties import WeightPenalty, weight_penalty

Method = Literal[
    "none",
    "weight_decay",
    "so",
    "dso",
    "mc",
    "srip",
    "spectral_norm",
    "frobenius",
    "ojr_layers",
    "ojr_whole",
    "orthogonal_start",
    "orthogonal_weights",
]
#: Of a batch's inputs, in the graph of the weights.
Penalty = Callable[[Tensor], Tensor]


class Regularisation(Settings):
    """One method and its gain; the weight of its penalty is a trial's."""

    method: Method
    gain: float = Field(1.0, gt=0, description="c of J J' = c I and of W W' = c I")
    estimator: Estimator = "residual"
    probes: int = Field(1, gt=0)
    sampled: int | None = Field(None, gt=0, description="layers a step; none: all")


def prepare(
    network: PlainNetwork, settings: Regularisation, weight: float, generator: torch.Generator
) -> Penalty | None:
    """Change the network as the method asks, and give its penalty; None where it has none.

    Weight decay is the optimiser's.
    """
    method, gain = settings.method, settings.gain
    if method in ("orthogonal_start", "orthogonal_weights"):
        for layer in network.linear:
            nn.init.orthogonal_(layer.weight, gain**0.5)
            if method == "orthogonal_weights":
                constrain_orthogonal(layer, gain)
    elif method == "spectral_norm":
        for layer in network.linear:
            parametrizations.spectral_norm(layer)
    elif method in get_args(WeightPenalty):
        return lambda _: weight * weight_penalty(method, network.linear, gain, generator)  # type: ignore[arg-type]
    elif method == "frobenius":
        frobenius = JacobianFrobenius(network, settings.probes, generator)
        return lambda x: weight * frobenius(x)
    elif method == "ojr_whole":
        whole = JacobianOrthogonality(
            network, gain, settings.estimator, probes=settings.probes, generator=generator
        )
        return lambda x: weight * whole(x)
    elif method == "ojr_layers":
        layers = BlockRegularizer(
            network,
            network.blocks,
            weight,
            settings.sampled,
            generator,
            gain=gain,
            estimator=settings.estimator,
            probes=settings.probes,
        )
        return lambda _: layers.penalty()
    return None
