"""Picture vector to the translator's space (Raunak et al. 2019, section 2.1)."""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

#: Order of the layers: the workshop's text and figure; the other order; ASR correction's.
ORDERS: Final = ("linear_relu_norm", "linear_norm_relu", "linear")


class VisualEncoder(nn.Module):
    """Linear map, rectifier and batch normalisation of one picture vector a sentence.

    A sequence of vectors is averaged first, as How2's features are averages over their video's
    chunks: every one of the t vectors counts, so none may be padding.

    Args:
        features: D, size of the picture vector.
        size: p, size of its encoding.
        order: one of :data:`ORDERS`.
    """

    def __init__(self, features: int, size: int, order: str) -> None:
        super().__init__()
        self.order = order
        self.linear = nn.Linear(features, size)
        self.norm = None if order == "linear" else nn.BatchNorm1d(size)

    def forward(self, visual: Tensor) -> Tensor:
        """(B, D) or (B, t, D) to (B, p)."""
        if visual.dim() == 3:
            visual = visual.mean(dim=1)
        encoded: Tensor = self.linear(visual)
        if self.norm is None:
            return encoded
        if self.order == "linear_norm_relu":
            return F.relu(self._normalised(self.norm, encoded))
        return self._normalised(self.norm, F.relu(encoded))

    @staticmethod
    def _normalised(norm: nn.BatchNorm1d, encoded: Tensor) -> Tensor:
        if norm.training and len(encoded) == 1:  # One sentence has no variance.
            return F.batch_norm(
                encoded, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        normalised: Tensor = norm(encoded)
        return normalised
