"""Rows of a layer make its gradient, and projected rows its projected gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.errors import InputError
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.layers import (
    add_projected_gradients,
    add_projecting_late,
    find_rule,
    is_better_late,
)
from papers.logra.gradients.projections import Projections, random_projections
from tests.papers.logra.one_at_a_time import autograd_gradients

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def captured(
    module: nn.Module, data: Tensor, bias: bool, projections: Projections | None = None
) -> Tensor:
    """(n, out, inner) of the loss sum((output + 1) ** 3), steep also where outputs are 0."""
    capture = Capture(module, {"it": module}, projections, bias=bias)
    with capture.batch() as batch:
        (module(data) + 1).pow(3).sum().backward()
    return batch.gradients["it"]


def check(module: nn.Module, data: Tensor, bias: bool) -> None:
    """Captured gradients are autograd's; projected ones are P_o G P_i^T; by identity, G itself."""
    layers = {"it": module}
    expected = autograd_gradients(
        module, layers, lambda x: (module(x) + 1).pow(3).sum(), data, bias
    )
    whole = expected["it"]
    tolerance = {"rtol": 1e-9, "atol": 1e-9 * (1 + float(whole.abs().max()))}
    torch.testing.assert_close(captured(module, data, bias), whole, **tolerance)
    out, inner = whole.shape[1:]
    for rank in (2, 4):
        random = random_projections(layers, rank, seed=0, bias=bias)
        projections = Projections({"it": [p.double() for p in random["it"]]})
        p_i, p_o = projections["it"]
        assert p_i.shape == (min(rank, inner), inner)
        assert p_o.shape == (min(rank, out), out)
        projected = captured(module, data, bias, projections)
        torch.testing.assert_close(projected, p_o @ whole @ p_i.T, **tolerance)
    identity = Projections({"it": (torch.eye(inner).double(), torch.eye(out).double())})
    torch.testing.assert_close(captured(module, data, bias, identity), whole, **tolerance)


@settings(max_examples=25, deadline=None)
@given(
    middle=st.lists(st.integers(1, 4), max_size=2),
    inner=st.integers(1, 5),
    out=st.integers(1, 5),
    bias=st.booleans(),
    counted=st.booleans(),
)
def test_linear(middle: list[int], inner: int, out: int, bias: bool, counted: bool) -> None:
    torch.manual_seed(0)
    module = nn.Linear(inner, out, bias=bias).double()
    check(module, torch.randn(3, *middle, inner).double(), counted)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_convolution(data: Any) -> None:
    torch.manual_seed(0)
    axes = data.draw(st.sampled_from([1, 2, 2, 3]), label="axes")
    groups = data.draw(st.integers(1, 3), label="groups")
    shape = st.tuples(*[st.integers(1, 3)] * axes)
    kernel, dilation = data.draw(shape, label="kernel"), data.draw(shape, label="dilation")
    padding: Any = data.draw(
        st.one_of(st.sampled_from(["same", "valid"]), st.tuples(*[st.integers(0, 2)] * axes)),
        label="padding",
    )
    stride = (1,) * axes if padding == "same" else data.draw(shape, label="stride")
    module = CONVOLUTIONS[axes](
        groups * data.draw(st.integers(1, 2), label="inner"),
        groups * data.draw(st.integers(1, 2), label="out"),
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=data.draw(st.booleans(), label="bias"),
        padding_mode=data.draw(
            st.sampled_from(["zeros", "reflect", "replicate", "circular"]), label="mode"
        ),
    ).double()
    # Wide enough for every kernel and for a margin that mirrors the image.
    size = (7, 8, 9)[:axes]
    check(module, torch.randn(2, module.in_channels, *size).double(), bias=True)


@pytest.mark.parametrize("padding", [None, 0, 3])
@pytest.mark.parametrize("shape", [(4,), (4, 6)])
def test_embedding(padding: int | None, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = nn.Embedding(5, 3, padding_idx=padding).double()
    check(module, torch.arange(torch.Size(shape).numel()).reshape(shape) % 5, bias=True)


def test_an_embedding_looks_up_columns_that_lie_together() -> None:
    rule, matrix = find_rule(nn.Embedding(50, 3)), torch.randn(4, 50)
    laid_out = rule.laid_out(matrix)
    assert torch.equal(laid_out, matrix)
    assert laid_out.mT.is_contiguous()
    tokens = torch.tensor([[7, 7, 2]])
    assert torch.equal(rule.projected_inputs(tokens, laid_out)[0, 0], matrix.T[[7, 7, 2]])


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_embeddings_whose_samples_depend_on_each_other_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(option))}=.*allowed: an embedding without"):
        find_rule(nn.Embedding(5, 3, **option))


def test_conv1d_of_transformers() -> None:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    check(pytorch_utils.Conv1D(5, 3).double(), torch.randn(2, 4, 3).double(), bias=True)


def test_a_layer_without_a_rule_is_refused() -> None:
    with pytest.raises(InputError, match=r"layer LayerNorm: no gradient rule; allowed: Linear, "):
        find_rule(nn.LayerNorm(3))


def test_a_linear_layer_of_one_vector_is_refused() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(InputError, match=r"shape \(2,\); allowed: \(n, ..., width\)"):
        captured(module, torch.randn(3), bias=False)


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 40),
    width=st.integers(1, 8),
    k_i=st.integers(1, 8),
    k_o=st.integers(1, 8),
)
def test_both_orders_of_the_products_agree(tokens: int, width: int, k_i: int, k_o: int) -> None:
    torch.manual_seed(0)
    inputs, e = torch.randn(2, 1, tokens, k_i).double(), torch.randn(2, tokens, width).double()
    matrix = torch.randn(k_o, width).double()
    early, late = torch.zeros(2, 2, k_o, k_i).double()
    add_projected_gradients(early, inputs, (e @ matrix.T).unsqueeze(1))
    add_projecting_late(late, inputs, e.unsqueeze(1), matrix)
    torch.testing.assert_close(early, late)


def test_long_sequences_are_projected_late() -> None:
    rule = find_rule(nn.Linear(512, 512))
    late = [is_better_late(rule, torch.empty(1, 1, t, 64), 64) for t in (1, 64, 500, 513, 2048)]
    assert late == [False, False, False, True, True]
