"""The program ``rank_by_network``: all pairs of a collection by a trained network.

Beside the rankings of its own scores: fused with Qmax, and sorting no more than Qmax's best fifty.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from papers.cover_song.methods.needed_networks import plain_network
from papers.cover_song.methods.scores import comparable, ranking_metrics
from papers.cover_song.network.scoring import all_log_odds, reranked
from papers.cover_song.ranking.metrics import retrieval
from papers.cover_song.ranking.rankings import rank_sum, ranked
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

    found = ranking_metrics(log_odds, collection, "log_odds_") | {"songs": float(count)}
    of_probabilities = ranking_metrics(expit(log_odds), collection)
    for name, value in of_probabilities.items():
        # Probabilities near 1 tie; log-odds order what these do not.
        rows_matter = name.endswith(("cosine", "correlation"))
        found[name] = value if rows_matter else found[f"log_odds_{name}"]
    for name in [name for name in found if name.startswith("log_odds_")]:
        if not name.endswith(("cosine", "correlation")):
            del found[name]
    for ranking in ("raw", "correlation", "zscore"):
        base = expit(log_odds) if ranking == "correlation" else log_odds
        own, other = ranked(base, ranking), ranked(qmax, ranking)  # type: ignore[arg-type]
        judged = retrieval(rank_sum(own, other), collection.works, collection.queries)
        found |= judged.metrics(f"_fused_{ranking}")
    summed = ranked(log_odds, "zscore") + ranked(qmax, "zscore")
    found |= retrieval(summed, collection.works, collection.queries).metrics("_fused_sum")
    sorted_again = reranked(
        qmax, settings.candidates, lambda pairs: log_odds[pairs[:, 0], pairs[:, 1]]
    )
    judged = retrieval(sorted_again, collection.works, collection.queries)
    found |= judged.metrics("_reranked")
    i, j = np.triu_indices(count, 1)
    covers = collection.works[i] == collection.works[j]
    found["pair_auc"] = float(roc_auc_score(covers, log_odds[i, j]))
    found["pair_accuracy"] = float(((log_odds[i, j] > 0) == covers).mean())
    return found


PROGRAM = Program(RankByNetwork, rank_by_network)
