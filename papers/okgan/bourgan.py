"""BourGAN's noise and distance loss: a latent mixture that keeps the data's distances.

Source: Xiao, Zhong, Zheng 2018 (BourGAN): points of the data are embedded by their distances to
random subsets (Bourgain 1985), and noise is drawn around the embedded points.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

from common.errors import InputError


class BourgainNoise:
    """Draws noise around embedded data points.

    Each coordinate of the embedding is a point's distance to a random subset; subsets of ``2^i``
    points come in ``rows`` for each i. Samples have the masses of the embedded points, so that
    few of these set a floor to how even they can be.

    Args:
        data: (n, d) points, some hundreds.
        dimensions: of the noise: the embedding is projected to its principal axes.
        rows: subsets of each size.
        deviation: of the noise around a point.
        seed: of subsets.

    Raises:
        InputError: fewer than two points, or one that is not finite.
    """

    def __init__(
        self,
        data: Tensor,
        dimensions: int,
        rows: int = 5,
        deviation: float = 0.01,
        seed: int = 0,
    ) -> None:
        if len(data) < 2:
            raise InputError(f"Bourgain's embedding: {len(data)} points; allowed: 2 or more")
        if not bool(data.isfinite().all()):
            raise InputError("Bourgain's embedding: points are not finite")
        rng = np.random.default_rng(seed)
        distances = cdist(data.flatten(1).numpy(), data.flatten(1).numpy())
        columns = []
        for power in range(1, max(2, math.ceil(math.log2(len(data))))):
            for _ in range(rows):
                subset = rng.choice(len(data), min(2**power, len(data) - 1), replace=False)
                columns.append(distances[:, subset].min(axis=1))
        embedded = np.stack(columns, axis=1)
        embedded -= embedded.mean(axis=0)
        axes = np.linalg.svd(embedded, full_matrices=False)[2][:dimensions]
        points = np.zeros((len(data), dimensions))
        points[:, : len(axes)] = embedded @ axes.T
        mean = pdist(points).mean()
        #: Data distances over latent ones.
        self.scale = float(pdist(data.flatten(1).numpy()).mean() / mean) if mean else 1.0
        self.points = torch.from_numpy(points).to(data.dtype)
        self.deviation = deviation

    def __call__(self, count: int) -> Tensor:
        """(count, dimensions), by torch's own generator."""
        rows = torch.randint(len(self.points), (count,))
        noise = torch.randn(count, self.points.shape[1], dtype=self.points.dtype)
        return self.points[rows] + self.deviation * noise


def distance_loss(samples: Tensor, noise: Tensor, scale: float) -> Tensor:
    """Mean square of ``ln |x - x'| - ln(scale |z - z'|)`` over pairs of a batch's two halves."""
    half = len(samples) // 2
    x = (samples[:half] - samples[half : 2 * half]).flatten(1).norm(dim=1)
    z = (noise[:half] - noise[half : 2 * half]).norm(dim=1)
    return (torch.log(x + 1e-8) - torch.log(scale * z + 1e-8)).square().mean()
