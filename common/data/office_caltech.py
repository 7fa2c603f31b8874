"""Office-Caltech-10 as SURF histograms: ten classes of objects in four domains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.io
from scipy.io.matlab import MatReadError

from common.data.files import check_labels, frozen, reading
from common.data.registry import find
from common.errors import InputError

DOMAINS: Final = ("amazon", "Caltech10", "dslr", "webcam")
#: In the order of the labels, as the image names spell them.
CLASS_NAMES: Final = (
    "back_pack",
    "bike",
    "calculator",
    "headphones",
    "keyboard",
    "laptop_computer",
    "monitor",
    "mouse",
    "mug",
    "projector",
)
WORDS: Final = 800


@dataclass(frozen=True, eq=False)
class Histograms:
    """One domain; the arrays are read-only.

    Attributes:
        counts (n, 800): uint8, how often each visual word occurs in an image.
        labels (n,): int64, index into ``class_names``.
    """

    counts: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...] = CLASS_NAMES

    def __len__(self) -> int:
        return len(self.labels)

    def features(self) -> npt.NDArray[np.float64]:
        """Features (n, 800) as the release advises: rows to sum 1, then columns to z-scores.

        A word that no image of the domain holds is 0 in all of them.
        """
        shares = self.counts / self.counts.sum(axis=1, dtype=np.float64, keepdims=True)
        spread = shares.std(axis=0)
        scores: npt.NDArray[np.float64] = shares - shares.mean(axis=0)
        return scores / np.where(spread > 0, spread, 1.0)


def office_caltech10_surf(domain: str, root: Path | None = None) -> Histograms:
    """SURF histograms of ``domain``, one of ``DOMAINS``: 958, 1123, 157 and 295 images.

    Raises: InputError for another domain, or a file that is absent or malformed.
    Source: Gong, Shi, Sha, Grauman 2012, from Saenko et al. 2010 and Griffin et al. 2007.
    """
    if domain not in DOMAINS:
        raise InputError(f"Office-Caltech-10: no domain {domain!r}; allowed: {', '.join(DOMAINS)}")
    path = find("office_caltech10_surf", root) / f"{domain}_SURF_L10.mat"
    with reading(path):
        try:
            arrays = scipy.io.loadmat(path, variable_names=["fts", "labels"])
        except (MatReadError, NotImplementedError, TypeError) as error:
            raise InputError(f"{path}: not a MATLAB file ({error})") from None
        counts, labels = arrays["fts"], arrays["labels"].ravel().astype(np.int64) - 1
    if counts.shape != (len(labels), WORDS) or counts.dtype != np.uint8:
        raise InputError(
            f"{path}: fts {counts.shape} {counts.dtype}; expected {(len(labels), WORDS)} uint8"
        )
    check_labels(labels, len(CLASS_NAMES), path)
    return Histograms(frozen(counts), frozen(labels))
