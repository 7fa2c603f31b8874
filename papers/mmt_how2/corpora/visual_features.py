"""How many directions pictures' features vary in, and whether what varies is what matters.

Sources: Sec. 3.2.1 of Raunak et al. 2019; Mu and Viswanath 2018 read the same off word embeddings.
The share of the leading directions rises with directions that all pictures share and with repeated
pictures, but falls with noise that hides everything: it says little without an accuracy beside it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from papers.mmt_how2.corpora.picture_vectors import Scenes, Vectors, nearest_scene

COMPONENTS: Final = 100
#: Numbers of leading components that shares are added up over.
LEADING: Final = (10, 20, 50, 100)


def variance_shares(
    features: npt.NDArray[Any], components: int = COMPONENTS
) -> npt.NDArray[np.float64]:
    """Share of the variance of *all* dimensions along each leading principal direction.

    Args:
        features (n, d): one row a sentence.

    Returns: (min(components, n, d),), falling.
    Raises: InputError if all rows are alike, there is only one, or a number is NaN or infinite.
    """
    from sklearn.decomposition import PCA

    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise InputError(f"row {int(np.argmin(finite)) + 1} of the features holds NaN or infinity")
    if len(features) < 2 or not np.ptp(features, axis=0).any():
        raise InputError(f"{len(features)} rows of features do not vary; needed two that differ")
    # In float64: the solver subtracts the mean from a sum of squares.
    analysis = PCA(min(components, *features.shape), svd_solver="covariance_eigh")
    shares: npt.NDArray[np.float64] = analysis.fit(
        np.asarray(features, dtype=np.float64)
    ).explained_variance_ratio_
    return shares


def cumulative_shares_pct(shares: npt.NDArray[np.float64]) -> dict[int, float]:
    """Percent of the variance along the first 10, 20, 50 and 100 directions."""
    return {count: 100 * float(shares[:count].sum()) for count in LEADING}


def scene_accuracy(vectors: Vectors, looks: npt.NDArray[np.float64], scenes: Scenes) -> float:
    """Share of pictures that are nearest to the prototype of their sentence's scene."""
    return float((nearest_scene(vectors, looks) == scenes).mean())
