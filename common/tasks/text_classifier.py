"""BERT from registered files: texts as numbers of word pieces, a classifier of them, features.

A text is a row of piece numbers, filled up with zeros, so that batches of texts are tensors as any
other data. Nothing here is ever downloaded while a program runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

from common.data.files import read_json
from common.data.registry import find, identity
from common.runs.record import DataIdentity
from common.tasks.bert_settings import BertSettings

BERT_WEIGHTS: Final = "bert_base_uncased"
#: Pieces that fill up short texts; number 0 in every vocabulary of BERT.
PADDING: Final = 0
#: Texts that are turned into features at once.
AT_ONCE: Final = 64


class TextClassifier(nn.Module):
    """Dropout and a linear layer on BERT's pooled output. Source: Devlin et al. 2019, Sec. 4.1."""

    def __init__(self, bert: BertModel, classes: int) -> None:
        super().__init__()
        self.bert = bert
        self.dropout = nn.Dropout(bert.config.hidden_dropout_prob)
        self.head = nn.Linear(bert.config.hidden_size, classes)
        nn.init.normal_(self.head.weight, std=bert.config.initializer_range)
        nn.init.zeros_(self.head.bias)

    def forward(self, pieces: Tensor) -> Tensor:
        """(n, length) piece numbers -> (n, classes) logits."""
        pooled = self.bert(pieces, attention_mask=(pieces != PADDING).long()).pooler_output
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


def identify_files(settings: BertSettings, root: Path | None = None) -> DataIdentity:
    """What :func:`read_bert` and :func:`read_tokenizer` read, checked.

    Raises: InputError if a file is absent, or not the registered one.
    """
    if settings.pretrained:
        return identity(BERT_WEIGHTS, ["config.json", "model.safetensors", "vocab.txt"], root)
    return identity("tokenizers", [_vocabulary(settings, root).name], root)


def read_bert(settings: BertSettings, root: Path | None = None) -> BertModel:
    """The published weights, or random ones of the sizes in ``settings``."""
    if settings.pretrained:
        config = read_json(find(BERT_WEIGHTS, root) / "config.json")
    else:
        config = {
            "num_hidden_layers": settings.layers,
            "hidden_size": settings.width,
            "num_attention_heads": settings.heads,
            "intermediate_size": 4 * settings.width,
        }
    # Fused attention has no second derivative, which all hypergradients but AID-FD need.
    bert = BertModel(BertConfig(**config | {"attn_implementation": "eager"}))
    if settings.pretrained:
        weights = load_file(find(BERT_WEIGHTS, root) / "model.safetensors")
        bert.load_state_dict(encoder_weights(weights))
    return bert


def encoder_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's weights by their names today, without the heads of its pretraining."""
    names = {"gamma": "weight", "beta": "bias"}
    return {
        re.sub(r"gamma$|beta$", lambda old: names[old[0]], name.removeprefix("bert.")): tensor
        for name, tensor in published.items()
        if name.startswith("bert.")
    }


def read_tokenizer(settings: BertSettings, root: Path | None = None) -> BertTokenizer:
    """Lower-case word pieces, with [CLS] before and [SEP] behind a text."""
    return BertTokenizer(
        vocab=str(_vocabulary(settings, root)), model_max_length=settings.max_length
    )


def _vocabulary(settings: BertSettings, root: Path | None) -> Path:
    if settings.pretrained:
        return find(BERT_WEIGHTS, root) / "vocab.txt"
    return find("tokenizers", root) / "bert-base-uncased-vocab.txt"


def piece_numbers(texts: Sequence[str], settings: BertSettings, root: Path | None = None) -> Tensor:
    """(n, max_length) int64. Every text is filled up to that, so that all batches cost the same."""
    tokenizer: Any = read_tokenizer(settings, root)
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    pieces: Tensor = encoded["input_ids"]
    return pieces


@torch.no_grad()
def frozen_features(
    bert: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    spans: npt.NDArray[np.int64],
    pooling: Literal["pooler", "mean"],
) -> Tensor:
    """(n, (1 + entities) * width): BERT's output for each text and for each entity in it.

    Args:
        spans (n, entities, 2): first and past-the-last character of each entity. Its feature is the
            mean over its pieces; of one that was cut off, zero.
    """
    bert.eval()
    device = next(bert.parameters()).device
    features = []
    for start in range(0, len(texts), AT_ONCE):
        encoded = tokenizer(
            list(texts[start : start + AT_ONCE]),
            padding=True,
            truncation=True,
            return_tensors="pt",
            return_offsets_mapping=True,
        )
        first, end = encoded.pop("offset_mapping").unbind(dim=-1)
        pieces, mask = (encoded[name].to(device) for name in ("input_ids", "attention_mask"))
        output = bert(pieces, attention_mask=mask)
        states = output.last_hidden_state.cpu()
        if pooling == "pooler":
            parts = [output.pooler_output.cpu()]
        else:
            parts = [mean_where(mask.cpu().bool(), states)]
        for entity in torch.from_numpy(spans[start : start + AT_ONCE].copy()).unbind(dim=1):
            # [CLS], [SEP] and padding have no characters: they start where they end.
            inside = (first < entity[:, 1:]) & (end > entity[:, :1]) & (first < end)
            parts.append(mean_where(inside, states))
        features.append(torch.cat(parts, dim=1))
    return torch.cat(features)


def mean_where(chosen: Tensor, states: Tensor) -> Tensor:
    """(n, length) bool, (n, length, width) -> (n, width) mean over the chosen; zero if none is."""
    share = chosen.to(states.dtype)
    total = torch.einsum("nl,nlw->nw", share, states)
    return total / share.sum(dim=1, keepdim=True).clamp(min=1)
