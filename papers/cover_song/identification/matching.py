"""A query against candidates: scores, what they are worth beside those of other songs, the key.

Absolute scores mean little, for some songs are near to all. So each candidate's score is set
against those that it gives to other songs of the folder, most of which are no covers of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from papers.cover_song.similarity import kernel
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import Aligner, Alignment
from papers.cover_song.similarity.path import distance_matrix, match_in_key

if TYPE_CHECKING:
    from papers.cover_song.network.coarse import PairNetwork

Measure = Literal["qmax", "dmax", "simple", "dtw", "cnn"]
#: Fewest songs beside which a score can be judged; most that each candidate is compared with.
FEWEST, COHORT = 30, 100
#: Mean distance of frames (DTW, unit vectors) below which two files hold one recording.
SAME_RECORDING: Final = 0.05
#: Seconds that have to sound in both where one is compared with the beginning of another:
#: different made-up works come as near as 0.077 in thirty seconds, 0.228 in 64.
LEAST_OVERLAP: Final = 30
#: Keys that are tried: the best by the global profile is wrong for one pair in six.
KEYS: Final = 2
#: Candidates that the network looks at, after Qmax.
CANDIDATES: Final = 50
#: Shares of scores between which the tail of non-covers is fitted: above are covers, maybe.
TAIL: Final = (0.25, 0.05)


@dataclass(frozen=True, eq=False)
class Standard:
    """What candidates give to songs of the folder.

    Attributes:
        middle, spread (songs,): median of the scores of each as a reference, and their median
            deviation from it times 1.48, which is the standard one of a normal distribution. Covers
            among the others, which are few, move neither.
        z: all of these scores, standardised.
    """

    middle: NDArray[np.float64]
    spread: NDArray[np.float64]
    z: NDArray[np.float64]

    def exceedance(self, z: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Share of non-covers expected above z: counted below the tail, exponential in it."""
        low, rate = self._tail()
        values = np.asarray(z, dtype=np.float64)
        ordered = np.sort(self.z)
        counted = 1 - np.searchsorted(ordered, values, side="right") / len(ordered)
        return np.where(values > low, TAIL[0] * np.exp(-rate * (values - low)), counted)

    def threshold(self, candidates: int, false_alarms: float) -> float:
        """The z above which ``false_alarms`` non-covers are expected among ``candidates``."""
        low, rate = self._tail()
        share = min(false_alarms / candidates, TAIL[0])
        return float(low + np.log(TAIL[0] / share) / rate)

    def _tail(self) -> tuple[float, float]:
        """The z at which the tail of non-covers begins, and by how much a z of 1 thins it."""
        low, high = np.quantile(self.z, [1 - share for share in TAIL])
        return low, np.log(TAIL[0] / TAIL[1]) / max(high - low, 1e-9)


