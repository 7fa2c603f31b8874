"""Attention of finished translations: one pass over them, teacher-forced."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from fairseq import utils
from fairseq.data import data_utils
from torch import Tensor

from common.errors import InputError


class AttentionMap(NamedTuple):
    """What the words of one translation attended to.

    Attributes:
        text: (T, S), a distribution over the source for every target token, the end included.
        visual: (S,), the picture's distribution, which is the same at all steps; None without one.
    """

    text: Tensor
    visual: Tensor | None


class SentenceAttention(NamedTuple):
    """Words of a source and of its translation, and what the latter attended to."""

    source: list[str]
    target: list[str]
    attention: AttentionMap


def sentence_attention(
    model: Any, dictionaries: tuple[Any, Any], sample: dict[str, Any], tokens: list[Tensor]
) -> dict[int, SentenceAttention]:
    """By its number each sentence of a batch with its attention, in the batch's order.

    Args:
        model, sample, tokens: as of :func:`attention_maps`.
        dictionaries: of the source and the target.

    Raises:
        InputError: as :func:`attention_maps`.
    """
    source, target = dictionaries
    words = sample["net_input"]["src_tokens"]
    return {
        number: SentenceAttention(
            symbols(source, utils.strip_pad(row, source.pad())), symbols(target, found), attention
        )
        for number, row, found, attention in zip(
            sample["id"].tolist(),
            words,
            tokens,
            attention_maps(model, sample, tokens),
            strict=True,
        )
    }


def symbols(dictionary: Any, tokens: Tensor) -> list[str]:
    """The words of a row of tokens, the end of sentence included."""
    return [dictionary[token] for token in tokens.tolist()]


@torch.no_grad()
def attention_maps(model: Any, sample: dict[str, Any], tokens: list[Tensor]) -> list[AttentionMap]:
    """Attention maps of the translations ``tokens`` of a batch, in the batch's order.

    Beam search keeps one attention matrix a hypothesis, the mixed one; decoding the finished
    hypothesis once more gives both that were mixed, and costs one pass.

    Args:
        model: a ``multimodal_lstm``.
        sample: the batch that was translated.
        tokens: of each sentence its translation, the end of sentence last.

    Raises:
        InputError: another model.
    """
    if not hasattr(model.decoder, "visual_gamma"):
        raise InputError(f"{type(model).__name__}: has no attention maps; allowed: multimodal_lstm")
    dictionary = model.decoder.dictionary
    inputs = {k: v for k, v in sample["net_input"].items() if k != "prev_output_tokens"}
    inputs["prev_output_tokens"] = data_utils.collate_tokens(
        tokens, dictionary.pad(), dictionary.eos(), move_eos_to_beginning=True
    )
    training, needed = model.training, model.decoder.need_attn
    model.eval()
    model.decoder.need_attn = True
    try:
        extra = model(**inputs)[1]
    finally:
        model.decoder.need_attn = needed
        model.train(training)
    visual = extra["visual_attention"]
    return [
        AttentionMap(
            extra["text_attention"][b, : len(words), :length].cpu(),
            None if visual is None else visual[b, :length].cpu(),
        )
        for b, (words, length) in enumerate(
            zip(tokens, inputs["src_lengths"].tolist(), strict=True)
        )
    ]
