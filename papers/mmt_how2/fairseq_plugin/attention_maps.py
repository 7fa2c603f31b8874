"""Attention of finished translations: one pass over them, teacher-forced."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
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
