"""Batches of sentences hold what the sentences hold."""

from __future__ import annotations

import pytest
import torch

from common.errors import InputError
from papers.mmt_how2.correction.padded_text import encoded, word_vocabulary

SENTENCES = ["the pike", "the pipe in the pike", "the"]


def test_rare_words_are_the_unknown_word() -> None:
    vocabulary = word_vocabulary(SENTENCES, least_count=2)
    assert vocabulary.tokens == ("<eos>", "<unk>", "the", "pike")
    assert encoded(SENTENCES, vocabulary).ids.tolist() == [
        [2, 3, 0, 0, 0],
        [2, 1, 1, 2, 3],
        [2, 0, 0, 0, 0],
    ]


def test_rows_that_are_taken_are_as_wide_as_the_longest_of_them() -> None:
    text = encoded(SENTENCES, word_vocabulary(SENTENCES))
    taken = text.take(torch.tensor([2, 0]))
    assert taken.ids.shape == (2, 2)
    assert taken.present.tolist() == [[True, False], [True, True]]


def test_a_sentence_without_words_is_refused() -> None:
    with pytest.raises(InputError, match="sentence 2 of 3 has no words"):
        encoded(["the", " ", "pike"], word_vocabulary(SENTENCES))
    with pytest.raises(InputError, match="least_count 9"):
        word_vocabulary(SENTENCES, least_count=9)
