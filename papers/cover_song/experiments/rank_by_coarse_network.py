"""The program ``rank_by_coarse_network``: all pairs by a network for 180 s, by Qmax, and by both.

Qmax chooses each pair's key, so its scores of these keys are at hand: they are judged beside the
network's, on the same songs. Of covers80 the beats may join: other features of the same tracks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from papers.cover_song.methods.needed_networks import keyed_network
from papers.cover_song.methods.scores import comparable, network_metrics, ranking_metrics
from papers.cover_song.network.keyed_scoring import all_keyed_log_odds
from papers.cover_song.ranking.rankings import ranked
from papers.cover_song.similarity.measures import Aligner, Alignment
from papers.cover_song.tasks.beat_tracks import beat_tracks
from papers.cover_song.tasks.collections import (
    Collection,
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
    beats: bool = Field(False, description="of covers80: Qmax of its beat chroma joins")


def rank_by_coarse_network(settings: RankByCoarseNetwork, run: Run) -> dict[str, float]:
    """Metrics of every ranking: of the network, of Qmax (``qmax_...``), of their sum."""
    given = keyed_network(run, settings.collection.seconds)
    if settings.beats and settings.collection.data != "covers80":
        raise InputError(
            f"beats: collection.data is {settings.collection.data!r}; of covers80 alone"
        )
    loaded = load_collection(settings.collection, run)
    collection = comparable(loaded)
    count = len(collection.songs)
    if settings.beats and count != len(loaded.songs):
        raise InputError(f"beats: {len(loaded.songs) - count} songs are too short to be judged")
    with run.progress(count * (count - 1) // 2, "network", "pair") as bar:
        log_odds, qmax = all_keyed_log_odds(given, collection.songs, settings.keys, bar.update)

    found = network_metrics(log_odds, qmax, collection, settings.candidates)
    found |= ranking_metrics(qmax, collection, "qmax_")
    summed = ranked(log_odds, "zscore") + ranked(qmax, "zscore")
    found |= ranking_metrics(summed, collection, infix="_fused")
    if settings.beats:
        found |= _with_beats(log_odds, qmax, collection, given.keys, run)
    return found


def _with_beats(
    log_odds: NDArray[np.float64],
    qmax: NDArray[np.float64],
    collection: Collection,
    keys: int,
    run: Run,
) -> dict[str, float]:
    """Metrics of sums with Qmax of beats, over the tracks that lie in both features."""
    places, songs = beat_tracks(collection.songs.seconds, run)
    in_both = with_all_queries(songs, collection.works[places])
    in_beats = Aligner(songs, ["qmax"], Alignment(shifts=keys)).all_pairs()["qmax"]
    both = np.ix_(places, places)
    standard = {
        "network": ranked(log_odds[both], "zscore"),
        "seconds": ranked(qmax[both], "zscore"),
        "beats": ranked(in_beats, "zscore"),
    }
    found = {"tracks_in_both": float(len(places))}
    for name, parts in (
        ("seconds", ["seconds"]),
        ("beats", ["beats"]),
        ("qmax_of_both", ["seconds", "beats"]),
        ("network_and_beats", ["network", "beats"]),
        ("all", ["network", "seconds", "beats"]),
    ):
        total = np.sum([standard[part] for part in parts], axis=0)
        found |= ranking_metrics(total, in_both, infix=f"_both_{name}")
    return found


PROGRAM = Program(RankByCoarseNetwork, rank_by_coarse_network)
