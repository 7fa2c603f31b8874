"""Kullback-Leibler divergence between two samples by distances to nearest neighbours.

Source: Wang, Kulkarni, Verdu 2009, equation 5, as the authors' code of October 2020 has it.
"""

from __future__ import annotations

import numpy as np

from common.errors import InputError
from papers.okgan.metrics.modes import Points, check_finite


def neighbour_kl(p: Points, q: Points, k: int = 10) -> float:
    """Estimate of ``KL(P || Q)``: ``(d/n) sum_i ln(nu_k(i) / rho_k(i)) + ln(m / (n - 1))``.

    rho is the distance of a point of P to its k-th neighbour in P, nu to that in Q. With generated
    points as P and real ones as Q it is the reverse divergence. Of equal points of P it would be
    infinite: they count as being as far apart as single precision tells.

    Args:
        p: (n, d).
        q: (m, d).

    Raises:
        InputError: fewer than k + 1 points, or so many equal ones in Q that a distance is 0.
        DivergedError: points that are not finite.
    """
    from scipy.spatial import cKDTree  # takes half a second, which mixtures are spared

    for name, points in (("p", p), ("q", q)):
        check_finite(points)
        if len(points) <= k:
            raise InputError(f"neighbour_kl: {name} has {len(points)} points; allowed: above {k}")
    # The nearest point of P is the point itself.
    told_apart = np.finfo(np.float32).eps * max(np.abs(p).max(), np.abs(q).max())
    rho = np.maximum(cKDTree(p).query(p, [k + 1])[0][:, 0], told_apart)
    nu = cKDTree(q).query(p, [k])[0][:, 0]
    if not nu.min():
        raise InputError(f"neighbour_kl: {k} points or more are equal; allowed: distinct ones")
    d, n, m = p.shape[1], len(p), len(q)
    return float(d * np.log(nu / rho).mean() + np.log(m / (n - 1)))
