"""What each fusion is, as identities of the network; and that batches and caches change nothing."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Any

import pytest
import torch
from fairseq.models.lstm import LSTMModel
from fairseq.sequence_generator import SequenceGenerator

from common.errors import InputError
from papers.mmt_how2.fairseq_plugin.length_penalty import WuLengthPenaltyGenerator
from papers.mmt_how2.fairseq_plugin.multimodal_lstm import FUSIONS
from papers.mmt_how2.fairseq_plugin.visual_encoder import VisualEncoder
from tests.papers.mmt_how2.networks import TASK, WIDTH, batch_of, model_of, one_of

LENGTHS = [6, 5, 5, 3, 1]
each_fusion = pytest.mark.parametrize("fusion", FUSIONS)
PICTURED = [fusion for fusion in FUSIONS if fusion != "none"]


def logits(model: Any, batch: Any, **changes: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**(batch["net_input"] | changes))[0]


def searched(model: Any, batch: Any, beam: int, kind: type = SequenceGenerator, **kw: Any) -> Any:
    generator = kind([model], TASK.target_dictionary, beam_size=beam, max_len_b=12, **kw)
    return generator.generate([model], batch)


@pytest.mark.parametrize("layers", [1, 3])
def test_without_pictures_it_is_fairseqs_lstm(layers: int) -> None:
    ours = model_of(encoder_layers=layers, decoder_layers=layers)
    torch.manual_seed(0)
    names = [
        f"{side}_{name}" for side in ("encoder", "decoder") for name in ("embed_dim", "hidden_size")
    ]
    sizes = dict(zip(names, (7, 5, 7, 8), strict=True))
    peer = LSTMModel.build_model(
        Namespace(
            **sizes,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_bidirectional=True,
            decoder_out_embed_dim=8,
            criterion="cross_entropy",
            dropout=0.0,
        ),
        TASK,
    ).eval()
    peer.load_state_dict(ours.state_dict())
    batch = batch_of(LENGTHS)
    text = {k: v for k, v in batch["net_input"].items() if k != "visual"}
    with torch.no_grad():
        expected, attention = peer(**text)
        found, extra = ours(**text)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(extra["attn"][0], attention, rtol=1e-5, atol=1e-6)


def loaded_from(model: Any, text: Any) -> Any:
    """``model`` with the parameters that the text model has."""
    absent, unknown = model.load_state_dict(text.state_dict(), strict=False)
    assert unknown == []
    assert all("visual" in name for name in absent)
    return model


def test_attention_modulation_of_share_zero_is_the_baseline_exactly() -> None:
    text, batch = model_of(), batch_of(LENGTHS)
    fused = loaded_from(model_of(fusion="attention_modulation", visual_gamma=0.0), text)
    assert torch.equal(logits(fused, batch), logits(text, batch))


def test_attention_modulation_of_share_one_ignores_the_text_attention() -> None:
    model, batch = model_of(fusion="attention_modulation", visual_gamma=1.0), batch_of(LENGTHS)
    before = logits(model, batch)
    torch.nn.init.normal_(model.decoder.attention.input_proj.weight)
    assert torch.equal(logits(model, batch), before)


def test_attention_modulation_mixes_two_distributions() -> None:
    model, batch = model_of(fusion="attention_modulation", visual_gamma=0.3), batch_of(LENGTHS)
    with torch.no_grad():
        extra = model(**batch["net_input"])[1]
    text, picture = extra["text_attention"], extra["visual_attention"]
    pads = batch["net_input"]["src_tokens"].eq(TASK.source_dictionary.pad())
    for weights in (text.sum(2), picture.sum(1)):
        torch.testing.assert_close(weights, torch.ones_like(weights))
    assert picture[pads].eq(0).all()
    assert text.transpose(1, 2)[pads].eq(0).all()
    mixed = 0.7 * text + 0.3 * picture.unsqueeze(1)
    torch.testing.assert_close(extra["attn"][0], mixed)
    # One picture a sentence: its attention cannot depend on the step.
    assert picture.shape == (len(LENGTHS), max(LENGTHS) + 1)


@pytest.mark.parametrize("fusion", ["step_wise_decoder", "output"])
def test_fusion_with_an_encoder_that_says_nothing_is_the_baseline(fusion: str) -> None:
    text, batch = model_of(), batch_of(LENGTHS)
    fused = loaded_from(model_of(fusion=fusion), text)
    assert not torch.allclose(logits(fused, batch), logits(text, batch), atol=1e-2)
    visual = fused.encoder.visual
    for parameter in visual.linear.parameters():
        torch.nn.init.zeros_(parameter)
    if visual.norm is not None:
        for values in (visual.norm.bias, visual.norm.running_mean):
            torch.nn.init.zeros_(values)
    assert torch.equal(logits(fused, batch), logits(text, batch))


def test_step_wise_fusion_widens_the_first_lstm() -> None:
    """The picture's part of the gates is that of an LSTM whose input ends in the picture."""
    model, batch = model_of(fusion="step_wise_decoder"), batch_of(LENGTHS)
    cell, added = model.decoder.layers[0], model.decoder.visual_input.weight
    wide = torch.nn.LSTMCell(cell.input_size + added.size(1), cell.hidden_size)
    with torch.no_grad():
        wide.weight_ih.copy_(torch.cat((cell.weight_ih, added), dim=1))
        wide.weight_hh.copy_(cell.weight_hh)
        wide.bias_ih.copy_(cell.bias_ih)
        wide.bias_hh.copy_(cell.bias_hh)
        inputs = batch["net_input"]
        encoded = model.encoder(
            inputs["src_tokens"], inputs["src_lengths"], visual=inputs["visual"]
        )
        hiddens, cells, feed = model.decoder._first_state(encoded, None)
        words = model.decoder.embed_tokens(inputs["prev_output_tokens"][:, 0])
        expected, _ = wide(torch.cat((words, feed, encoded.visual), 1), (hiddens[0], cells[0]))
        states: dict[str, Any] = {}
        model.decoder(inputs["prev_output_tokens"][:, :1], encoded, states)
        found = model.decoder.get_cached_state(states)[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_output_fusion_adds_one_vector_to_the_logits_of_all_steps() -> None:
    model, batch = model_of(fusion="output"), batch_of(LENGTHS)
    assert model.encoder.visual.norm is None
    assert model.encoder.visual.linear.out_features == 50
    nothing = torch.zeros_like(batch["net_input"]["visual"])
    shift = logits(model, batch) - logits(model, batch, visual=nothing)
    assert shift.abs().max() > 1
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=2e-4)