class Matcher:
    """Scores of pairs of songs by one measure.

    Args:
        songs: all of them, queries too.
        measure: which one.
        network: of ``cnn``.
    """

    def __init__(
        self, songs: ChromaSet, measure: Measure, network: PairNetwork | None = None
    ) -> None:
        if measure == "cnn" and network is None:
            raise InputError("measure 'cnn': needs a network")
        self.songs, self.measure, self._network = songs, measure, network
        kind: Literal["qmax", "dmax", "simple", "dtw"] = "qmax" if measure == "cnn" else measure
        self._kind = kind
        self._aligner = Aligner(songs, [kind], Alignment(shifts=KEYS))
        if network is not None:
            from papers.cover_song.network.keyed_scoring import fitted

            self._heads = fitted(songs, network.frames)

    def scores(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of queries and references (p, 2): (p,), higher is more alike."""
        if self._network is not None:
            from papers.cover_song.network.scoring import pair_log_odds

            ordered, shifts = self._keyed(pairs)
            return pair_log_odds(self._network.network, self._heads, ordered, shifts=shifts)
        return self._aligner.score(pairs, self._kind)[0]

    def _keyed(self, pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs as the network takes them, (p, 2) in ascending order, and Qmax's keys (p,)."""
        ordered = np.sort(pairs, axis=1)
        return ordered, self._aligner.columns(ordered)[:, kernel.SHIFT].astype(np.int64)

    def nearest(self, query: int, others: NDArray[np.int64]) -> NDArray[np.int64]:
        """Candidates that are worth the measure: all, or for the network the best by Qmax."""
        if self._network is None or len(others) <= CANDIDATES:
            return others
        found = self._aligner.score(_pairs(query, others), self._kind)[0]
        return others[np.argsort(-found, kind="stable")[:CANDIDATES]]

    def match(self, query: int, candidate: int) -> tuple[int, Passage | None]:
        """Semitones that the candidate is moved up by, -5 to 6; where both match, if anywhere."""
        up, path = self._matched(query, candidate)
        passage = None
        if len(path):
            (a, b), (c, d) = path[0].tolist(), path[-1].tolist()
            passage = Passage((a, c + 1), (b, d + 1))
        return (up - 12 if up > 6 else up), passage

    def _matched(self, query: int, candidate: int) -> tuple[int, NDArray[np.int64]]:
        """Semitones that the candidate is moved up by, the measure's; Qmax's path in that key."""
        up = int(self._aligner.columns(np.array([[query, candidate]]))[0, kernel.SHIFT])
        return up, match_in_key(self.songs, query, candidate, up).path

    def view(self, query: int, candidate: int) -> View:
        """What :meth:`match` rests on, to be drawn."""
        up, path = self._matched(query, candidate)
        distances = distance_matrix(self.songs, query, candidate, up)
        seen = None
        if self._network is not None:
            from papers.cover_song.network.evidence import evidence
            from papers.cover_song.network.matrices import cross_similarity

            matrix = cross_similarity(self._heads, *self._keyed(np.array([[query, candidate]])))
            whole = evidence(self._network.network, matrix)[0].numpy()
            n, m = distances.shape
            seen = (whole if query < candidate else whole.T)[:n, :m]
        return View(-distances, path, seen)

    def same_recording(self, query: int, candidate: int) -> bool:
        """Whether both are copies of one recording; one may break off, after half a minute."""
        both = self.songs.of([query, candidate])
        heads = both.first(int(both.lengths.min()))
        sounding = heads.frames.any(axis=2).sum(axis=1).min()
        # Beginnings that are shorter may be alike in two songs.
        compared = heads if sounding >= LEAST_OVERLAP else both
        distance = -Aligner(compared, ["dtw"]).score(np.array([[0, 1]]), "dtw")[0][0]
        return bool(distance < SAME_RECORDING)

    def standard(
        self, references: NDArray[np.int64], advance: Callable[[int], object] | None = None
    ) -> Standard:
        """What each reference gives to up to a hundred of the others, evenly chosen.

        Raises: InputError for fewer than thirty songs.
        """
        if len(references) < FEWEST:
            raise InputError(
                f"{len(references)} songs: no threshold can be set; allowed: from {FEWEST} on"
            )
        steps = np.unique(np.linspace(0, len(references) - 1, COHORT + 1).astype(int))
        rows = []
        for reference in references:
            others = references[steps][references[steps] != reference]
            rows.append(self.scores(np.stack([others, np.full(len(others), reference)], axis=1)))
            if advance:
                advance(len(others))
        middle = np.array([np.median(row) for row in rows])
        away = [np.abs(row - m) for row, m in zip(rows, middle, strict=True)]
        spread = np.array([max(1.4826 * np.median(each), 1e-9) for each in away])
        z = [(row - m) / s for row, m, s in zip(rows, middle, spread, strict=True)]
        return Standard(middle, spread, np.concatenate(z))


def _pairs(query: int, others: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([np.full(len(others), query), others], axis=1)


class Passage(NamedTuple):
    """Seconds of the query, and of the candidate, that Qmax aligns best: from, to."""

    query: tuple[int, int]
    candidate: tuple[int, int]


class View(NamedTuple):
    """A query and a candidate, second by second.

    Attributes:
        likeness: (n, m), minus the distance of the query's seconds and the candidate's.
        path: (k, 2), seconds that go together.
        evidence: (n, m), of the network, for a cover; None of other measures.
    """

    likeness: NDArray[np.float64]
    path: NDArray[np.int64]
    evidence: NDArray[np.float32] | None


@dataclass(frozen=True)
class Candidate:
    """A song of the folder beside a query; ``z`` and ``cover`` are None without a standard."""

    song: int
    score: float
    z: float | None
    cover: bool | None
    shift_semitones: int
    same_recording: bool
    passage: Passage | None


def ranked_candidates(
    matcher: Matcher,
    query: int,
    others: NDArray[np.int64],
    top: int,
    standard: Standard | None,
    threshold: float | None,
) -> list[Candidate]:
    """The best ``top`` candidates, by z where there is a standard of ``others``, else by score."""
    chosen = matcher.nearest(query, others)
    scores = matcher.scores(_pairs(query, chosen))
    order_by = scores
    if standard is not None:
        places = np.searchsorted(others, chosen)
        order_by = (scores - standard.middle[places]) / standard.spread[places]
    found = []
    for place in np.argsort(-order_by, kind="stable")[:top]:
        song = int(chosen[place])
        same = matcher.same_recording(query, song)
        z = None if standard is None else float(order_by[place])
        cover = None if z is None or threshold is None else bool(z > threshold and not same)
        up, passage = matcher.match(query, song)
        found.append(Candidate(song, float(scores[place]), z, cover, up, same, passage))
    return found
