"""The path of a discriminator's values on fixed points, and numbers that say whether it cycles.

Source: Youn et al. 2020 for the path (values on 500 fixed points, two principal components); the
numbers are ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA

from common.errors import InputError
from papers.okgan.metrics.modes import Points


class Path(NamedTuple):
    """A discriminator's path.

    Attributes:
        coordinates: (T, 2) along the two first principal components.
        planarity: share of the variance that they explain, 0 to 1; a smooth loop's is near 1, that
            of a path that stands still 0.
        swing: largest less smallest share of the points that were told to be real, over the
            second half.
        turns: of the path around its mean, in full circles; of a noisy path it says nothing.
        revisits: length of the path over the distance of its ends; infinite where these are one.
    """

    coordinates: Points
    planarity: float
    swing: float
    turns: float
    revisits: float


def describe_path(values: Points) -> Path:
    """Of values (T, P), each row one time's on P real points; above 0 means "real".

    Raises:
        InputError: fewer than three times, or a value that is not finite.
    """
    if len(values) < 3:
        raise InputError(f"path: {len(values)} times; allowed: 3 or more")
    if not np.isfinite(values).all():
        raise InputError("path: values are not finite; allowed: finite ones")
    if not np.ptp(values, axis=0).any():
        return Path(np.zeros((len(values), 2)), 0.0, 0.0, 0.0, float("inf"))
    pca = PCA(2)
    coordinates = pca.fit_transform(values)
    told = (values > 0).mean(axis=1)[len(values) // 2 :]
    centred = coordinates - coordinates.mean(axis=0)
    angles = np.unwrap(np.arctan2(centred[:, 1], centred[:, 0]))
    steps = np.linalg.norm(np.diff(coordinates, axis=0), axis=1)
    apart = np.linalg.norm(coordinates[-1] - coordinates[0])
    return Path(
        coordinates,
        float(pca.explained_variance_ratio_.sum()),
        float(told.max() - told.min()),
        float(abs(angles[-1] - angles[0]) / (2 * np.pi)),
        float(steps.sum() / apart) if apart else float("inf"),
    )