@each_fusion
def test_a_sentence_alone_is_translated_as_in_a_batch_of_other_pictures(fusion: str) -> None:
    model, batch = model_of(fusion=fusion), batch_of(LENGTHS)
    for beam in (1, 5):
        together = searched(model, batch, beam)
        for row in range(len(LENGTHS)):
            (alone,) = searched(model, one_of(batch, row), beam)
            assert len(alone) == len(together[row]) == beam
            for ours, theirs in zip(alone, together[row], strict=True):
                assert ours["tokens"].tolist() == theirs["tokens"].tolist()
                assert float(ours["score"]) == pytest.approx(float(theirs["score"]), abs=1e-4)


@pytest.mark.parametrize("fusion", PICTURED)
def test_the_picture_changes_the_translation(fusion: str) -> None:
    model, batch = model_of(fusion=fusion, visual_gamma=0.9), batch_of(LENGTHS)
    other = batch["net_input"]["visual"].roll(1, dims=0)
    assert (logits(model, batch) - logits(model, batch, visual=other)).abs().max() > 0.1


@each_fusion
def test_step_by_step_with_cached_state_equals_all_steps_at_once(fusion: str) -> None:
    model, batch = model_of(fusion=fusion, encoder_layers=2, decoder_layers=2), batch_of(LENGTHS)
    inputs = batch["net_input"]
    fed = inputs["prev_output_tokens"]
    with torch.no_grad():
        encoded = model.encoder(
            inputs["src_tokens"], inputs["src_lengths"], visual=inputs["visual"]
        )
        states: dict[str, Any] = {}
        steps = [model.decoder(fed[:, : t + 1], encoded, states)[0] for t in range(fed.size(1))]
    torch.testing.assert_close(torch.cat(steps, 1), logits(model, batch), rtol=1e-5, atol=1e-4)


