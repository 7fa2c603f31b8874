"""The program ``show_matrices``: matrices of covers and of others, with what aligns in them.

Beside the two that are drawn, the longest alignment (Qmax) of all pairs says how often a matrix has
stripes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from papers.cover_song.methods.needed_networks import plain_network
from papers.cover_song.methods.scores import comparable
from papers.cover_song.network.evidence import evidence
from papers.cover_song.network.matrices import cross_similarity
from papers.cover_song.network.scoring import pair_log_odds
from papers.cover_song.network.training_pairs import cover_pairs, non_cover_pairs
from papers.cover_song.similarity import kernel
from papers.cover_song.similarity.measures import Aligner
from papers.cover_song.similarity.path import best_match
from papers.cover_song.tasks.collections import CollectionSettings, load_collection


class ShowMatrices(Settings):
    """Which songs; the network is that of the needed run with the same seed."""

    collection: CollectionSettings


def show_matrices(settings: ShowMatrices, run: Run) -> dict[str, float]:
    """Lengths of alignments of covers and of others; the median pair of each is kept."""
    network = plain_network(run, settings.collection.seconds)
    songs, works, _ = comparable(load_collection(settings.collection, run))
    covers = cover_pairs(works)
    others = non_cover_pairs(works, len(covers), run.rng)
    aligner = Aligner(songs, ["qmax"])
    found: dict[str, float] = {}
    kept: dict[str, NDArray[Any]] = {}
    for kind, pairs in (("cover", covers), ("other", others)):
        lengths = aligner.columns(pairs)[:, kernel.QMAX]
        found[f"{kind}_alignment_s"] = float(lengths.mean())
        pair = pairs[np.argsort(lengths, kind="stable")[len(lengths) // 2]][None]
        matrix = cross_similarity(songs, pair)
        seen = evidence(network, matrix)[0]
        match = best_match(songs, int(pair[0, 0]), int(pair[0, 1]))
        found[f"{kind}_log_odds"] = float(pair_log_odds(network, songs, pair)[0])
        kept |= {
            f"{kind}_matrix": matrix[0, 0].numpy(),
            f"{kind}_evidence": (seen / seen.abs().max().clamp_min(1e-30)).numpy(),
            f"{kind}_path": match.path,
        }
    run.write_json("matrices.json", {name: each.round(3).tolist() for name, each in kept.items()})
    return found


PROGRAM = Program(ShowMatrices, show_matrices)
