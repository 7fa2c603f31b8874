"""Sequences of the language experiments: generated topics, Penn Treebank, WikiText-2.

In the generated corpus each topic is a Markov chain over words of its own and a few that all
topics share, so that which documents a query owes most to is known: those of its topic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from common.data.language_modelling import Vocabulary, ptb, wikitext2_raw
from common.data.registry import identity
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.logra.tasks.samples import Samples

#: The generated corpus is drawn with it, the same one for all runs.
CORPUS_SEED = 20240522
#: The published script tokenises WikiText and cuts it into blocks so many lines at a time; what is
#: left of each thousand is dropped.
LINES_AT_ONCE = 1000


class CorpusSettings(Settings):
    """Which sequences, and how many."""

    name: Literal["generated", "ptb", "wikitext2"]
    root: str | None = None
    length: int = Field(
        gt=1,
        description="tokens that a model sees of a sequence; of wikitext2 a block has so many, of "
        "which the last is only predicted",
    )
    train: int = Field(gt=0, description="training sequences")
    queries: int = Field(gt=0)
    words: int | None = Field(
        None, gt=0, description="of ptb: the most frequent so many, others are <unk>"
    )
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


def load_corpus(settings: CorpusSettings, run: Run) -> Corpus:
    """The corpus, noted in the run. Raises InputError if a file is absent or too short."""
    if settings.name == "ptb":
        return _treebank(settings, run)
    if settings.name == "wikitext2":
        return _wikitext(settings, run)
    run.uses(DataIdentity.generated("topics as Markov chains", CORPUS_SEED))
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
    """Sequences of the training split, and of the validation split as queries."""
    root = Path(settings.root) if settings.root else None
    run.uses(identity("ptb", root=root))
    words = {split: ptb(split, root) for split in ("train", "valid")}
    vocabulary = Vocabulary(Vocabulary.of(words["train"]).tokens[: settings.words])
    width = settings.length + 1

    def sequences(split: str) -> Tensor:
        tokens = torch.from_numpy(vocabulary.encode(words[split]).copy())
        return tokens[: len(tokens) // width * width].view(-1, width)

    train = _first(sequences("train"), settings.train, "of Penn Treebank's train split")
    queries = _first(sequences("valid"), settings.queries, "of Penn Treebank's valid split")
    return Corpus(_shifted(train), _shifted(queries), len(vocabulary))


def _wikitext(settings: CorpusSettings, run: Run) -> Corpus:
    """Blocks of GPT-2's byte pairs of the training split, and of the validation split as queries.

    Source: github pomonam/kronfluence, examples/wikitext, whose set-up the paper takes.
    """
    from common.data.tokenizers import byte_pair_encoder, gpt2_byte_pairs

    root = Path(settings.root) if settings.root else None
    run.uses(identity("wikitext2_raw", ["wiki.train.raw", "wiki.valid.raw"], root))
    run.uses(identity("tokenizers", ["gpt2_vocab.json", "gpt2_merges.txt"], root))
    pairs = gpt2_byte_pairs(root)
    encode = byte_pair_encoder(pairs)
    train, queries = (
        _first(
            blocks(wikitext2_raw(split, root), encode, settings.length),
            count,
            f"of WikiText-2's {split} split",
        )
        for split, count in (("train", settings.train), ("valid", settings.queries))
    )
    return Corpus(_shifted(train), _shifted(queries), len(pairs.ids))


def blocks(
    lines: Sequence[str], encode: Callable[[Sequence[str]], list[list[int]]], length: int
) -> Tensor:
    """(n, length) tokens of texts, one after the other, cut as :data:`LINES_AT_ONCE` says."""
    found = []
    for start in range(0, len(lines), LINES_AT_ONCE):
        some = encode(lines[start : start + LINES_AT_ONCE])
        tokens = torch.tensor(list(chain.from_iterable(some)), dtype=torch.int64)
        found.append(tokens[: len(tokens) // length * length].view(-1, length))
    return torch.cat(found)


def _first(sequences: Tensor, count: int, of: str) -> Tensor:
    if count > len(sequences):
        raise InputError(
            f"{count} sequences {of}; allowed: at most {len(sequences)} of {sequences.shape[1]}"
            " tokens"
        )
    return sequences[:count]


def _shifted(tokens: Tensor) -> Samples:
    """(n, t + 1) tokens -> inputs and next tokens, (n, t) each."""
    return Samples(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
