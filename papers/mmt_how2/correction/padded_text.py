"""Sentences as numbers: the words that are known, and a batch of rows of different lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.data.language_modelling import END_OF_LINE, UNKNOWN, Vocabulary
from common.errors import InputError


class PaddedText(NamedTuple):
    """Rows of numbers (n, t), each followed by zeros, and their lengths (n,)."""

    ids: Tensor
    lengths: Tensor

    @property
    def present(self) -> Tensor:
        """Places (n, t) that are no padding."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths.unsqueeze(1)

    def take(self, places: Tensor) -> PaddedText:
        """Those rows, as wide as the longest of them."""
        lengths = self.lengths[places]
        return PaddedText(self.ids[places, : int(lengths.max())], lengths)

    def to(self, device: torch.device) -> PaddedText:
        """On a device."""
        return PaddedText(self.ids.to(device), self.lengths.to(device))


def padded(rows: Sequence[Sequence[int]]) -> PaddedText:
    """Rows of numbers side by side."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for row, numbers in enumerate(rows):
        ids[row, : len(numbers)] = torch.as_tensor(numbers)
    return PaddedText(ids, lengths)


def word_vocabulary(sentences: Sequence[str], least_count: int = 1) -> Vocabulary:
    """The end of a sentence, the unknown word, and words seen ``least_count`` times or more.

    Raises:
        InputError: no word is seen that often.
    """
    counts = Counter(word for sentence in sentences for word in sentence.split())
    known = Vocabulary.of(counts.elements()).tokens
    words = tuple(word for word in known if counts[word] >= least_count)
    if not words:
        raise InputError(
            f"least_count {least_count}: no word is that frequent in {len(sentences)} sentences"
        )
    return Vocabulary((END_OF_LINE, UNKNOWN, *words))


def encoded(sentences: Sequence[str], vocabulary: Vocabulary) -> PaddedText:
    """Words of each sentence as numbers.

    Raises:
        InputError: there is no sentence, or one without words.
    """
    rows = [vocabulary.encode(sentence.split()).tolist() for sentence in sentences]
    if not rows or not all(rows):
        place = next((number for number, row in enumerate(rows, start=1) if not row), 1)
        raise InputError(f"sentence {place} of {len(rows)} has no words; one at least is needed")
    return padded(rows)
