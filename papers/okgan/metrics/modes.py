"""Modes found, share of samples near one, and how evenly mass is spread over them.

Source: Srivastava et al. 2017 and Lin et al. 2018 for modes and high quality; the reverse
Kullback-Leibler divergence as the authors of OKGAN compute it (code of June 2020).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from common.errors import InputError
from papers.okgan.divergence import DivergedError

Points = npt.NDArray[np.floating]
#: Samples this many standard deviations from a mode are of high quality.
DEVIATIONS = 3.0


class Balance(NamedTuple):
    """What samples of a mixture are worth.

    Attributes:
        modes: with at least one high-quality sample.
        high_quality: share of samples within three deviations of a mode, 0 to 1.
        reverse_kl: of the shares of high-quality samples over modes to the true ones; other samples
            are left out, as published.
        reverse_kl_all: the same with each sample counted to its nearest mode, however far.
    """

    modes: int
    high_quality: float
    reverse_kl: float
    reverse_kl_all: float


def balance_over_modes(
    samples: Points, means: Points, deviation: float, shares: Points | None = None
) -> Balance:
    """Of samples (n, d) of a mixture of K equally wide modes.

    Args:
        means: (K, d).
        deviation: of each mode along each axis.
        shares: (K,) mass of each mode; equal by default.

    Raises:
        InputError: there is no sample.
        DivergedError: one is not finite.
    """
    check_finite(samples)
    distances, nearest = cKDTree(means).query(samples)
    near = distances <= DEVIATIONS * deviation
    true = np.full(len(means), 1 / len(means)) if shares is None else shares / shares.sum()

    def divergence(rows: npt.NDArray[np.bool_]) -> float:
        return reverse_kl(np.bincount(nearest[rows], minlength=len(means)), true)

    counted = np.bincount(nearest[near], minlength=len(means))
    return Balance(
        int((counted > 0).sum()),
        float(near.mean()),
        divergence(near),
        divergence(np.ones(len(samples), dtype=bool)),
    )


def reverse_kl(counts: npt.NDArray[np.integer], shares: Points) -> float:
    """``sum p ln(p / q)`` of observed shares p to true ones q.

    Where nothing was counted it is the worst there is, that of the rarest mode alone. A perfect
    sampler's is about ``(K - 1) / (2n)``, for K cells and n samples.

    Raises:
        InputError: a share that is not above 0.
    """
    if not (shares > 0).all():
        raise InputError(f"shares {shares.tolist()}: allowed: above 0")
    if not counts.sum():
        return float(-np.log(shares.min()))
    p = counts / counts.sum()
    seen = p > 0
    return float((p[seen] * np.log(p[seen] / shares[seen])).sum())


def balance_of_circle(
    samples: Points, radius: float, deviation: float, centre_share: float
) -> tuple[Balance, bool]:
    """(balance, whether the centre is captured) of a ring of modes with a blob at its centre.

    Its two cells are the annulus of three deviations around the ring, and the disc of three
    deviations around the centre.

    Raises:
        InputError: as :func:`balance_over_modes`.
    """
    check_finite(samples)
    lengths = np.linalg.norm(samples, axis=1)
    off_ring = np.abs(lengths - radius)
    centre, ring = lengths < DEVIATIONS * deviation, off_ring < DEVIATIONS * deviation
    true = np.array([1 - centre_share, centre_share])
    cells = np.array([ring.sum(), centre.sum()])
    nearer_centre = lengths < off_ring
    everyone = np.array([(~nearer_centre).sum(), nearer_centre.sum()])
    found = Balance(
        int((cells > 0).sum()),
        float((centre | ring).mean()),
        reverse_kl(cells, true),
        reverse_kl(everyone, true),
    )
    return found, bool(centre.any())


def check_finite(samples: Points) -> None:
    """Raise DivergedError for samples that are not finite, InputError for none."""
    if not len(samples):
        raise InputError("samples: none; allowed: one or more")
    bad = int((~np.isfinite(samples).reshape(len(samples), -1).all(axis=1)).sum())
    if bad:
        raise DivergedError(
            f"samples: {bad} of {len(samples)} are not finite: the generator has diverged"
        )
