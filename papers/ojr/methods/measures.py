"""What is measured of a trained network: loss, accuracy, singular values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.tasks.scores import accuracy
from papers.ojr.orthogonality import evaluation
from papers.ojr.spectrum import largest_singular_values, rms_singular_values, singular_values
from papers.ojr.tasks.images import Part
from papers.ojr.tasks.networks import BlockNetwork

#: Images that a network gets at once.
ROWS: Final = 512
#: Entries of a Jacobian of which all singular values are taken.
WHOLE: Final = 2**18


def batches(network: nn.Module, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and classes where the network is."""
    device = next(network.parameters()).device
    for x, y in zip(torch.split(part.x, ROWS), torch.split(part.y, ROWS), strict=True):
        yield x.to(device), y.to(device)


@torch.no_grad()
def logits_of(network: nn.Module, part: Part) -> Tensor:
    """(n, classes), on the CPU."""
    return torch.cat([network(x).cpu() for x, _ in batches(network, part)])


def accuracy_pct(network: nn.Module, part: Part) -> float:
    """Share of right classes."""
    return accuracy(logits_of(network, part), part.y)


def loss_of(network: nn.Module, part: Part) -> float:
    """Mean cross-entropy in nats."""
    return functional.cross_entropy(logits_of(network, part), part.y).item()


class Spectrum:
    """Singular values of the map from images to the last block, over some images.

    Attributes:
        numbers: root mean square and largest, means over images; where all values can be had, their
            mean and the smallest as well.
        values: (images, side) all of them, None where the map is too large.
    """

    def __init__(self, network: BlockNetwork, x: Tensor) -> None:
        x = x.to(next(network.parameters()).device)
        self.values: Tensor | None = None
        with evaluation(network):
            with torch.no_grad():
                outputs = network.layers(x[:1]).numel()
            if outputs * x[0].numel() <= WHOLE:
                self.values = singular_values(network.layers, x).cpu()
                self.numbers = _summary(self.values)
            else:
                self.numbers = _estimated(network.layers, x)


def _summary(values: Tensor) -> dict[str, float]:
    return {
        "rms_singular_value": values.square().mean(1).sqrt().mean().item(),
        "mean_singular_value": values.mean().item(),
        "smallest_singular_value": values.amin(1).mean().item(),
        "largest_singular_value": values.amax(1).mean().item(),
    }


def _estimated(block: nn.Module, x: Tensor) -> dict[str, float]:
    rms = rms_singular_values(block, x).mean().item()
    # Lanczos has nothing to start from where a network has died.
    largest = largest_singular_values(block, x, 1).mean().item() if rms else 0.0
    return {"rms_singular_value": rms, "largest_singular_value": largest}
