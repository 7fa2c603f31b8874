"""Classifiers in two parts, features and a head, since label correction reads the features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from papers.sama.tasks.weak_texts import PADDING, WordSettings


class Classifier(nn.Module):
    """``head(encoder(x))``.

    Args:
        encoder: (n, ...) inputs -> (n, width) features.
        head: (n, width) -> (n, classes) logits.
        width: of the features.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head, self.width = encoder, head, width

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, classes) logits."""
        logits: Tensor = self.head(self.encoder(x))
        return logits


class WordTransformer(nn.Module):
    """A transformer over words: the mean of its last states. Learned positions, norms first.

    Args:
        words: numbers in use.
        settings: its size.
    """

    def __init__(self, words: int, settings: WordSettings) -> None:
        super().__init__()
        width = settings.width
        self.words = nn.Embedding(words, width, padding_idx=PADDING)
        self.places = nn.Parameter(torch.empty(settings.max_length, width))
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.normal_(self.places, std=0.1)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            Block(width, settings.heads, settings.dropout) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, numbers: Tensor) -> Tensor:
        """(n, length) -> (n, width). Columns that no text reaches cost nothing."""
        present = numbers != PADDING
        longest = int(present.sum(dim=1).max())
        numbers, present = numbers[:, :longest], present[:, :longest]
        states = self.dropout(self.words(numbers) + self.places[:longest])
        for block in self.blocks:
            states = block(states, present)
        share = present[:, :, None].to(states.dtype)
        mean: Tensor = (self.norm(states) * share).sum(dim=1) / share.sum(dim=1)
        return mean


class Block(nn.Module):
    """Attention of every word to every other, then two layers, each added to what it reads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.attention_norm, self.layers_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, states: Tensor, present: Tensor) -> Tensor:
        """(n, length, width), (n, length) bool -> (n, length, width)."""
        count, length, width = states.shape
        asked = self.asked(self.attention_norm(states)).view(count, length, 3, self.heads, -1)
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=present[:, None, None, :]
        )
        mixed = mixed.transpose(1, 2).reshape(count, length, width)
        states = states + self.dropout(self.answer(mixed))
        changed: Tensor = states + self.dropout(self.layers(self.layers_norm(states)))
        return changed


class PooledBert(nn.Module):
    """What BERT makes of a text's first piece. Source: Devlin et al. 2019, Sec. 4.1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, pieces: Tensor) -> Tensor:
        """(n, length) piece numbers, zeros at the end -> (n, width)."""
        pooled: Tensor = self.bert(pieces, attention_mask=(pieces != PADDING).long()).pooler_output
        return pooled
