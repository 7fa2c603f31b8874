"""The program ``rank_by_network``: all pairs of a collection by a trained network.

Beside the rankings of its own scores: fused with Qmax, and sorting no more than Qmax's best fifty.
"""

from __future__ import annotations

from pydantic import Field

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from papers.cover_song.methods.needed_networks import plain_network
from papers.cover_song.methods.scores import comparable, network_metrics, ranking_metrics
from papers.cover_song.network.scoring import all_log_odds
from papers.cover_song.ranking.metrics import retrieval
from papers.cover_song.ranking.rankings import (
    BY_ROWS,
    Ranking,
    rank_sum,
    ranked,
    ranked_log_odds,
)
from papers.cover_song.similarity.measures import Aligner, Alignment
from papers.cover_song.tasks.collections import CollectionSettings, load_collection


class RankByNetwork(Settings):
    """What is ranked; the network is that of the needed run with the same seed."""

    collection: CollectionSettings
    candidates: int = Field(50, gt=0, description="of each query that the network sorts after Qmax")
    stack: int = Field(4, ge=1, description="frames of Qmax's delay embedding")


def rank_by_network(settings: RankByNetwork, run: Run) -> dict[str, float]:
    """Metrics of every ranking, of fusions, and the area under the curve of pairs."""
    network = plain_network(run, settings.collection.seconds)
    collection = comparable(load_collection(settings.collection, run))
    count = len(collection.songs)
    with run.progress(count * (count - 1) // 2, "network", "pair") as bar:
        log_odds = all_log_odds(network, collection.songs, bar.update)
    qmax = Aligner(collection.songs, ["qmax"], Alignment(stack=settings.stack)).all_pairs()["qmax"]

    found = network_metrics(log_odds, qmax, collection, settings.candidates)
    found |= ranking_metrics(log_odds, collection, "log_odds_", rankings=BY_ROWS)
    rankings: tuple[Ranking, ...] = ("raw", "correlation", "zscore")
    for ranking in rankings:
        fused = rank_sum(ranked_log_odds(log_odds, ranking), ranked(qmax, ranking))
        judged = retrieval(fused, collection.works, collection.queries)
        found |= judged.metrics(f"_fused_{ranking}")
    summed = ranked(log_odds, "zscore") + ranked(qmax, "zscore")
    return found | retrieval(summed, collection.works, collection.queries).metrics("_fused_sum")


PROGRAM = Program(RankByNetwork, rank_by_network)
