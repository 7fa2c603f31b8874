"""A model, its watched layers, and how their gradients are projected."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from torch import nn

from common.errors import InputError
from papers.logra.capture import Capture
from papers.logra.configs import LoggingConfig, LoRAConfig
from papers.logra.layout import Layout
from papers.logra.log_store.manifest import Identity
from papers.logra.moments import Statistics
from papers.logra.projections import Projections, pca_projections, random_projections
from papers.logra.tensor_files import digest_of
from papers.logra.watching import unwrapped, watched

Types = Collection[type[nn.Module]]
Names = Collection[str]


class WatchedModel:
    """Layers of one model.

    Args:
        model: that they are of.
        layers: by name.
        projections: of some of the layers, to which they are then restricted.

    Raises:
        InputError: no layer has a projection.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, nn.Module], projections: Projections | None
    ) -> None:
        if projections is not None:
            layers = {name: layer for name, layer in layers.items() if name in projections}
            if not layers:
                allowed = ", ".join(projections)
                raise InputError(f"no watched layer has a projection; allowed: some of {allowed}")
        self.model, self.layers, self.projections = model, dict(layers), projections
        self._digest: tuple[list[tuple[int, int]], str] | None = None
        self._captures: dict[tuple[Statistics | None, bool, LoggingConfig], Capture] = {}

    @cached_property
    def layout(self) -> Layout:
        """Of the gradients."""
        return Capture(self.model, self.layers, self.projections).layout

    def capture(
        self, statistics: Statistics | None, gradients: bool, config: LoggingConfig
    ) -> Capture:
        """What takes gradients of a batch, the same for the same arguments."""
        key = (statistics, gradients, config)
        if key not in self._captures:
            self._captures[key] = Capture(
                self.model,
                self.layers,
                self.projections,
                dtype=config.computed,
                statistics=statistics,
                gradients=gradients,
            )
        return self._captures[key]

    def identity(self) -> Identity:
        """What the rows of a log depend on: model and projections, by their digests."""
        tensors = unwrapped(self.model).state_dict()
        # Of a large model it takes seconds; a version rises with every change in place.
        versions = [(tensor.data_ptr(), tensor._version) for tensor in tensors.values()]
        if self._digest is None or self._digest[0] != versions:
            self._digest = (versions, digest_of(tensors))
        projections = None if self.projections is None else self.projections.digest
        return {"model": self._digest[1], "projections": projections}


class Filters:
    """Which layers to watch; each filter holds until another one is given."""

    def __init__(self) -> None:
        self.types: Types | None = None
        self.names: Names | None = None

    def update(self, types: Types | None, names: Names | None) -> None:
        """Replace the filters that are given."""
        self.types, self.names = types or self.types, names or self.names

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """See :func:`papers.logra.watching.watched`."""
        return watched(model, self.types, self.names)


def new_projections(
    layers: Mapping[str, nn.Module], config: LoRAConfig, statistics: Statistics
) -> Projections:
    """Projections as configured.

    Args:
        layers: to project.
        config: how.
        statistics: of whole gradients, summed over processes, where ``config.init`` is ``pca``.

    Raises:
        InputError: PCA without both covariances of every layer.
    """
    if config.init != "pca":
        orthonormal = config.init == "orthonormal"
        return random_projections(layers, config.rank, config.seed, orthonormal=orthonormal)
    found = pca_projections(statistics, config.rank)
    missing = [name for name in layers if name not in found]
    if missing:
        raise InputError(f"no covariances of layers {missing}; gathered: {', '.join(found)}")
    return Projections({name: found[name] for name in layers})