def test_gradients_reach_every_parameter() -> None:
    for fusion in FUSIONS:
        model, batch = (
            model_of(fusion=fusion, encoder_layers=2, decoder_layers=2),
            batch_of(LENGTHS),
        )
        model.train()(**batch["net_input"])[0].square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_length_penalty_of_wu_et_al() -> None:
    model, batch = model_of(), batch_of(LENGTHS)
    found = searched(model, batch, 4, WuLengthPenaltyGenerator, len_penalty=0.8)
    for hypotheses in found:
        for hypothesis in hypotheses:
            length = len(hypothesis["tokens"])
            total = float(hypothesis["positional_scores"].sum())
            expected = total / ((5 + length) / 6) ** 0.8
            assert float(hypothesis["score"]) == pytest.approx(expected, rel=1e-5)
        scores = [float(hypothesis["score"]) for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)


def test_order_of_the_visual_encoders_layers() -> None:
    u = torch.randn(9, WIDTH)
    for order, steps in (
        ("linear_relu_norm", lambda e: e.norm(torch.relu(e.linear(u)))),
        ("linear_norm_relu", lambda e: torch.relu(e.norm(e.linear(u)))),
        ("linear", lambda e: e.linear(u)),
    ):
        encoder = VisualEncoder(WIDTH, 4, order)
        found = encoder(u)
        encoder.load_state_dict(VisualEncoder(WIDTH, 4, order).state_dict() | encoder.state_dict())
        torch.testing.assert_close(found, steps(encoder))


def test_a_sequence_of_vectors_counts_as_its_mean() -> None:
    encoder = VisualEncoder(WIDTH, 4, "linear_relu_norm").eval()
    u = torch.randn(3, 5, WIDTH)
    torch.testing.assert_close(encoder(u), encoder(u.mean(dim=1)))


def test_batch_norm_of_one_sentence_uses_the_running_statistics() -> None:
    encoder = VisualEncoder(WIDTH, 4, "linear_relu_norm")
    u = torch.randn(1, WIDTH)
    assert torch.equal(encoder.train()(u), encoder.eval()(u))
    assert torch.isfinite(encoder(u)).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fusion": "sideways"}, "--fusion sideways; allowed: none, step_wise_decoder"),
        ({"visual_gamma": 1.5}, "--visual-gamma 1.5; allowed: 0 to 1"),
        ({"visual_encoder": "deep"}, "--visual-encoder deep; allowed: linear_relu_norm"),
        ({"decoder_layers": 2}, "--decoder-layers 2; allowed: as --encoder-layers, 1"),
        ({"decoder_attention": "0"}, "--decoder-attention 0; allowed: 1"),
        ({"share_all_embeddings": True}, "--share-all-embeddings: needs one dictionary"),
        ({"criterion": "adaptive_loss"}, "--criterion adaptive_loss; allowed: those of a full"),
        ({"visual_dim": 2048, "fusion": "output"}, "rows of 6 numbers; the checkpoint"),
        (
            {"share_decoder_input_output_embed": True, "decoder_out_embed_dim": 3},
            "--decoder-out-embed-dim 3: tied to word vectors; allowed: 7",
        ),
    ],
)  # fmt: skip
def test_options_that_are_not_a_models(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        model_of(**options)


def test_a_fusion_without_pictures_is_refused() -> None:
    batch = batch_of(LENGTHS)
    del batch["net_input"]["visual"]
    with pytest.raises(InputError, match="--visual-dir is needed"):
        model_of(fusion="output")(**batch["net_input"])


def test_architectures() -> None:
    paper = model_of(architecture="multimodal_lstm", encoder_embed_dim=300, decoder_embed_dim=300,
                     encoder_hidden_size=512, decoder_hidden_size=512)  # fmt: skip
    assert paper.decoder.embed_tokens.embedding_dim == 300
    assert paper.decoder.layers[0].hidden_size == 512
    assert len(model_of(architecture="multimodal_lstm_3layers").decoder.layers) == 3
    assert model_of(architecture="multimodal_lstm").encoder.lstm.bidirectional
