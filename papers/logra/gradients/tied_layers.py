"""Layers that share a weight with a watched one: their gradients of it are parts of its gradient.

GPT-2's head is its embedding: the gradient of that one parameter has a part from each. The watched
layer's block holds their sum.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from common.errors import InputError
from papers.logra.gradients.layers import is_transformers_conv1d
from papers.logra.gradients.parameter_paths import find_parameters
from papers.logra.gradients.watching import find_layers, identify_weight


class Tie(NamedTuple):
    """A layer that uses another one's weight.

    Attributes:
        layer: that uses it.
        owner: name of the watched one, whose block it adds to.
        transposed: whether its gradient (out, inner) is the owner's turned round: one of them
            keeps its weight as (inner, out).
        bias: whether they share the bias too.
    """

    layer: nn.Module
    owner: str
    transposed: bool
    bias: bool

    def of_block(self, total: Tensor, inner: int) -> Tensor:
        """The part (n, out, inner) of the owner's block that this layer's gradient adds to.

        Args:
            total: the block, (n, out, inner) or with one more column, the owner's bias.
            inner: of the owner's weight.
        """
        part = total if self.bias else total[..., :inner]
        return part.mT if self.transposed else part


def ties(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, Tie]:
    """Layers of a model that are not among ``layers`` and share a weight with one, by name.

    Raises:
        InputError: two of ``layers`` share a weight.
    """
    owners: dict[Hashable, str] = {}
    for name, layer in layers.items():
        first = owners.setdefault(identify_weight(layer), name)
        if first != name and layer is not layers[first]:
            raise InputError(
                f"layers {first} and {name} share their weight; allowed: one of them, whose "
                "gradient has both parts"
            )
    own = set(map(id, layers.values()))
    found = {}
    for name, layer in find_layers(model).items():
        owner = owners.get(identify_weight(layer))
        if owner is None or name in layers or id(layer) in own:
            continue
        watched = layers[owner]
        biases = [find_parameters(one, bias=True).get("bias") for one in (layer, watched)]
        found[name] = Tie(
            layer,
            owner,
            transposed=_keeps_inner_first(layer) != _keeps_inner_first(watched),
            bias=biases[0] is biases[1],
        )
    return found


def _keeps_inner_first(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Embedding) or is_transformers_conv1d(type(layer))
