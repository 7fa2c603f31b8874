"""Brittleness of a language model: perplexity of queries after removing their best sequences.

Scores are summed over the queries, the k training sequences with the highest sums are removed and
models retrained. Source: Choe et al. 2024, Sec. 4.1 and App. C.1.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from common.config import Program, Settings
from common.run import Run
from papers.logra.attribution import AttributionSettings, attribute
from papers.logra.classifier_training import Device, TrainingSettings, device_of, train
from papers.logra.corpora import Corpus, CorpusSettings, load
from papers.logra.networks import Transformer
from papers.logra.samples import Samples, logits_of, losses
from papers.logra.subset_retraining import RETRAINING_SEED

#: Length of the lists that are compared with the queries' topics.
LISTED = 5


class TransformerSettings(Settings):
    """Shape of the language model."""

    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    hidden: int = Field(gt=0, description="of the MLP in a block")


class LanguageBrittlenessSettings(Settings):
    """Corpus, model, how many sequences are removed, and by which method's scores."""

    corpus: CorpusSettings
    network: TransformerSettings
    training: TrainingSettings
    attribution: AttributionSettings
    removals: tuple[int, ...] = Field(min_length=1)
    retrainings: int = Field(gt=0, description="models of each number removed")
    examples: int = Field(3, gt=0, description="queries whose lists are kept")
    device: Device = "auto"


def run_language_brittleness(settings: LanguageBrittlenessSettings, run: Run) -> dict[str, float]:
    """Remove and retrain; returns mean perplexities by number removed, and matches of topics."""
    device = device_of(settings.device, run)
    corpus = load(settings.corpus, run)
    sequences, queries = corpus.train.to(device), corpus.queries.to(device)

    def model(samples: Samples, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        shape = settings.network
        network = Transformer(
            corpus.vocabulary,
            settings.corpus.length,
            shape.width,
            shape.depth,
            shape.heads,
            shape.hidden,
        )
        return train(network, samples, settings.training, seed)

    attributed = model(sequences, run.seed)
    scores = attribute(settings.attribution, attributed, sequences, queries, run.seed)
    order = scores.sum(0).argsort(descending=True)
    rows = [{"removed": 0.0, "perplexity": perplexity(attributed, queries)}]
    with run.progress(len(settings.removals) * settings.retrainings, "retrainings") as bar:
        for removed in settings.removals:
            left = sequences.take(order[removed:].sort().values.to(device))
            found = []
            for again in range(settings.retrainings):
                seed = RETRAINING_SEED + run.seed * settings.retrainings + again
                found.append(perplexity(model(left, seed), queries))
                bar.update()
            rows.append({"removed": float(removed), "perplexity": sum(found) / len(found)})
    run.write_rows("curve.csv", rows)
    run.write_json("examples.json", examples(corpus, scores, settings.examples))
    metrics = {f"perplexity_{row['removed']:.0f}": row["perplexity"] for row in rows}
    return metrics | topic_metrics(corpus, scores)


def perplexity(model: nn.Module, samples: Samples) -> float:
    """Mean over sequences of exp(mean loss of its tokens)."""
    sums = losses(logits_of(model, samples, 64), samples.y)
    return float((sums / samples.y.shape[1]).exp().mean())


def topic_metrics(corpus: Corpus, scores: Tensor) -> dict[str, float]:
    """Share of each query's best sequences that are of its topic; nothing if topics are unknown."""
    if corpus.train_topics is None or corpus.query_topics is None:
        return {}
    listed = scores.topk(LISTED, 1).indices
    same = corpus.train_topics[listed] == corpus.query_topics[:, None]
    return {f"topic_match_at_{LISTED}": float(same.float().mean())}


def examples(corpus: Corpus, scores: Tensor, count: int) -> list[dict[str, object]]:
    """Queries with their best sequences, as tokens and topics, to be looked at."""

    def described(samples: Samples, topics: Tensor | None, place: int) -> dict[str, object]:
        return {
            "tokens": samples.x[place].tolist(),
            "topic": None if topics is None else int(topics[place]),
        }

    chosen = scores[:count].topk(LISTED, 1)
    return [
        {
            "query": described(corpus.queries, corpus.query_topics, place),
            "best": [
                {**described(corpus.train, corpus.train_topics, int(other)), "score": float(score)}
                for score, other in zip(values, places, strict=True)
            ],
        }
        for place, (values, places) in enumerate(zip(*chosen, strict=True))
    ]


PROGRAM = Program(LanguageBrittlenessSettings, run_language_brittleness)
