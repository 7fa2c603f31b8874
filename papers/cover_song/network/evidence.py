"""What in a matrix speaks for a cover: gradient times input of the network's log-odds."""

from __future__ import annotations

import torch
from torch import nn

from papers.cover_song.network.architectures import log_odds


def evidence(network: nn.Module, matrices: torch.Tensor) -> torch.Tensor:
    """Share of each cell in the log-odds, to first order: (n, 1, T, T) to (n, T, T).

    Positive cells speak for a cover. The network is left in evaluation mode.
    """
    network.eval()
    inputs = matrices.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(log_odds(network(inputs)).sum(), inputs)
    return (gradient * inputs.detach())[:, 0]
