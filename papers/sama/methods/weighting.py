"""Networks whose outputs weight losses: of samples, or of an auxiliary task."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LossWeights(nn.Module):
    """Weights between 0 and 2 from what is known of each sample: an MLP inputs-hidden-1 with ReLU.

    The last layer starts at zero, so that every weight is 1 at first. Source: Shu et al. 2019 for
    the network; twice the sigmoid as in the authors' continued pretraining.

    Args:
        inputs: numbers known of a sample, 1 for its loss alone.
        hidden: width.
        normalise: divide weights by their mean over the batch.
    """

    def __init__(self, inputs: int = 1, hidden: int = 100, normalise: bool = False) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(inputs, hidden), nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.normalise = normalise

    def forward(self, seen: Tensor) -> Tensor:
        """(n,) losses or (n, inputs) numbers -> (n,) weights."""
        weights = self.alone(seen)
        return weights / weights.mean() if self.normalise else weights

    def alone(self, seen: Tensor) -> Tensor:
        """(n,) or (n, inputs) -> (n,) weights that no other sample bears on: not normalised."""
        rows = seen[:, None] if seen.ndim == 1 else seen
        weights: Tensor = 2 * torch.sigmoid(self.out(torch.relu(self.hidden(rows)))[:, 0])
        return weights
