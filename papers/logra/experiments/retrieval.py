"""Which training texts a query owes most to: what stands on the lists, and the lists themselves.

Plain influence favours texts with large gradients, whatever the query; l-RelatIF divides their
size out. Source: Choe et al. 2024, Sec. 4.2 and App. F.2, Figs. 5 to 20.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from common.training.local_gpu import Device
from papers.logra.experiments.language_brittleness import LISTED, topic_metrics
from papers.logra.measures.outliers import largest, list_metrics
from papers.logra.methods.attribution import (
    AttributionSettings,
    InfluenceSettings,
    LoggedTrainingSet,
    attribute,
)
from papers.logra.tasks.classifier_training import TrainingSettings, train
from papers.logra.tasks.corpora import CORPUS_SEED, Corpus, CorpusSettings, load_corpus
from papers.logra.tasks.devices import take_device
from papers.logra.tasks.language_models import TransformerSettings
from papers.logra.tasks.samples import Samples
from papers.logra.tasks.word_names import read_words, topic_name

#: Words that more of the training texts have say nothing about what a text is about.
TELLING: Final = 0.25

#: Topic of a text that is mixed of several.
MIXED: Final = -1

Method = Literal["influence", "relatif", "gradient_dot", "representation"]


class RetrievalSettings(Settings):
    """Corpus, model, and by which scores lists are made."""

    corpus: CorpusSettings
    network: TransformerSettings
    training: TrainingSettings
    methods: dict[Method, AttributionSettings] = Field(min_length=1)
    mixed: float = Field(
        0, ge=0, lt=1, description="share of training texts that get words of all others"
    )
    layers: tuple[str, ...] = Field(("blocks",), description="whose gradients tell outliers")
    batch_size: int = Field(256, gt=0, description="texts whose whole gradients are held at once")
    examples: int = Field(4, gt=0, description="queries whose lists are kept, to be read")
    device: Device = "auto"


def run_retrieval(settings: RetrievalSettings, run: Run) -> dict[str, float]:
    """Train once, make all lists; returns of each method whose they are, and keeps some to read."""
    device = take_device(settings.device, run)
    corpus = mix(load_corpus(settings.corpus, run), settings.mixed)
    sequences, queries = corpus.train.to(device), corpus.queries.to(device)
    network = settings.network.build(corpus.vocabulary, settings.corpus.length, run.seed)
    model = train(network, sequences, settings.training, run.seed, Checkpoint(run, "training"))
    whole = InfluenceSettings(
        projection="none", hessian="none", layers=settings.layers, batch_size=settings.batch_size
    )
    outliers = largest(
        LoggedTrainingSet(whole, model, sequences, 0, run.work / "whole").gradient_norms()
    )
    scores: dict[str, Tensor] = {
        name: attribute(method, model, sequences, queries, run.seed, run.work / name)
        for name, method in settings.methods.items()
    }
    metrics: dict[str, float] = {}
    for name, found in scores.items():
        of_method = topic_metrics(corpus, found) | list_metrics(found, outliers, "sequences")
        metrics |= {f"{name}_{metric}": value for metric, value in of_method.items()}
    words = read_words(settings.corpus)
    run.write_json("examples.json", examples(corpus, words, scores, outliers, settings))
    return metrics


def mix(corpus: Corpus, share: float) -> Corpus:
    """The corpus where in a share of its training texts every second word is one of another text.

    So a corpus of one kind of text gets outliers, as one from the web has: a model finds these
    texts hard and all queries find something in them. They stand evenly spread, the same in every
    run; where topics are known theirs is :data:`MIXED`.
    """
    texts = torch.cat([corpus.train.x, corpus.train.y[:, -1:]], 1)
    count, length = texts.shape
    mixed = torch.arange(round(share * count)) * count // max(1, round(share * count))
    seconds = torch.arange(1, length, 2)
    generator = torch.Generator().manual_seed(CORPUS_SEED)
    others = torch.randint(count, (len(mixed), len(seconds)), generator=generator)
    found = texts.clone()
    found[mixed[:, None], seconds] = texts[others, seconds]
    train = Samples(found[:, :-1].contiguous(), found[:, 1:].contiguous())
    topics = corpus.train_topics
    if topics is not None:
        topics = topics.index_fill(0, mixed, MIXED)
    return corpus._replace(train=train, train_topics=topics)


def telling_words(sequences: Tensor) -> set[int]:
    """Tokens that at most a quarter of the sequences (n, t) have."""
    found = Counter(token for row in sequences.tolist() for token in set(row))
    return {token for token, count in found.items() if count <= TELLING * len(sequences)}


def chosen_queries(scores: Mapping[str, Tensor], outliers: Tensor, count: int) -> dict[int, bool]:
    """Queries to be read: the first ones, and as many whose lists l-RelatIF changes most.

    Args:
        scores: (queries, train) of each method.
        outliers: places of training samples.
        count: of queries.

    Returns:
        {query: whether it was chosen for the change}: first those whose list loses most outliers,
        then those whose lists share fewest texts.
    """
    queries = len(next(iter(scores.values())))
    if not {"influence", "relatif"} <= scores.keys():
        return dict.fromkeys(range(min(queries, count)), False)
    plain, relative = (scores[name].topk(LISTED, 1).indices for name in ("influence", "relatif"))
    lost = torch.isin(plain, outliers).sum(1) - torch.isin(relative, outliers).sum(1)
    shared = (plain[:, :, None] == relative[:, None, :]).sum((1, 2))
    first = dict.fromkeys(range(min(queries, -(-count // 2))), False)
    order = (shared - (LISTED + 1) * lost).argsort(stable=True).tolist()
    changed = [place for place in order if place not in first][: count - len(first)]
    return first | dict.fromkeys(changed, True)


def examples(
    corpus: Corpus,
    words: Sequence[str],
    scores: Mapping[str, Tensor],
    outliers: Tensor,
    settings: RetrievalSettings,
) -> list[dict[str, Any]]:
    """Some queries with each method's best texts, to be read.

    Returns:
        Of each of :func:`chosen_queries` ``words``, ``topic`` (empty where unknown), whether it was
        chosen as ``changed`` and ``lists``: {method: texts}. A text has ``words`` and ``topic``
        too, ``shared`` (places of telling words that the query has), its ``place`` in the training
        set, its ``score`` and whether it is an ``outlier``.
    """
    telling = telling_words(corpus.train.x)
    far = set(outliers.tolist())

    def described(samples: Samples, topics: Tensor | None, place: int) -> dict[str, Any]:
        topic = ""
        if topics is not None:
            number = int(topics[place])
            topic = "mixed" if number == MIXED else topic_name(number, settings.corpus.topics)
        return {"words": [words[token] for token in samples.x[place].tolist()], "topic": topic}

    kept = []
    for query, changed in chosen_queries(scores, outliers, settings.examples).items():
        common = set(corpus.queries.x[query].tolist()) & telling
        lists: dict[str, list[Any]] = {}
        for name, found in scores.items():
            best = found[query].topk(LISTED)
            lists[name] = [
                {
                    **described(corpus.train, corpus.train_topics, place),
                    "shared": [
                        at
                        for at, token in enumerate(corpus.train.x[place].tolist())
                        if token in common
                    ],
                    "place": place,
                    "score": score,
                    "outlier": place in far,
                }
                for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        asked = described(corpus.queries, corpus.query_topics, query)
        kept.append({**asked, "changed": changed, "lists": lists})
    return kept


PROGRAM = Program(RetrievalSettings, run_retrieval)
