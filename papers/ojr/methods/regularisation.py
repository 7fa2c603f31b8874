"""The methods under comparison, each at the same gain: penalties, starts, constraints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from common.errors import InputError
from common.experiments.settings import Settings
from papers.ojr.estimators import Estimator, Side
from papers.ojr.isometric import constrain_orthogonal, delta_orthogonal_
from papers.ojr.orthogonality import BlockRegularizer, JacobianFrobenius, JacobianOrthogonality
from papers.ojr.tasks.networks import BlockNetwork
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
    "orthogonal_weights",
]
#: Of a batch's inputs, in the graph of the weights.
Penalty = Callable[[Tensor], Tensor]


class Regularisation(Settings):
    """One method and its gain; the weight of its penalty is a trial's."""

    method: Method
    start: Literal["default", "orthogonal"] = Field(
        "default", description="the weights at first: torch's own, or orthogonal with the gain"
    )
    gain: float | None = Field(
        1.0, gt=0, description="c of J J' = c I and of W W' = c I; none, of OJR alone: any scale"
    )
    estimator: Estimator = "residual"
    side: Side = "auto"
    probes: int = Field(1, gt=0)
    sampled: int | None = Field(None, gt=0, description="blocks a step; none: all")
    evaluate: bool = Field(
        False, description="Jacobians as in evaluation mode, for networks with normalisation"
    )


def prepare(
    network: BlockNetwork, settings: Regularisation, weight: float, generator: torch.Generator
) -> Penalty | None:
    """Change the network as the method asks, and give its penalty; None where it has none.

    Weight decay is the optimiser's.

    Raises:
        InputError: the method cannot be had for a layer of the network, or needs a package that is
            not installed, more blocks are sampled than there are, it needs a gain and has none, or
            it leaves nothing of a start.
    """
    method = settings.method
    if settings.gain is None and not (method.startswith("ojr") and settings.start == "default"):
        raise InputError(
            f"regularisation.gain null: method {method!r}, start {settings.start!r}; allowed: a"
            " number"
        )
    gain = 1.0 if settings.gain is None else settings.gain
    where = f"regularisation.method {method}: "
    held = method == "orthogonal_weights"
    if settings.start != "default" and method in ("orthogonal_weights", "spectral_norm"):
        raise InputError(
            f"regularisation.start {settings.start!r}: of method {method}, which has weights of its"
            " own; allowed: default"
        )
    if held or settings.start == "orthogonal":
        for layer in network.weighted:
            with _named(where if held else "regularisation.start orthogonal: "):
                _make_orthogonal(layer, gain, held)
    if method == "spectral_norm":
        for layer in network.weighted:
            parametrizations.spectral_norm(layer)
    elif method in get_args(WeightPenalty):
        return lambda _: weight * weight_penalty(method, network.weighted, gain, generator)  # type: ignore[arg-type]
    elif method == "frobenius":
        frobenius = JacobianFrobenius(network, settings.probes, generator, settings.evaluate)
        return _named(where)(lambda x: weight * frobenius(x))
    elif method == "ojr_whole":
        with _named("regularisation."):
            whole = JacobianOrthogonality(
                network,
                settings.gain,
                settings.estimator,
                settings.side,
                settings.probes,
                generator,
                settings.evaluate,
            )
        return _named(where)(lambda x: weight * whole(x))
    elif method == "ojr_layers":
        with _named("regularisation."):
            layers = BlockRegularizer(
                network,
                network.blocks,
                weight,
                settings.sampled,
                generator,
                gain=settings.gain,
                estimator=settings.estimator,
                side=settings.side,
                probes=settings.probes,
                evaluate=settings.evaluate,
            )
        return _named(where)(lambda _: layers.penalty())
    return None


@contextmanager
def _named(where: str) -> Iterator[None]:
    """What the library refuses, as the settings' own; also a decorator."""
    try:
        yield
    except (ValueError, ModuleNotFoundError) as error:
        raise InputError(f"{where}{error}") from None


def _make_orthogonal(layer: nn.Linear | nn.Conv2d, gain: float, held: bool) -> None:
    """From the start, and with ``held`` throughout."""
    if isinstance(layer, nn.Conv2d) and not held:
        delta_orthogonal_(layer.weight, gain**0.5)
    elif isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight, gain**0.5)
    if held:
        constrain_orthogonal(layer, gain)
