"""Plain deep networks: no normalisation, no skips, so that the Jacobian decides."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal

from torch import Tensor, nn

from papers.ojr.isometric import MaxMin

Activation = Literal["tanh", "relu", "maxmin"]
ACTIVATIONS: Final[dict[Activation, type[nn.Module]]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "maxmin": MaxMin,
}


class PlainNetwork(nn.Module):
    """Linear layers with an activation each, and a linear head.

    Args:
        inputs, width, depth, classes: features of an example, units of a layer, layers, outputs.
    """

    def __init__(
        self, inputs: int, width: int, depth: int, classes: int, activation: Activation
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), ACTIVATIONS[activation]())
                for before, after in pairwise(sizes)
            )
        )
        self.head = nn.Linear(width, classes)

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers' linear maps, without the head."""
        return [module for module in self.layers.modules() if isinstance(module, nn.Linear)]

    @property
    def blocks(self) -> list[str]:
        """Names of the layers as modules of the network."""
        return [f"layers.{place}" for place in range(len(self.layers))]

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) -> (n, classes) logits."""
        logits: Tensor = self.head(self.layers(x))
        return logits
