"""Scores of all pairs by one of the measures that need no training, and what scores are worth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from common.runs.run import Run
from papers.cover_song.audio.reading import SHORTEST_S
from papers.cover_song.ranking.metrics import retrieval
from papers.cover_song.ranking.rankings import RANKINGS, Ranking, ranked, ranked_log_odds
from papers.cover_song.similarity.fourier_index import describe, index_scores
from papers.cover_song.similarity.measures import Aligner, Alignment
from papers.cover_song.tasks.collections import Collection

Method = Literal["random", "mean", "dtw", "simple", "qmax", "dmax", "fourier"]
log = logging.getLogger("scores")


def untrained_scores(
    collection: Collection, method: Method, alignment: Alignment, run: Run
) -> NDArray[np.float64]:
    """(songs, songs), higher is more alike, the diagonal NaN."""
    count = len(collection.songs)
    if method == "random":
        scores = run.rng.random((count, count))
        np.fill_diagonal(scores, np.nan)
        return scores
    if method == "fourier":
        return index_scores(describe(collection.songs))
    aligner = Aligner(collection.songs, [method], alignment)
    with run.progress(count * (count - 1) // 2, method, "pair") as bar:
        return aligner.all_pairs(bar.update)[method]


def comparable(collection: Collection) -> Collection:
    """Songs that sound for at least 20 s of their beginning; the others are named in the log.

    What is left of a work counts; a song whose covers are all left out is no query any more.
    """
    songs, works, queries = collection
    kept = songs.lengths >= SHORTEST_S
    if kept.all():
        return collection
    left_out = np.flatnonzero(~kept).tolist()
    log.warning("songs %s sound for less than %d s and are left out", left_out, SHORTEST_S)
    names, counts = np.unique(works[kept], return_counts=True)
    asked = np.zeros(len(works), bool)
    asked[queries] = np.isin(works[queries], names[counts > 1])
    return Collection(songs.of(np.flatnonzero(kept)), works[kept], np.flatnonzero(asked[kept]))


def ranking_metrics(
    scores: NDArray[np.float64],
    collection: Collection,
    prefix: str = "",
    infix: str = "",
    *,
    rankings: Sequence[Ranking] = RANKINGS,
    rank: Callable[[NDArray[np.float64], Ranking], NDArray[np.float64]] = ranked,
) -> dict[str, float]:
    """Every metric of rankings of scores (songs, songs), by names as ``map_raw``.

    Args:
        prefix, infix: of the names, before and after the metric.
        rankings: which ones.
        rank: makes them.
    """
    found: dict[str, float] = {}
    for ranking in rankings:
        judged = retrieval(rank(scores, ranking), collection.works, collection.queries)
        metrics = judged.metrics(f"{infix}_{ranking}")
        found |= {f"{prefix}{name}": value for name, value in metrics.items()}
    return found


def network_metrics(
    log_odds: NDArray[np.float64],
    qmax: NDArray[np.float64],
    collection: Collection,
    candidates: int,
) -> dict[str, float]:
    """What networks of both forms are judged by, from scores of all pairs (songs, songs).

    Its rankings; Qmax's best ``candidates`` sorted by it (``map_reranked``); and over pairs the
    area under the curve, and the share that log-odds above 0 have right.
    """
    from sklearn.metrics import roc_auc_score

    from papers.cover_song.network.scoring import reranked  # loads torch, which others need not

    found = {"songs": float(len(collection.songs))}
    found |= ranking_metrics(log_odds, collection, rank=ranked_log_odds)
    sorted_again = reranked(qmax, candidates, lambda pairs: log_odds[pairs[:, 0], pairs[:, 1]])
    found |= retrieval(sorted_again, collection.works, collection.queries).metrics("_reranked")
    i, j = np.triu_indices(len(log_odds), 1)
    covers = collection.works[i] == collection.works[j]
    found["pair_auc"] = float(roc_auc_score(covers, log_odds[i, j]))
    found["pair_accuracy"] = float(((log_odds[i, j] > 0) == covers).mean())
    return found
