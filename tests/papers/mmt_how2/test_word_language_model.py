"""The language model is a distribution over sentences, and learns which ones there are."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from common.errors import InputError
from papers.mmt_how2.correction.minibatch_training import Minibatches
from papers.mmt_how2.correction.padded_text import word_vocabulary
from papers.mmt_how2.correction.word_language_model import (
    LanguageModelSettings,
    WordLanguageModel,
    train_language_model,
)

TINY = LanguageModelSettings(embedding=8, hidden=16, least_count=1)
SENTENCES = ["the pike swims", "a pipe smokes", "the pike smokes", "a pipe swims"]


def untrained(sentences: list[str] = SENTENCES) -> WordLanguageModel:
    torch.manual_seed(0)
    return WordLanguageModel(word_vocabulary(sentences), TINY)


def test_chances_of_all_sentences_up_to_a_length_and_of_the_rest_sum_to_one() -> None:
    model = untrained(["a b"])  # four symbols: end, unknown, a, b
    words = ["<unk>", "a", "b"]
    texts = [
        " ".join(text) for length in range(3) for text in itertools.product(words, repeat=length)
    ]
    ended = sum(math.exp(value) for value in model.log_probabilities(texts))
    # Sentences of three words and more: they begin with two words and go on with a third.
    starts = torch.tensor([[0, *pair] for pair in itertools.product(range(1, 4), repeat=2)])
    with torch.no_grad():
        chances = model(starts).softmax(-1)
    first = chances[:, 0].gather(1, starts[:, 1:2])
    second = chances[:, 1].gather(1, starts[:, 2:3])
    longer = float((first * second * chances[:, 2, 1:].sum(1, keepdim=True)).sum())
    assert ended + longer == pytest.approx(1, abs=1e-5)


def test_a_score_does_not_depend_on_the_batch() -> None:
    model = untrained()
    texts = [*SENTENCES, "", "the", "the pike the pike the pike the pike"]
    alone = [model.log_probabilities([text])[0] for text in texts]
    for size in (1, 2, 64):
        assert model.log_probabilities(texts, size) == pytest.approx(alone, abs=1e-5)


def test_perplexity_of_a_uniform_model_is_the_number_of_its_words() -> None:
    model = untrained()
    torch.nn.init.zeros_(model.output.weight)
    torch.nn.init.zeros_(model.output.bias)
    assert model.perplexity(SENTENCES) == pytest.approx(len(model.vocabulary), rel=1e-5)


def test_it_reaches_the_entropy_of_its_language() -> None:
    schedule = Minibatches(epochs=150, batch_size=4, learning_rate=0.02)
    model = train_language_model(SENTENCES, TINY, schedule, seed=1)
    # A sentence is one of four, told by two fair choices in its four words, the end among them.
    assert model.perplexity(SENTENCES) == pytest.approx(2 ** (2 / 4), rel=0.02)
    seen, wrong = model.log_probabilities(["the pike swims", "the pipe swims"])
    assert seen > wrong + 3


def test_training_is_a_function_of_the_seed() -> None:
    schedule = Minibatches(epochs=2, batch_size=2)
    scores = [
        train_language_model(SENTENCES, TINY, schedule, seed).log_probabilities(SENTENCES)
        for seed in (1, 1, 2)
    ]
    assert scores[0] == scores[1] != scores[2]


def test_no_sentence_is_refused() -> None:
    with pytest.raises(InputError, match="0 sentences"):
        untrained().log_probabilities([])
