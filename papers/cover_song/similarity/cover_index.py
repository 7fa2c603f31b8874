"""An index: candidates of a query among very many songs, by one vector a song.

Vectors are roots of the Fourier magnitudes that :mod:`fourier_index` describes a song by, moved to
where versions of one work lie near each other (linear discriminants, learned from works). All
likenesses are one matrix product: of 100,000 songs and a query it takes some milliseconds, and
leaves nothing out that an approximate index might.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from common.errors import InputError

Vectors = NDArray[np.float32]
#: Likenesses that are in memory at once: 64 MB.
_BLOCK = 1 << 24


@dataclass(frozen=True, eq=False)
class WorkSpace:
    """Where versions of a work lie near each other.

    Attributes:
        mean (d,): of roots of magnitudes.
        directions (d, k): discriminants, the strongest first.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]

    def __call__(self, magnitudes: ArrayLike) -> Vectors:
        """Unit vectors of songs: (n, d) magnitudes, not below zero, to (n, k)."""
        moved = (np.sqrt(np.asarray(magnitudes, np.float64)) - self.mean) @ self.directions
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        return (moved / np.where(norms > 0, norms, 1)).astype(np.float32)


def learn_work_space(
    magnitudes: ArrayLike, works: ArrayLike, dimensions: int = 64, shrinkage: float = 0.1
) -> WorkSpace:
    """Discriminants of works, by scikit-learn.

    Args:
        magnitudes: (n, d), of ``fourier_index.describe``.
        works: (n,), of each song; several of them have versions.
        dimensions: k, at most d and one less than there are works.
        shrinkage: of the covariance inside works towards a multiple of the identity, 0 to 1.

    Raises: InputError for too few works, or none with two versions.
    """
    labels = np.asarray(works)
    _, counts = np.unique(labels, return_counts=True)
    roots = np.sqrt(np.asarray(magnitudes, np.float64))
    most = min(len(counts) - 1, roots.shape[1])
    if not 1 <= dimensions <= most or counts.max() < 2:
        raise InputError(
            f"dimensions {dimensions}, {len(counts)} works, at most {counts.max()} versions:"
            f" allowed: 1 to {most} dimensions, a work with two versions"
        )
    learned = LinearDiscriminantAnalysis(
        solver="eigen", shrinkage=shrinkage, n_components=dimensions
    ).fit(roots, labels)
    return WorkSpace(roots.mean(axis=0), learned.scalings_[:, :dimensions])


class CoverIndex:
    """Songs by their vectors.

    Args:
        vectors: (songs, k), unit; of a :class:`WorkSpace`, or of ``fourier_index.describe``.
    """

    def __init__(self, vectors: Vectors) -> None:
        if vectors.ndim != 2 or not len(vectors) or not np.isfinite(vectors).all():
            raise InputError(
                f"vectors {vectors.shape}: allowed: (songs, k), finite, a song or more"
            )
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(
        self, queries: Vectors, count: int, but: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """The ``count`` songs most alike each query, the most alike first: (q, k) to (q, count).

        Args:
            but: (q,), a song that is no candidate: the query's own place.

        Raises: InputError if there are not as many songs.
        """
        there = len(self) - (but is not None)
        if not 1 <= count <= there:
            raise InputError(f"count {count}: allowed: 1 to {there}")
        rows = max(1, _BLOCK // len(self))
        found = np.empty((len(queries), count), np.int64)
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            likeness = queries[part] @ self.vectors.T
            if but is not None:
                likeness[np.arange(len(likeness)), but[part]] = -np.inf
            near = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
            order = np.argsort(-np.take_along_axis(likeness, near, axis=1), axis=1, kind="stable")
            found[part] = np.take_along_axis(near, order, axis=1)
        return found
