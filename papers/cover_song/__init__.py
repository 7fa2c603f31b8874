"""Cover songs, found by a network that looks at cross-similarity matrices (Chang et al. 2017).

::

    songs = chroma_set(chroma)  # (songs, seconds, 12)
    scores = collection_scores(songs, "qmax", "zscore")
    print(retrieval(scores, works).map)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from papers.cover_song.audio.feature_cache import FeatureCache
    from papers.cover_song.audio.features import song_chroma
    from papers.cover_song.audio.reading import read_recording
    from papers.cover_song.network.architectures import build_network
    from papers.cover_song.network.coarse import PairNetwork, coarse_network, load_pair_network
    from papers.cover_song.network.matrices import cross_similarity
    from papers.cover_song.network.scoring import load_network, pair_log_odds
    from papers.cover_song.ranking.metrics import retrieval
    from papers.cover_song.ranking.rankings import ranked
    from papers.cover_song.scoring import collection_scores
    from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set, padded
    from papers.cover_song.similarity.cover_index import CoverIndex, learn_work_space
    from papers.cover_song.similarity.measures import Aligner, Alignment
    from papers.cover_song.similarity.path import best_match
    from papers.cover_song.similarity.transposition import optimal_transposition

__getattr__, _, _ = lazy.attach(
    __name__,
    submod_attrs={
        "audio.feature_cache": ["FeatureCache"],
        "audio.features": ["song_chroma"],
        "audio.reading": ["read_recording"],
        "scoring": ["collection_scores"],
        "network.architectures": ["build_network"],
        "network.coarse": ["PairNetwork", "coarse_network", "load_pair_network"],
        "network.matrices": ["cross_similarity"],
        "network.scoring": ["load_network", "pair_log_odds"],
        "ranking.metrics": ["retrieval"],
        "ranking.rankings": ["ranked"],
        "similarity.chroma_set": ["ChromaSet", "chroma_set", "padded"],
        "similarity.cover_index": ["CoverIndex", "learn_work_space"],
        "similarity.measures": ["Aligner", "Alignment"],
        "similarity.path": ["best_match"],
        "similarity.transposition": ["optimal_transposition"],
    },
)

__all__ = [
    "Aligner",
    "Alignment",
    "ChromaSet",
    "CoverIndex",
    "FeatureCache",
    "PairNetwork",
    "best_match",
    "build_network",
    "chroma_set",
    "coarse_network",
    "collection_scores",
    "cross_similarity",
    "learn_work_space",
    "load_network",
    "load_pair_network",
    "optimal_transposition",
    "padded",
    "pair_log_odds",
    "ranked",
    "read_recording",
    "retrieval",
    "song_chroma",
]
