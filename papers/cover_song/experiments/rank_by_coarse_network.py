"""The program ``rank_by_coarse_network``: all pairs by a network for 180 s, by others, and by sums.

Qmax chooses each pair's key, so its scores of these keys are at hand: they are judged beside the
network's, on the same songs, as are sums of standardised scores with equal weights. Of covers80 the
beats may join: other features of the same tracks, by the same measures and the same network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from papers.cover_song.methods.needed_networks import keyed_network
from papers.cover_song.methods.scores import comparable, network_metrics, ranking_metrics
from papers.cover_song.network.coarse import PairNetwork
from papers.cover_song.network.keyed_scoring import all_keyed_log_odds
from papers.cover_song.ranking.rankings import Scores, ranked
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import Aligner, Alignment
from papers.cover_song.tasks.beat_tracks import beat_tracks
from papers.cover_song.tasks.collections import (
    CollectionSettings,
    load_collection,
    with_all_queries,
)


class RankByCoarseNetwork(Settings):
    """What is ranked; the network is that of the needed run with the same seed."""

    collection: CollectionSettings
    keys: int | None = Field(
        None, ge=1, le=12, description="best transpositions tried; default: as in training"
    )
    candidates: int = Field(50, gt=0, description="of each query that the network sorts after Qmax")
    beats: bool = Field(False, description="of covers80: the same of its beat chroma joins")


def rank_by_coarse_network(settings: RankByCoarseNetwork, run: Run) -> dict[str, float]:
    """Metrics of every ranking: of the network, of Qmax (``qmax_...``), of sums."""
    given = keyed_network(run, settings.collection.seconds)
    if settings.beats and settings.collection.data != "covers80":
        raise InputError(
            f"beats: collection.data is {settings.collection.data!r}; of covers80 alone"
        )
    loaded = load_collection(settings.collection, run)
    collection = comparable(loaded)
    if settings.beats and len(collection.songs) != len(loaded.songs):
        less = len(loaded.songs) - len(collection.songs)
        raise InputError(f"beats: {less} songs are too short to be judged")
    seconds = _scores(given, collection.songs, settings.keys, run)
    found = network_metrics(seconds["network"], seconds["qmax"], collection, settings.candidates)
    found |= ranking_metrics(seconds["qmax"], collection, "qmax_")
    for name, parts in (("fused", ["network", "qmax"]), ("four", list(seconds))):
        total = _sum([seconds[part] for part in parts])
        found |= ranking_metrics(total, collection, infix=f"_{name}")
    if settings.beats:
        places, songs = beat_tracks(settings.collection.seconds, run)
        both = np.ix_(places, places)
        of_both = {name: scores[both] for name, scores in seconds.items()}
        in_beats = _scores(given, songs, settings.keys, run)
        in_both = with_all_queries(songs, collection.works[places])
        found["tracks_in_both"] = float(len(places))
        for name, scores in sums_with_beats(of_both, in_beats).items():
            found |= ranking_metrics(scores, in_both, infix=f"_both_{name}")
    return found


def _scores(given: PairNetwork, songs: ChromaSet, keys: int | None, run: Run) -> dict[str, Scores]:
    """(songs, songs) of the network and of three measures, in the best of as many keys."""
    count = len(songs)
    with run.progress(count * (count - 1) // 2, "network", "pair") as bar:
        log_odds, qmax = all_keyed_log_odds(given, songs, keys, bar.update)
    others = Aligner(songs, ["dtw", "simple"], Alignment(shifts=keys or given.keys)).all_pairs()
    return {"network": log_odds, "qmax": qmax, **others}


def _sum(parts: Sequence[Scores]) -> Scores:
    """Of scores standardised per reference, each with the same weight."""
    total: Scores = np.sum([ranked(part, "zscore") for part in parts], axis=0)
    return total


def sums_with_beats(seconds: dict[str, Scores], beats: dict[str, Scores]) -> dict[str, Scores]:
    """By name, over the tracks that lie in both features."""
    network, qmax = seconds["network"], seconds["qmax"]
    return {
        "seconds": _sum([qmax]),
        "beats": _sum([beats["qmax"]]),
        "qmax_of_both": _sum([qmax, beats["qmax"]]),
        "network_and_beats": _sum([network, beats["qmax"]]),
        "all": _sum([network, qmax, beats["qmax"]]),
        "network_of_beats": _sum([beats["network"]]),
        "networks": _sum([network, beats["network"]]),
        "networks_and_qmax": _sum([network, qmax, beats["network"], beats["qmax"]]),
        "eight": _sum([*seconds.values(), *beats.values()]),
    }


PROGRAM = Program(RankByCoarseNetwork, rank_by_coarse_network)
