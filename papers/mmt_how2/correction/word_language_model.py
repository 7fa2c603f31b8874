"""A word language model that scores candidates: S_LM of Choe et al. 2019, section 3.3.

The paper's is a 2-layer one-way LSTM with embeddings of 300 and hidden layers of 512; on which
text it was trained, and how, is not stated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.data.language_modelling import Vocabulary
from common.errors import InputError
from common.experiments.settings import Settings
from common.progress import Progress
from papers.mmt_how2.correction.minibatch_training import (
    Minibatches,
    States,
    train_network,
)
from papers.mmt_how2.correction.padded_text import PaddedText, padded, word_vocabulary


class LanguageModelSettings(Settings):
    """Sizes of the network, and of its vocabulary."""

    layers: int = Field(2, gt=0)
    embedding: int = Field(300, gt=0)
    hidden: int = Field(512, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1, description="of embeddings and layers; not stated")
    least_count: int = Field(
        2, gt=0, description="rarer words are the unknown word, which is so learnt; not stated"
    )


class WordLanguageModel(nn.Module):
    """P(next word | words before), over a vocabulary with the end of a sentence as number 0."""

    def __init__(self, vocabulary: Vocabulary, settings: LanguageModelSettings) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(len(vocabulary), settings.embedding)
        self.dropout = nn.Dropout(settings.dropout)
        self.lstm = nn.LSTM(
            settings.embedding,
            settings.hidden,
            settings.layers,
            batch_first=True,
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.output = nn.Linear(settings.hidden, len(vocabulary))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (n, t, words) of the word after each of ``ids`` (n, t)."""
        hidden, _ = self.lstm(self.dropout(self.embedding(ids)))
        logits: Tensor = self.output(self.dropout(hidden))
        return logits

    def sums(self, text: PaddedText) -> Tensor:
        """Log-probability (n,) of rows of words, each with its end of sentence; natural logs."""
        # A sentence starts after the end of one, and what stands after its own end is not summed.
        before = functional.pad(text.ids[:, :-1], (1, 0))
        chances = functional.log_softmax(self(before), -1)
        each = chances.gather(-1, text.ids.unsqueeze(-1)).squeeze(-1)
        return each.masked_fill(~text.present, 0).sum(1)

    @torch.no_grad()
    def log_probabilities(self, sentences: Sequence[str], batch_size: int = 64) -> list[float]:
        """log P of each sentence with its end; it does not depend on the batch it is scored in."""
        text = ended(sentences, self.vocabulary)
        self.eval()
        device = self.output.weight.device
        found = torch.empty(len(sentences))
        # Neighbours in a batch are alike in length, so that little padding is computed.
        for places in torch.split(text.lengths.argsort(), batch_size):
            found[places] = self.sums(text.take(places).to(device)).cpu()
        return found.tolist()

    def perplexity(self, sentences: Sequence[str], batch_size: int = 64) -> float:
        """exp(- mean log-probability of a word), the ends of sentences counted as words."""
        words = sum(len(sentence.split()) + 1 for sentence in sentences)
        return math.exp(-sum(self.log_probabilities(sentences, batch_size)) / words)


def ended(sentences: Sequence[str], vocabulary: Vocabulary) -> PaddedText:
    """Words of each sentence as numbers, with the end; an empty sentence is the end alone.

    Raises:
        InputError: there is no sentence.
    """
    if not sentences:
        raise InputError("0 sentences; one at least is needed")
    return padded([[*vocabulary.encode(sentence.split()).tolist(), 0] for sentence in sentences])


def train_language_model(
    sentences: Sequence[str],
    settings: LanguageModelSettings,
    schedule: Minibatches,
    seed: int,
    device: torch.device | None = None,
    progress: Progress | None = None,
    states: States | None = None,
) -> WordLanguageModel:
    """A language model of ``sentences``, by cross-entropy.

    Raises:
        InputError: the sentences hold no word that is frequent enough.
    """
    device = device or torch.device("cpu")
    vocabulary = word_vocabulary(sentences, settings.least_count)
    text = ended(sentences, vocabulary)
    torch.manual_seed(seed)
    model = WordLanguageModel(vocabulary, settings).to(device)

    def loss(places: Tensor) -> Tensor:
        batch = text.take(places).to(device)
        return -model.sums(batch).sum() / batch.lengths.sum()

    train_network(model, loss, len(sentences), schedule, seed, progress, states)
    return model
