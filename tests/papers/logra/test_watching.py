"""Layers are chosen by type and name."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from common.errors import InputError
from papers.logra.gradients.watching import unwrapped, watched


def model() -> nn.Module:
    adapters = nn.ModuleDict(
        {
            "base_layer": nn.Linear(4, 4),
            "lora_A": nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)}),
            "lora_B": nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)}),
        }
    )
    return nn.Sequential(
        OrderedDict(
            embed=nn.Embedding(5, 4),
            norm=nn.LayerNorm(4),
            conv=nn.Conv1d(2, 2, 1),
            attention=nn.MultiheadAttention(4, 2),
            query=adapters,
        )
    )


ATTENTION = [f"attention.{part}_proj" for part in ("q", "k", "v", "out")]
LINEAR = ["query.base_layer", "query.lora_A.default", "query.lora_B.default"]


def test_all_layers_with_a_rule_but_embeddings() -> None:
    assert list(watched(model())) == ["conv", *ATTENTION, *LINEAR]


def test_types() -> None:
    assert list(watched(model(), type_filter=[nn.Linear])) == LINEAR
    assert list(watched(model(), type_filter=[nn.MultiheadAttention])) == ATTENTION
    assert list(watched(model(), type_filter=[nn.Embedding, nn.Conv1d])) == ["embed", "conv"]


def test_names_contain_any_of_the_parts() -> None:
    assert list(watched(model(), name_filter=["lora_", "conv"])) == ["conv", *LINEAR[1:]]
    assert list(watched(model(), [nn.Linear], ["base", "conv"])) == LINEAR[:1]


def test_modules_are_the_model_s_own() -> None:
    net = model()
    assert watched(net)["conv"] is net.get_submodule("conv")


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_wrapped_models_keep_their_names(wrap: type[nn.Module]) -> None:
    net = model()
    assert unwrapped(wrap(net)) is net
    assert list(watched(wrap(net))) == ["conv", *ATTENTION, *LINEAR]


def test_conv1d_of_transformers_is_watched() -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    net = nn.Sequential(conv1d(3, 2), nn.Linear(3, 2))
    assert list(watched(net)) == ["0", "1"]
    assert list(watched(net, type_filter=[conv1d])) == ["0"]


def test_frozen_layers_are_left_out_unless_all_are() -> None:
    net = model()
    net.query.base_layer.requires_grad_(False)
    net.attention.requires_grad_(False)
    assert list(watched(net)) == ["conv", *LINEAR[1:]]
    assert list(watched(net, name_filter=["base"])) == LINEAR[:1]
    net.requires_grad_(False)
    assert list(watched(net)) == ["conv", *ATTENTION, *LINEAR]


def test_layers_whose_weight_is_computed_are_left_out() -> None:
    norm = nn.utils.parametrizations.weight_norm
    net = nn.Sequential(nn.Linear(3, 3), norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    prune.l1_unstructured(net[2], "weight", 0.5)
    assert list(watched(net)) == ["0"]


def test_of_layers_that_share_a_weight_the_first_is_watched() -> None:
    net = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[2].weight = net[0].weight
    assert list(watched(net)) == ["1"]
    assert list(watched(net, type_filter=[nn.Embedding, nn.Linear])) == ["0"]


def test_nothing_found_names_what_there_is() -> None:
    with pytest.raises(InputError, match=r"name_filter \['mlp'\].*'embed': 'Embedding', 'conv'"):
        watched(model(), name_filter=["mlp"])


def test_types_without_a_rule_are_refused() -> None:
    with pytest.raises(InputError, match="type_filter LayerNorm; allowed: Linear"):
        watched(model(), type_filter=[nn.LayerNorm])


def test_a_name_alone_is_no_list_of_names() -> None:
    with pytest.raises(InputError, match="name_filter 'mlp'; allowed: a list"):
        watched(model(), name_filter="mlp")
