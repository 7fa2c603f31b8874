"""Scores of all pairs of a set of songs by any measure, trained or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from papers.cover_song.ranking.rankings import Ranking, ranked, ranked_log_odds
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.fourier_index import describe, index_scores
from papers.cover_song.similarity.measures import MEASURES, Aligner, Alignment

if TYPE_CHECKING:
    from papers.cover_song.network.coarse import PairNetwork

AnyMeasure = Literal["mean", "dtw", "simple", "qmax", "dmax", "fourier", "cnn"]
ANY_MEASURE: Final = get_args(AnyMeasure)


def collection_scores(
    songs: ChromaSet,
    measure: AnyMeasure,
    ranking: Ranking = "raw",
    network: PairNetwork | None = None,
    alignment: Alignment | None = None,
    advance: Callable[[int], object] | None = None,
    candidates: int | None = None,
) -> NDArray[np.float64]:
    """Higher is more alike, of query i and reference j: (songs, songs), the diagonal NaN.

    Args:
        network: of ``cnn``; it takes songs of ``songs.seconds``.
        alignment: of the others; of ``cnn`` its ``shifts`` alone, the keys of which Qmax chooses
            (default: those of the network).
        advance: is told of pairs that are done.
        candidates: of ``cnn``, how many of each song it looks at, the best by Qmax; the others
            follow them in the order of Qmax (default: it looks at all).

    Raises:
        InputError: an unknown measure, ``cnn`` without a network, or songs that are too short.
    """
    if measure == "cnn":
        from papers.cover_song.network.keyed_scoring import all_keyed_log_odds, preselected_log_odds

        if network is None:
            raise InputError("measure 'cnn': needs a network")
        keys = None if alignment is None else alignment.shifts
        if candidates is None:
            log_odds = all_keyed_log_odds(network, songs, keys, advance).log_odds
        else:
            log_odds = preselected_log_odds(network, songs, candidates, keys, advance)
        return ranked_log_odds(log_odds, ranking)
    if measure == "fourier":
        return ranked(index_scores(describe(songs)), ranking)
    if measure not in MEASURES:
        raise InputError(f"measure {measure!r}: allowed: {', '.join(ANY_MEASURE)}")
    return ranked(Aligner(songs, [measure], alignment).all_pairs(advance)[measure], ranking)
