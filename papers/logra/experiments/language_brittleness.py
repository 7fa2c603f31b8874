"""Brittleness of a language model: perplexity of queries after removing their best sequences.

Scores are summed over the queries, the k training sequences with the highest sums are removed and
models retrained. Source: Choe et al. 2024, Sec. 4.1 and App. C.1.
"""

from __future__ import annotations

from functools import partial
from itertools import product

from pydantic import Field
from torch import Tensor

from common.runs.programs import Program
from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from papers.logra.curvature.tensor_files import digest_tensors
from papers.logra.experiments.subset_retraining import RETRAINING_SEED
from papers.logra.methods.attribution import AttributionSettings, attribute
from papers.logra.tasks.corpora import Corpus
from papers.logra.tasks.language_models import perplexity
from papers.logra.tasks.language_task import LanguageTask, LanguageTaskSettings
from papers.logra.tasks.resumable import compute_parts
from papers.logra.tasks.samples import Samples

#: Length of the lists that are compared with the queries' topics.
LISTED = 5


class LanguageBrittlenessSettings(LanguageTaskSettings):
    """How many sequences are removed, and by which method's scores."""

    attribution: AttributionSettings
    removals: tuple[int, ...] = Field(min_length=1)
    retrainings: int = Field(gt=0, description="models of each number removed")
    examples: int = Field(3, gt=0, description="queries whose lists are kept")


def run_language_brittleness(settings: LanguageBrittlenessSettings, run: Run) -> dict[str, float]:
    """Remove and retrain; returns mean perplexities by number removed, and matches of topics."""
    task = LanguageTask(settings, run)
    corpus = task.corpus
    attributed = task.model(run.seed)
    method, folder = settings.attribution, run.work / "log"
    scores = attribute(method, attributed, corpus.train, corpus.queries, run.seed, folder)
    order = scores.sum(0).argsort(descending=True)
    rows = [{"removed": 0.0, "perplexity": perplexity(attributed, corpus.queries)}]

    def retrain(removed: int, again: int) -> float:
        seed = RETRAINING_SEED + run.seed * settings.retrainings + again
        left = order[removed:].sort().values
        return perplexity(task.model(seed, left), corpus.queries)

    models = list(product(settings.removals, range(settings.retrainings)))
    with run.progress(len(models), "retrainings") as bar:
        parts = (partial(retrain, *model) for model in models)
        called = f"retrainings-{digest_tensors({'order': order})[:16]}"
        found = compute_parts(parts, Checkpoint(run, called), bar.update)
    rows += [
        {"removed": float(removed), "perplexity": sum(some) / len(some)}
        for removed, some in zip(
            settings.removals,
            (
                found[start : start + settings.retrainings]
                for start in range(0, len(found), settings.retrainings)
            ),
            strict=True,
        )
    ]
    run.write_rows("curve.csv", rows)
    run.write_json("examples.json", examples(corpus, scores, settings.examples))
    metrics = {f"perplexity_{row['removed']:.0f}": row["perplexity"] for row in rows}
    return metrics | topic_metrics(corpus, scores)


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
