"""The cheap measures of all pairs of a set of songs, streamed through the compiled kernel.

Scores are higher for what is more alike: ``scores[i, j]`` is of query i and reference j.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from papers.cover_song.similarity import kernel
from papers.cover_song.similarity.chroma_set import ChromaSet, unit_frames
from papers.cover_song.similarity.transposition import best_shifts

Measure = Literal["mean", "dtw", "simple", "qmax", "dmax"]
MEASURES: Final = get_args(Measure)
#: Pairs that are handed to the kernel at once: what is held beside the scores.
BATCH: Final = 4096
_COLUMNS: Final[dict[str, tuple[int, ...]]] = {
    "mean": (kernel.MEAN,),
    "dtw": (kernel.DTW,),
    "simple": (kernel.SIMPLE_XY, kernel.SIMPLE_YX),
    "qmax": (kernel.QMAX,),
    "dmax": (kernel.DMAX,),
}


@dataclass(frozen=True)
class Alignment:
    """How songs are compared; values are those of the toolbox acoss, at one frame a second.

    Attributes:
        shifts: best transpositions that are tried, 1 to 12; 0 for none, the keys as they are.
        window, smoothing: of SiMPle, frames of a window and of the Hann window less two.
        stack: of Qmax, frames of a delay embedding.
        kappa: share of a row or column that counts as near.
        onset, extension: cost of beginning and of going on with a gap.
    """

    shifts: int = 1
    window: int = 10
    smoothing: int = 4
    stack: int = 4
    kappa: float = 0.095
    onset: float = 0.5
    extension: float = 0.5

    @property
    def shortest(self) -> int:
        """Frames that a song must have for all measures."""
        return max(self.window, self.stack) + 3


def smoothed(frames: NDArray[np.float32], smoothing: int) -> NDArray[np.float32]:
    """Frames averaged by a Hann window of ``smoothing`` + 2 points: (songs, T, 12), unit again."""
    weights = np.hanning(smoothing + 2)[1:-1]
    padded = np.pad(frames, ((0, 0), (smoothing // 2, (smoothing - 1) // 2), (0, 0)))
    count = frames.shape[1]
    total = sum(
        np.float32(weight) * padded[:, k : k + count]
        for k, weight in enumerate(weights / weights.sum())
    )
    return unit_frames(total)


def pair_batches(songs: int, batch: int = BATCH) -> Iterator[NDArray[np.int64]]:
    """All pairs i < j of ``songs``, (at most ``batch`` plus one row, 2) at a time, in order."""
    held: list[NDArray[np.int64]] = []
    count = 0
    for i in range(songs - 1):
        held.append(np.stack([np.full(songs - 1 - i, i), np.arange(i + 1, songs)], axis=1))
        count += songs - 1 - i
        if count >= batch:
            yield np.concatenate(held)
            held, count = [], 0
    if held:
        yield np.concatenate(held)


def pair_shifts(songs: ChromaSet, pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Semitones that the second of each pair is moved up by: (p, count); zeros for a count of 0."""
    if not count:
        return np.zeros((len(pairs), 1), np.int64)
    return best_shifts(songs.profiles[pairs[:, 0]], songs.profiles[pairs[:, 1]], count)


class Aligner:
    """Scores of pairs of one set of songs by several measures at once.

    Args:
        songs: the set.
        measures: which ones.
        alignment: how.

    Raises:
        InputError: a song is too short, named by its place.
    """

    def __init__(
        self, songs: ChromaSet, measures: Sequence[Measure], alignment: Alignment | None = None
    ) -> None:
        self.songs, self.measures = songs, tuple(measures)
        self.alignment = alignment or Alignment()
        least = self.alignment.shortest
        for place in np.flatnonzero(songs.lengths < least):
            raise InputError(
                f"song {place}: has {songs.lengths[place]} frames that sound; allowed: from"
                f" {least} on"
            )
        self._wanted = np.zeros(kernel.COLUMNS, np.bool_)
        for measure in self.measures:
            self._wanted[list(_COLUMNS[measure])] = True
        needs_smoothing = "simple" in self.measures
        self._smoothed = (
            smoothed(songs.frames, self.alignment.smoothing) if needs_smoothing else songs.frames
        )

    def columns(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the kernel gives for pairs (p, 2): (p, 7)."""
        out = np.full((len(pairs), kernel.COLUMNS), np.nan)
        how = self.alignment
        kernel.score_pairs(
            self.songs.frames,
            self._smoothed,
            self.songs.lengths,
            pairs,
            pair_shifts(self.songs, pairs, how.shifts),
            self._wanted,
            how.window,
            how.stack,
            how.kappa,
            how.onset,
            how.extension,
            out,
        )
        return out

    def score(
        self, pairs: NDArray[np.int64], measure: Measure
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores of the first of each pair as the query, and of the second: (p,) each."""
        return self.oriented(self.columns(pairs), pairs, measure)

    def oriented(
        self, columns: NDArray[np.float64], pairs: NDArray[np.int64], measure: Measure
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As :meth:`score`, from what :meth:`columns` gave for these pairs: (p,) each."""
        first = columns[:, _COLUMNS[measure][0]]
        if measure in ("qmax", "dmax"):
            # Divided by the root of the reference's length.
            root = np.sqrt(self.songs.lengths)
            return first / root[pairs[:, 1]], first / root[pairs[:, 0]]
        return -first, -columns[:, _COLUMNS[measure][-1]]

    def all_pairs(
        self, advance: Callable[[int], object] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """(songs, songs) of each measure, the diagonal NaN; ``advance`` is told of pairs done."""
        count = len(self.songs)
        found: dict[str, NDArray[np.float64]] = {
            measure: np.full((count, count), np.nan) for measure in self.measures
        }
        for pairs in pair_batches(count):
            columns = self.columns(pairs)
            i, j = pairs.T
            for measure, scores in found.items():
                scores[i, j], scores[j, i] = self.oriented(columns, pairs, measure)  # type: ignore[arg-type]
            if advance:
                advance(len(pairs))
        return found
