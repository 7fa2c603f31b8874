"""Distances between images by features of a network of the caller's choice.

Frechet and kernel distance (Heusel et al. 2017, Binkowski et al. 2018) and precision and recall of
manifolds (Kynkaanniemi et al. 2019) are torch-fidelity's own functions; with Inception's pooled
features they are FID and KID, with those of a small classifier they are not comparable to them.
"""

from __future__ import annotations

from torch import Tensor

from common.errors import InputError
from papers.okgan.divergence import DivergedError

#: Subsets that the kernel distance is a mean over, and the samples in each, at most.
SUBSETS, SUBSET = 20, 500


def image_distances(fake: Tensor, real: Tensor, neighbours: int = 3) -> dict[str, float]:
    """``frechet``, ``kernel`` (squared MMD), ``precision_pct`` and ``recall_pct``.

    Args:
        fake: (n, d) features of generated images.
        real: (m, d) of real ones.
        neighbours: that a ball of the manifold reaches to.

    Raises:
        InputError: other features, or too few images for a covariance or a ball.
        DivergedError: a feature is not finite.
    """
    # Loading the package takes seconds; runs that judge no images are spared it.
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    if fake.ndim != 2 or real.ndim != 2 or fake.shape[1] != real.shape[1]:
        raise InputError(
            f"image distances: features {tuple(fake.shape)} and {tuple(real.shape)}; allowed: two"
            " tables with as many columns"
        )
    fewest = max(2, neighbours + 1)
    if min(len(fake), len(real)) <= fewest:
        raise InputError(
            f"image distances: {len(fake)} and {len(real)} images; allowed: above {fewest}"
        )
    if not bool(real.isfinite().all()):
        raise InputError("image distances: features of real images are not finite")
    if not bool(fake.isfinite().all()):
        raise DivergedError("image distances: features of generated images are not finite")
    fake, real = fake.double(), real.double()
    statistics = [fid_features_to_statistics(each) for each in (fake, real)]
    size = min(SUBSET, len(fake), len(real))
    kernel = kid_features_to_metric(
        fake, real, kid_subsets=SUBSETS, kid_subset_size=size, verbose=False
    )
    manifolds = prc_features_to_metric(
        fake, real, prc_neighborhood=neighbours, save_cpu_ram=False, verbose=False
    )
    frechet = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    return {
        "frechet": float(frechet),
        "kernel": float(kernel["kernel_inception_distance_mean"]),
        "precision_pct": 100 * float(manifolds["precision"]),
        "recall_pct": 100 * float(manifolds["recall"]),
    }
