"""Bi-LSTM translation with Luong's attention and three ways to let the picture in.

Built on fairseq's LSTM model: the parameters that both have bear its names, so that what it has
trained on text loads here, and every fusion only adds parameters to the text model's: with
``--finetune-from-model`` a fusion starts from a model of text.

=========================  =====================================================================
``--fusion``               where the picture enters (Raunak et al. 2019; Choe et al. 2019)
=========================  =====================================================================
``none``                   nowhere
``step_wise_decoder``      input of the decoder's first LSTM, at every step
``attention_modulation``   a second attention over the source, mixed in with ``--visual-gamma``
``output``                 input of the softmax layer: a term of the logits, equal at all steps
=========================  =====================================================================
"""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.models import register_model, register_model_architecture
from fairseq.models.lstm import (
    Embedding,
    Linear,
    LSTMDecoder,
    LSTMEncoder,
    LSTMModel,
    base_architecture,
)
from torch import Tensor

from common.errors import InputError

from .visual_encoder import ORDERS, VisualEncoder

logger = logging.getLogger(__name__)
FUSIONS: Final = ("none", "step_wise_decoder", "attention_modulation", "output")
#: fairseq draws the weights of its LSTM model from +- this, whatever their number.
FAIRSEQ_RANGE: Final = 0.1


class EncoderOut(NamedTuple):
    """What the decoder reads of a source sentence and its picture."""

    states: Tensor  # S x B x d_e
    final_hiddens: Tensor  # layers x B x d_e
    final_cells: Tensor  # layers x B x d_e
    padding: Tensor  # S x B, true at pads
    visual: Tensor | None  # B x p
    visual_attention: Tensor | None  # B x S


