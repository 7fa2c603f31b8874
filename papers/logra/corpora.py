"""Sequences of the language experiment: a generated corpus of topics, and Penn Treebank.

In the generated corpus each topic is a Markov chain over words of its own and a few that all
topics share, so that which documents a query owes most to is known: those of its topic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from common.config import Settings
from common.data.language_modelling import Vocabulary, ptb
from common.data.registry import identity
from common.errors import InputError
from common.run import DataIdentity, Run
from papers.logra.samples import Samples

#: Of the generated corpus, for all runs the same.
CORPUS_SEED = 20240522


class CorpusSettings(Settings):
    """Which sequences, and how many."""

    name: Literal["generated", "ptb"]
    root: str | None = None
    length: int = Field(gt=1, description="tokens of a sequence")
    train: int = Field(gt=0, description="training sequences")
    queries: int = Field(gt=0)
    topics: int = Field(8, gt=0, description="of the generated corpus")
    query_topics: int = Field(2, gt=0, description="the first so many, which queries are of")
    private_words: int = Field(16, gt=0)
    shared_words: int = Field(8, ge=0)


class Corpus(NamedTuple):
    """Training sequences and queries; topics (n,) where they are known."""

    train: Samples
    queries: Samples
    vocabulary: int
    train_topics: Tensor | None = None
    query_topics: Tensor | None = None


def load(settings: CorpusSettings, run: Run) -> Corpus:
    """The corpus, noted in the run. Raises InputError if a file is absent or too short."""
    if settings.name == "ptb":
        return _treebank(settings, run)
    run.uses(DataIdentity.generated("topics as Markov chains", "papers.logra.corpora", CORPUS_SEED))
    return generated(settings, CORPUS_SEED)


def generated(settings: CorpusSettings, seed: int) -> Corpus:
    """Documents of all topics in turn, queries of the first ones."""
    rng = np.random.default_rng(seed)
    words = settings.private_words + settings.shared_words
    vocabulary = settings.topics * settings.private_words + settings.shared_words
    shared = np.arange(settings.topics * settings.private_words, vocabulary)
    tables = []
    for topic in range(settings.topics):
        own = np.arange(settings.private_words) + topic * settings.private_words
        # Few words follow each word often.
        chances = rng.dirichlet(np.full(words, 0.2), size=words)
        tables.append((np.concatenate([own, shared]), chances.cumsum(1)))

    def document(topic: int) -> list[int]:
        names, steps = tables[topic]
        word = int(rng.integers(words))
        found = []
        for draw in rng.random(settings.length + 1):
            found.append(int(names[word]))
            word = min(int(np.searchsorted(steps[word], draw)), words - 1)
        return found

    train_topics = torch.arange(settings.train) % settings.topics
    query_topics = torch.arange(settings.queries) % settings.query_topics
    train, queries = (
        torch.tensor([document(int(topic)) for topic in topics])
        for topics in (train_topics, query_topics)
    )
    return Corpus(_shifted(train), _shifted(queries), vocabulary, train_topics, query_topics)


def _treebank(settings: CorpusSettings, run: Run) -> Corpus:
    """Blocks of the training split, and of the validation split as queries."""
    root = Path(settings.root) if settings.root else None
    run.uses(identity("ptb", root=root))
    words = {split: ptb(split, root) for split in ("train", "valid")}
    vocabulary = Vocabulary.of(words["train"])
    blocks = []
    for split, count in (("train", settings.train), ("valid", settings.queries)):
        tokens = torch.from_numpy(vocabulary.encode(words[split]).copy())
        width = settings.length + 1
        if count * width > len(tokens):
            raise InputError(
                f"{count} sequences of Penn Treebank's {split} split; allowed: at most "
                f"{len(tokens) // width} of {width} tokens"
            )
        blocks.append(_shifted(tokens[: count * width].view(count, width)))
    return Corpus(blocks[0], blocks[1], len(vocabulary))


def _shifted(tokens: Tensor) -> Samples:
    """(n, t + 1) tokens -> inputs and next tokens, (n, t) each."""
    return Samples(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
