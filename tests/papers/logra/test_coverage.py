"""What share of a model is watched is said, and why the rest is not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from papers import logra
from papers.logra import LogIX
from papers.logra.gradients.parameter_coverage import measure_coverage
from papers.logra.gradients.watching import watched


class Everything(nn.Module):
    """A module of each kind that is watched or not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4, bias=False))
        self.experts = nn.ParameterList([nn.Parameter(torch.randn(2, 4, 4))])
        self.head = nn.Linear(4, 3)
        self.other = nn.Linear(4, 10)
        self.other.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def test_every_trained_number_is_watched_or_has_a_reason() -> None:
    model = Everything()
    for bias in (False, True):
        found = measure_coverage(model, watched(model), bias=bias)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert found.total == trained
        reasons = {(part.module, part.parameter): part.why for part in found.unwatched}
        # A tied embedding is watched through the layer that it is tied to.
        assert ("embed", "weight") not in reasons
        assert found.watched["other"] == 40 + 10 * bias
        assert found.watched["attention.q_proj"] == 16 + 4 * bias
        assert reasons["lstm", "weight_ih_l0"] == "no gradient rule"
        assert reasons["norm", "weight"] == "no gradient rule"
        assert reasons["experts", "0"] == "no gradient rule"
        assert reasons["attention", "bias_k"] == "no gradient rule"
        assert reasons["normed", "original0"].startswith("its layer's weight is computed")
        assert "frozen" not in {module for module, _ in reasons}
        why = reasons.get(("attention", "in_proj_bias"), reasons.get(("head", "bias")))
        assert why == (None if bias else "biases count with bias=True alone")
        assert not found.frozen
        assert sum(part.numbers for part in found.unwatched) == trained - sum(
            found.watched.values()
        )


def test_filters_and_frozen_layers_are_reasons() -> None:
    model = Everything()
    layers = watched(model, name_filter=["q_proj", "head"])
    found = measure_coverage(model, layers, bias=False)
    rest = {(part.module, part.parameter): part for part in found.unwatched}
    assert rest["attention", "in_proj_weight"].numbers == 32
    assert rest["attention", "in_proj_weight"].why.startswith("its layer does not pass the filters")
    assert rest["embed", "weight"].why.startswith("embeddings are watched where type_filter")
    model.frozen.bias.requires_grad_(True)
    rest = {part.module: part for part in measure_coverage(model, layers, bias=True).unwatched}
    assert rest["frozen"].why == "the weight of its layer is frozen"
    model.requires_grad_(False)
    found = measure_coverage(model, watched(model), bias=False)
    assert (found.total, found.share) == (0, 1.0)
    assert "head" in found.frozen
    assert "watched though frozen: attention.q_proj" in str(found)


def test_an_encoder_layer_is_watched_whole_but_its_norms() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16)
    found = measure_coverage(model, watched(model), bias=True)
    assert found.total - sum(found.watched.values()) == 2 * 2 * 8
    plain = nn.Sequential(nn.Linear(3, 2))
    assert measure_coverage(plain, watched(plain), bias=True).share == 1


def test_grouped_experts_are_not_watched() -> None:
    """Mixtral: most of it."""
    from transformers import MixtralConfig, MixtralForCausalLM

    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=31,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
        )
    )
    found = measure_coverage(model, watched(model), bias=False)
    rest = [part for part in found.unwatched if part.kind == "MixtralExperts"]
    assert sum(part.numbers for part in rest) == 4 * 3 * 8 * 16
    assert {part.why for part in rest} == {"no gradient rule"}
    assert "1,536 of MixtralExperts (model.layers.0.mlp.experts): no gradient rule" in str(found)


def test_a_run_says_it_once_and_answers(
    new_run: Callable[..., LogIX], caplog: pytest.LogCaptureFixture
) -> None:
    run, model = new_run(), nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    with pytest.raises(InputError, match="no model is watched"):
        run.coverage()
    with caplog.at_level(logging.WARNING, "logra"):
        run.watch(model)
        run.watch(model)
    assert caplog.messages == [
        "watched: 6 of 12 trained parameters (50.0 %), in 1 layer\n"
        "not watched: 2 of Linear (0): biases count with bias=True alone\n"
        "not watched: 4 of LayerNorm (1): no gradient rule"
    ]
    assert run.coverage().share == 0.5
    caplog.clear()
    with caplog.at_level(logging.WARNING, "logra"):
        run.watch(nn.Sequential(nn.Linear(3, 2)), bias=True)
    assert not caplog.messages
    logra.init("module")
    logra.watch(model)
    assert logra.coverage().total == 12