class MultimodalLSTMEncoder(LSTMEncoder):  # type: ignore[misc]
    """fairseq's LSTM encoder, with the encoded picture and what it attends to.

    The visual attention is here because it is the same at every step of the decoder.
    """

    def __init__(self, *args: Any, visual: VisualEncoder | None, fusion: str, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.visual = visual
        self.fusion = fusion
        self.visual_query = None
        if visual is not None and fusion == "attention_modulation":
            self.visual_query = Linear(visual.linear.out_features, self.output_units, bias=False)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        enforce_sorted: bool = True,
        visual: Tensor | None = None,
    ) -> EncoderOut:
        """Source tokens (B, S) and pictures (B, D) or (B, t, D)."""
        states, hiddens, cells, padding = self._text(src_tokens, src_lengths, enforce_sorted)
        if self.visual is None or (visual is None and self.fusion == "none"):
            return EncoderOut(states, hiddens, cells, padding, None, None)
        if visual is None:
            raise InputError(f"--fusion {self.fusion}: reads pictures; --visual-dir is needed")
        encoded = self.visual(visual.to(states.dtype))
        attention = None
        if self.visual_query is not None:
            scores = torch.einsum("be,sbe->bs", self.visual_query(encoded), states)
            attention = masked_softmax(scores, padding.t())
        return EncoderOut(states, hiddens, cells, padding, encoded, attention)

    def _text(
        self, src_tokens: Tensor, src_lengths: Tensor, enforce_sorted: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As fairseq's; but what has no padding is not packed, which takes a third of the time."""
        if int(src_lengths.min()) < src_tokens.size(1):
            return super().forward(src_tokens, src_lengths, enforce_sorted)  # type: ignore[no-any-return]
        embedded = self.dropout_in_module(self.embed_tokens(src_tokens))
        states, (hiddens, cells) = self.lstm(embedded.transpose(0, 1))
        if self.bidirectional:
            hiddens, cells = (
                self.combine_bidir(part, len(src_tokens)) for part in (hiddens, cells)
            )
        padding = src_tokens.eq(self.padding_idx).t()
        return self.dropout_out_module(states), hiddens, cells, padding

    def reorder_encoder_out(self, encoder_out: EncoderOut, new_order: Tensor) -> EncoderOut:
        """Rows of the batch in another order, as beam search asks for."""
        text = super().reorder_encoder_out(encoder_out[:4], new_order)
        pictures = (
            part if part is None else part.index_select(0, new_order) for part in encoder_out[4:]
        )
        return EncoderOut(*text, *pictures)


def masked_softmax(scores: Tensor, padding: Tensor) -> Tensor:
    """Softmax over the last dimension, in float32 and zero at pads."""
    scores = scores.masked_fill(padding, float("-inf"))
    return F.softmax(scores, dim=-1, dtype=torch.float32).type_as(scores)


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden state and cell, (B, d) each, from the gates' pre-activations, (B, 4 d)."""
    entry, keep, new, leave = gates.chunk(4, dim=1)
    cell = torch.addcmul(keep.sigmoid() * cell, entry.sigmoid(), new.tanh())
    return leave.sigmoid() * cell.tanh(), cell


class MultimodalLSTMDecoder(LSTMDecoder):  # type: ignore[misc]
    """fairseq's LSTM decoder with input feeding, and the picture.

    What does not depend on the step before (the embedded words and the picture's part of the
    gates) is computed for all steps at once.
    """

    def __init__(
        self, *args: Any, fusion: str, visual_gamma: float, visual_size: int, **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        self.visual_gamma = visual_gamma if fusion == "attention_modulation" else 0.0
        self.visual_input = self.visual_output = None
        if fusion == "step_wise_decoder":
            self.visual_input = Linear(visual_size, 4 * self.hidden_size, bias=False)
        if fusion == "output":
            self.visual_output = Linear(visual_size, len(self.dictionary), bias=False)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: dict[str, Any] | None = None,
        src_lengths: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits (B, T, V); ``attn``, ``text_attention`` (B, T, S), ``visual*`` beside them."""
        features, extra = self.extract_features(prev_output_tokens, encoder_out, incremental_state)
        logits = self.output_layer(features)
        if self.visual_output is not None:
            logits = logits + self.visual_output(encoder_out.visual).unsqueeze(1)
        return logits, extra

    def extract_features(
        self,
        prev_output_tokens: Tensor,
        encoder_out: EncoderOut,
        incremental_state: dict[str, Any] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Attentional states (B, T, d) and what :meth:`forward` gives beside the logits."""
        cached = bool(incremental_state)
        if cached:
            prev_output_tokens = prev_output_tokens[:, -1:]
        hiddens, cells, feed = self._first_state(encoder_out, incremental_state if cached else None)
        recurrent, gates = self._first_gates(prev_output_tokens, encoder_out)
        source = encoder_out.states.transpose(0, 1)  # B x S x d_e
        padding = encoder_out.padding.t()
        outs, attentions, mixtures = [], [], []
        for at_step in gates:
            hiddens[0], cells[0] = lstm_step(
                torch.addmm(at_step, torch.cat((feed, hiddens[0]), dim=1), recurrent), cells[0]
            )
            hidden = hiddens[0]
            for i, layer in enumerate(self.layers[1:], start=1):
                hidden, cells[i] = layer(self.dropout_out_module(hidden), (hiddens[i], cells[i]))
                hiddens[i] = hidden
            attention = self._attention(hidden, source, padding)
            mixture = attention
            if encoder_out.visual_attention is not None:
                mixture = torch.lerp(attention, encoder_out.visual_attention, self.visual_gamma)
            context = torch.bmm(mixture.unsqueeze(1), source).squeeze(1)
            combined = self.attention.output_proj(torch.cat((context, hidden), dim=1))
            feed = self.dropout_out_module(torch.tanh(combined))
            outs.append(feed)
            attentions.append(attention)
            mixtures.append(mixture)
        self.set_incremental_state(
            incremental_state,
            "cached_state",
            {
                "prev_hiddens": torch.stack(hiddens),
                "prev_cells": torch.stack(cells),
                "input_feed": feed,
            },
        )
        features = torch.stack(outs, dim=1)
        if hasattr(self, "additional_fc"):
            features = self.dropout_out_module(self.additional_fc(features))
        extra: dict[str, Any] = {"attn": [None], "visual": encoder_out.visual}
        if self.need_attn and not self.training:
            extra["attn"] = [torch.stack(mixtures, dim=1)]
            extra["text_attention"] = torch.stack(attentions, dim=1)
            extra["visual_attention"] = encoder_out.visual_attention
        return features, extra

    def _first_state(
        self, encoder_out: EncoderOut, incremental_state: dict[str, Any] | None
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Hidden states and cells of each layer and the fed-back output, (B, d) each."""
        if incremental_state is not None:
            hiddens, cells, feed = self.get_cached_state(incremental_state)
            return list(hiddens), list(cells), feed
        hiddens, cells = encoder_out.final_hiddens, encoder_out.final_cells
        if self.encoder_hidden_proj is not None:
            hiddens, cells = self.encoder_hidden_proj(hiddens), self.encoder_cell_proj(cells)
        feed = hiddens.new_zeros(hiddens.size(1), self.hidden_size)
        return list(hiddens), list(cells), feed

    def _first_gates(
        self, prev_output_tokens: Tensor, encoder_out: EncoderOut
    ) -> tuple[Tensor, Tensor]:
        """First LSTM: weights (2 d, 4 d) of [fed-back output; state]; the rest, (T, B, 4 d)."""
        embedded = self.dropout_in_module(self.embed_tokens(prev_output_tokens)).transpose(0, 1)
        cell = self.layers[0]
        of_word, of_feed = cell.weight_ih.split((embedded.size(2), self.hidden_size), dim=1)
        gates = F.linear(embedded, of_word, cell.bias_ih + cell.bias_hh)
        if self.visual_input is not None:
            gates = gates + self.visual_input(encoder_out.visual)
        return torch.cat((of_feed, cell.weight_hh), dim=1).t(), gates

    def _attention(self, hidden: Tensor, source: Tensor, padding: Tensor) -> Tensor:
        """Luong's general attention of one step: (B, d), (B, S, d_e), (B, S) to (B, S)."""
        query = self.attention.input_proj(hidden)
        return masked_softmax(torch.bmm(source, query.unsqueeze(2)).squeeze(2), padding)


@register_model("multimodal_lstm")
class MultimodalLSTMModel(LSTMModel):  # type: ignore[misc]
    """fairseq's LSTM model whose batches may bring a picture vector a sentence."""

    @staticmethod
    def add_args(parser: Any) -> None:
        """fairseq's options of its LSTM, and those of the picture."""
        LSTMModel.add_args(parser)
        parser.add_argument("--fusion", choices=FUSIONS, help="where the picture enters")
        parser.add_argument(
            "--visual-gamma", type=float, help="share of the visual attention (published: 0.1)"
        )
        parser.add_argument(
            "--visual-embed-dim", type=int, help="size of the encoded picture (default: the words')"
        )
        parser.add_argument("--visual-encoder", choices=ORDERS, help="order of its layers")
        parser.add_argument(
            "--init-range", type=float, help="weights are drawn from +- this (fairseq: 0.1)"
        )
        parser.add_argument(
            "--embed-init-range", type=float, help="word vectors are, too (fairseq: 0.1)"
        )

    @classmethod
    def build_model(cls, args: Any, task: Any) -> MultimodalLSTMModel:
        """The model for a task's dictionaries and feature width.

        Raises:
            InputError: options that do not go together, or features that the checkpoint's model
                cannot read.
        """
        multimodal_lstm(args)
        check_options(args)
        note_feature_width(args, getattr(task, "visual_width", None))
        source, target = task.source_dictionary, task.target_dictionary
        drawn = args.embed_init_range
        encoder_words = build_embedding(
            source, args.encoder_embed_dim, args.encoder_embed_path, drawn
        )
        decoder_words = encoder_words
        if not args.share_all_embeddings:
            decoder_words = build_embedding(
                target, args.decoder_embed_dim, args.decoder_embed_path, drawn
            )
        elif source != target:
            raise InputError("--share-all-embeddings: needs one dictionary for both languages")
        encoder_words.weight.requires_grad = not args.encoder_freeze_embed
        decoder_words.weight.requires_grad = not args.decoder_freeze_embed
        visual = None
        if reads_pictures(args):
            visual = VisualEncoder(args.visual_dim, args.visual_embed_dim, args.visual_encoder)
        encoder = MultimodalLSTMEncoder(
            dictionary=source,
            hidden_size=args.encoder_hidden_size,
            num_layers=args.encoder_layers,
            dropout_in=args.encoder_dropout_in,
            dropout_out=args.encoder_dropout_out,
            bidirectional=args.encoder_bidirectional,
            pretrained_embed=encoder_words,
            embed_dim=args.encoder_embed_dim,
            max_source_positions=args.max_source_positions,
            visual=visual,
            fusion=args.fusion,
        )
        decoder = MultimodalLSTMDecoder(
            dictionary=target,
            embed_dim=args.decoder_embed_dim,
            hidden_size=args.decoder_hidden_size,
            out_embed_dim=args.decoder_out_embed_dim,
            num_layers=args.decoder_layers,
            dropout_in=args.decoder_dropout_in,
            dropout_out=args.decoder_dropout_out,
            encoder_output_units=encoder.output_units,
            pretrained_embed=decoder_words,
            share_input_output_embed=args.share_decoder_input_output_embed,
            max_target_positions=args.max_target_positions,
            fusion=args.fusion,
            visual_gamma=args.visual_gamma,
            visual_size=args.visual_embed_dim,
        )
        rescale(encoder, args.init_range)
        rescale(decoder, args.init_range)
        return cls(encoder, decoder)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        incremental_state: dict[str, Any] | None = None,
        visual: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits (B, T, V) of teacher-forced decoding, and what the decoder gives beside them."""
        encoder_out = self.encoder(src_tokens, src_lengths=src_lengths, visual=visual)
        return self.decoder(  # type: ignore[no-any-return]
            prev_output_tokens, encoder_out=encoder_out, incremental_state=incremental_state
        )

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Parameters of a model that was trained on text alone; the picture's stay as drawn.

        fairseq calls this one of every checkpoint that it is about to load.
        """
        super().upgrade_state_dict_named(state_dict, name)
        drawn = {
            key: value
            for key, value in self.state_dict(prefix=f"{name}." if name else "").items()
            if ".visual" in key
        }
        if drawn and drawn.keys().isdisjoint(state_dict):
            logger.warning(
                "the checkpoint's model was trained on text alone; as they were drawn stay: %s",
                ", ".join(drawn),
            )
            state_dict.update(drawn)

    def sizes(self) -> dict[str, int]:
        """Types of units, and numbers of each part; the picture's are 0 where none is read."""
        encoder, decoder, picture = self.encoder, self.decoder, self.encoder.visual
        return {
            "source_types": len(encoder.dictionary),
            "target_types": len(decoder.dictionary),
            "source_embedding": encoder.embed_tokens.embedding_dim,
            "target_embedding": decoder.embed_tokens.embedding_dim,
            "layers": encoder.num_layers,
            "encoder_direction": encoder.hidden_size,
            "decoder": decoder.hidden_size,
            "picture": 0 if picture is None else picture.linear.in_features,
            "encoded_picture": 0 if picture is None else picture.linear.out_features,
        }


@torch.no_grad()
def rescale(part: torch.nn.Module, init_range: float) -> None:
    """Stretch the weights that fairseq draws, all of them but word vectors and the picture's."""
    for name, weights in part.named_parameters():
        if not name.startswith(("embed_tokens.", "visual.")):
            weights.mul_(init_range / FAIRSEQ_RANGE)


def build_embedding(
    dictionary: Any, size: int, path: str | None, init_range: float
) -> torch.nn.Embedding:
    """A table of word vectors drawn from +- ``init_range``, those found in ``path`` from there."""
    table = Embedding(len(dictionary), size, dictionary.pad())
    with torch.no_grad():
        table.weight.mul_(init_range / FAIRSEQ_RANGE)
    if path:
        table = utils.load_embedding(utils.parse_embedding(path), dictionary, table)
    return table  # type: ignore[no-any-return]


def reads_pictures(args: Any) -> bool:
    """Whether the model or its criterion needs encoded pictures."""
    regularised = getattr(args, "criterion", None) == "visual_semantic_regularizer"
    return args.fusion != "none" or regularised


def check_options(args: Any) -> None:
    """Raises InputError where the options are not a model's."""
    if args.fusion not in FUSIONS:
        raise InputError(f"--fusion {args.fusion}; allowed: {', '.join(FUSIONS)}")
    if args.visual_encoder not in ORDERS:
        raise InputError(f"--visual-encoder {args.visual_encoder}; allowed: {', '.join(ORDERS)}")
    if not 0 <= args.visual_gamma <= 1:
        raise InputError(f"--visual-gamma {args.visual_gamma}; allowed: 0 to 1")
    for name in ("init_range", "embed_init_range"):
        if not getattr(args, name) > 0:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {getattr(args, name)}; allowed: above 0")
    if args.encoder_layers != args.decoder_layers:
        raise InputError(
            f"--decoder-layers {args.decoder_layers}; allowed: as --encoder-layers,"
            f" {args.encoder_layers}"
        )
    if not utils.eval_bool(args.decoder_attention):
        raise InputError("--decoder-attention 0; allowed: 1, this model always attends")
    if getattr(args, "criterion", None) == "adaptive_loss":
        raise InputError("--criterion adaptive_loss; allowed: those of a full softmax")
    tied = args.share_decoder_input_output_embed or args.share_all_embeddings
    if tied and args.decoder_embed_dim != args.decoder_out_embed_dim:
        raise InputError(
            f"--decoder-out-embed-dim {args.decoder_out_embed_dim}: tied to word vectors; allowed:"
            f" {args.decoder_embed_dim}"
        )
    if args.share_all_embeddings:
        args.share_decoder_input_output_embed = True
        if args.encoder_embed_dim != args.decoder_embed_dim:
            raise InputError(
                f"--decoder-embed-dim {args.decoder_embed_dim}: shared with the encoder; allowed:"
                f" {args.encoder_embed_dim}"
            )


def note_feature_width(args: Any, width: int | None) -> None:
    """Keep the width of the features in the model's options, which checkpoints hold.

    Raises:
        InputError: a model that reads pictures gets none, or ones of another width.
    """
    trained = getattr(args, "visual_dim", None)
    if trained is None:
        args.visual_dim = width if reads_pictures(args) else None
    elif width not in (None, trained):
        raise InputError(
            f"--visual-dir: rows of {width} numbers; the checkpoint's model reads {trained}"
        )
    if args.fusion != "none" and width is None:
        raise InputError(f"--fusion {args.fusion}: reads pictures; --visual-dir is needed")
    if reads_pictures(args) and args.visual_dim is None:
        raise InputError(f"--criterion {args.criterion}: reads pictures; --visual-dir is needed")


@register_model_architecture("multimodal_lstm", "multimodal_lstm")  # type: ignore[untyped-decorator]
def multimodal_lstm(args: Any) -> None:
    """The paper's sizes: embedding 300, hidden 512 (in each direction: not stated)."""
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 300)
    args.decoder_embed_dim = getattr(args, "decoder_embed_dim", 300)
    args.encoder_hidden_size = getattr(args, "encoder_hidden_size", 512)
    args.decoder_hidden_size = getattr(args, "decoder_hidden_size", 512)
    args.encoder_bidirectional = True
    tied = ("share_decoder_input_output_embed", "share_all_embeddings")
    out = args.decoder_embed_dim if any(getattr(args, name, False) for name in tied) else None
    args.decoder_out_embed_dim = getattr(
        args, "decoder_out_embed_dim", out or args.decoder_hidden_size
    )
    args.fusion = getattr(args, "fusion", "none") or "none"
    late = args.fusion == "output"
    args.visual_gamma = first_given(getattr(args, "visual_gamma", None), 0.1)
    args.visual_embed_dim = first_given(
        getattr(args, "visual_embed_dim", None), 50 if late else args.decoder_embed_dim
    )
    args.visual_encoder = first_given(
        getattr(args, "visual_encoder", None), "linear" if late else "linear_relu_norm"
    )
    args.init_range = first_given(getattr(args, "init_range", None), FAIRSEQ_RANGE)
    args.embed_init_range = first_given(getattr(args, "embed_init_range", None), FAIRSEQ_RANGE)
    base_architecture(args)
    args.max_source_positions = getattr(args, "max_source_positions", 1024)
    args.max_target_positions = getattr(args, "max_target_positions", 1024)


def first_given(value: Any, default: Any) -> Any:
    """``value`` unless it is None."""
    return default if value is None else value


@register_model_architecture("multimodal_lstm", "multimodal_lstm_3layers")  # type: ignore[untyped-decorator]
def multimodal_lstm_3layers(args: Any) -> None:
    """The deeper model of the paper's Table 3, and of ASR correction."""
    args.encoder_layers = getattr(args, "encoder_layers", 3)
    args.decoder_layers = getattr(args, "decoder_layers", 3)
    multimodal_lstm(args)


@register_model_architecture("multimodal_lstm", "multimodal_lstm_small")  # type: ignore[untyped-decorator]
def multimodal_lstm_small(args: Any) -> None:
    """A small model for small languages: embedding 32, hidden 32 a direction and 64.

    fairseq's range is made for layers of some hundred numbers. Sums of as few numbers as these are
    then so small that learning starts late: three of four updates went by before anything was
    learned.
    """
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 32)
    args.decoder_embed_dim = getattr(args, "decoder_embed_dim", 32)
    args.encoder_hidden_size = getattr(args, "encoder_hidden_size", 32)
    args.decoder_hidden_size = getattr(args, "decoder_hidden_size", 64)
    args.init_range = first_given(getattr(args, "init_range", None), 0.2)
    args.embed_init_range = first_given(getattr(args, "embed_init_range", None), 1.0)
    multimodal_lstm(args)
