"""A small model of characters, and a network that rates texts by what is in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class CharacterModel(nn.Module):
    """The next character from the last few: embeddings, one hidden layer, logits.

    Args:
        vocabulary: characters.
        context: how many it reads.
        width: of the hidden layer.
    """

    def __init__(self, vocabulary: int, context: int, width: int, embedding: int = 16) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(vocabulary, embedding)
        self.hidden = nn.Conv1d(embedding, width, context)
        self.out = nn.Linear(width, vocabulary)

    def losses(self, texts: Tensor) -> Tensor:
        """(n, length) characters -> (n,) nats a character, over those that have a whole context."""
        seen = self.embed(texts[:, :-1]).transpose(1, 2)
        logits = self.out(torch.relu(self.hidden(seen)).transpose(1, 2))
        return cross_entropy(
            logits.transpose(1, 2), texts[:, self.context :], reduction="none"
        ).mean(1)


class Rater(nn.Module):
    """One number a text: embeddings, a convolution, the mean over places, a linear layer.

    Source: the data rater of Calian et al. 2025 rates texts by a small transformer; this is a
    smaller network of the same use.
    """

    def __init__(self, vocabulary: int, width: int, reach: int = 3, embedding: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.hidden = nn.Conv1d(embedding, width, reach)
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, texts: Tensor) -> Tensor:
        """(n, length) characters -> (n,) ratings, 0 at first."""
        found = torch.relu(self.hidden(self.embed(texts).transpose(1, 2))).mean(2)
        return self.out(found)[:, 0]  # type: ignore[no-any-return]


def batch_weights(ratings: Tensor) -> Tensor:
    """(n,) ratings -> (n,) weights: their softmax over the batch, of sum 1."""
    return ratings.softmax(0)
