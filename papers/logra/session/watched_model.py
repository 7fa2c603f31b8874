"""A model, its watched layers, and how their gradients are projected."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn

from common.errors import InputError
from papers.logra.curvature.moments import Eigenbasis, Statistics
from papers.logra.curvature.tensor_files import digest_tensors
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.projections import Projections, pca_projections, random_projections
from papers.logra.gradients.watching import unwrapped, watched
from papers.logra.log_store.manifest import Identity
from papers.logra.session.configs import LoggingConfig, LoRAConfig

Types = Collection[type[nn.Module]]
Names = Collection[str]

#: The block that all layers share where no groups are given.
ALL_LAYERS = "shared"


class WatchedModel:
    """Layers of one model.

    Args:
        model: that they are of.
        layers: by name.
        projections: of some of the layers, to which they are then restricted.
        bias: whether biases count.

    Raises:
        InputError: no layer has a projection, or one of another shape.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        projections: Projections | None,
        bias: bool = False,
    ) -> None:
        if projections is not None:
            layers = {name: layer for name, layer in layers.items() if name in projections}
            if not layers:
                allowed = ", ".join(projections)
                raise InputError(f"no watched layer has a projection; allowed: some of {allowed}")
        self.model, self.layers, self.projections = model, dict(layers), projections
        self.bias = bias
        #: Which columns of a gradient belong to which layer.
        self.layout = Capture(
            model, self.layers, projections, shared=self._shared, bias=bias
        ).layout
        self._captures: dict[tuple[Statistics | None, bool, LoggingConfig], Capture] = {}
        #: The capture of a pass that corrects eigenvalues alone, and the eigenvectors it has.
        self._rotated: tuple[Mapping[str, Eigenbasis], Capture] | None = None

    def capture(
        self,
        statistics: Statistics | None,
        gradients: bool,
        config: LoggingConfig,
        rotated: bool = False,
    ) -> Capture:
        """What takes gradients of a batch, the same for the same arguments.

        Args:
            statistics, gradients, rotated: as of :class:`Capture`.
            config: says the type of gradients.
        """
        if rotated and statistics is not None:
            bases = statistics.eigenbases
            if self._rotated is None or self._rotated[0] is not bases:
                self._rotated = bases, self._new_capture(statistics, gradients, config, True)
            return self._rotated[1]
        self._rotated = None  # as much memory as all eigenvectors
        key = (statistics, gradients, config)
        if key not in self._captures:
            self._captures[key] = self._new_capture(*key, False)
        return self._captures[key]

    def _new_capture(
        self, statistics: Statistics | None, gradients: bool, config: LoggingConfig, rotated: bool
    ) -> Capture:
        return Capture(
            self.model,
            self.layers,
            self.projections,
            shared=self._shared,
            bias=self.bias,
            dtype=config.computed,
            statistics=statistics,
            gradients=gradients,
            rotated=rotated,
        )

    @property
    def _shared(self) -> Mapping[str, str]:
        return {} if self.projections is None else self.projections.shared

    def identity(self, weights: bool = True) -> Identity:
        """What the rows of a log depend on: model and projections, by their digests.

        By their content each time, about 0.4 s for 100 million parameters in float32: a tensor's
        version does not rise with every change, as of ``parameter.data``.

        Args:
            weights: False leaves the model's out.
        """
        projections = None if self.projections is None else self.projections.digest
        if not weights:
            return {"model": None, "projections": projections}
        return {
            "model": digest_tensors(unwrapped(self.model).state_dict()),
            "projections": projections,
        }


class Filters:
    """Which layers to watch, and whether with biases; each holds until another one is given."""

    def __init__(self, bias: bool = False) -> None:
        self.types: Types | None = None
        self.names: Names | None = None
        self.bias = bias

    def update(self, types: Types | None, names: Names | None, bias: bool | None = None) -> None:
        """Replace the filters that are given."""
        self.types, self.names = types or self.types, names or self.names
        self.bias = self.bias if bias is None else bias

    def layers(self, model: nn.Module) -> dict[str, nn.Module]:
        """See :func:`papers.logra.gradients.watching.watched`."""
        return watched(model, self.types, self.names)


def new_projections(
    layers: Mapping[str, nn.Module],
    config: LoRAConfig,
    statistics: Statistics,
    bias: bool = False,
) -> Projections:
    """Projections as configured.

    Args:
        layers: to project.
        config: how.
        statistics: of whole gradients, summed over processes, where ``config.init`` is ``pca``.
        bias: whether biases count.

    Raises:
        InputError: PCA without both covariances of every layer, or layers that cannot share.
    """
    shared = {name: _find_group(name, config) for name in layers if config.parameter_sharing}
    if config.init != "pca":
        orthonormal = config.init == "orthonormal"
        found = random_projections(
            layers, config.rank, config.seed, bias=bias, orthonormal=orthonormal
        )
    else:
        found = pca_projections(statistics, config.rank)
    missing = [name for name in layers if name not in found]
    if missing:
        raise InputError(f"no covariances of layers {missing}; gathered: {', '.join(found)}")
    return Projections({name: found[name] for name in layers}, shared)


def _find_group(layer: str, config: LoRAConfig) -> str:
    """The group that shares this layer's block."""
    if config.parameter_sharing_groups is None:
        return ALL_LAYERS
    groups = [group for group in config.parameter_sharing_groups if group in layer]
    if len(groups) != 1:
        raise InputError(
            f"layer {layer} is in parameter_sharing_groups {groups}; allowed: one of"
            f" {config.parameter_sharing_groups}, whose name is a part of the layer's"
        )
    return groups[0]
