"""Convolutional and residual networks: their Jacobians, starts, constraints and normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from common.errors import InputError
from papers.ojr import isometric
from papers.ojr.isometric import constrain_orthogonal
from papers.ojr.methods.measures import Spectrum
from papers.ojr.methods.regularisation import Regularisation, prepare
from papers.ojr.orthogonality import BlockRegularizer, JacobianFrobenius, JacobianOrthogonality
from papers.ojr.products import exact_jacobian
from papers.ojr.spectrum import rms_singular_values, singular_values
from papers.ojr.tasks.networks import (
    BlockNetwork,
    Convolutional,
    NetworkSettings,
    Perceptron,
    Residual,
    WideResidual,
    build_network,
)
from papers.ojr.tasks.residual import BasicBlock


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def convolutional(depth: int = 2, channels: int = 4) -> BlockNetwork:
    torch.manual_seed(0)
    settings = Convolutional(
        kind="convolutional", activation="tanh", depth=depth, channels=channels, patch=2, pool=2
    )
    return build_network(settings, (1, 8, 8), 3).double()


def residual(batch_norm: bool) -> BlockNetwork:
    torch.manual_seed(0)
    settings = Residual(kind="residual", blocks=1, channels=2, batch_norm=batch_norm)
    return build_network(settings, (3, 8, 8), 3).double()


def parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_a_residual_block_without_a_branch_has_the_shortcut_as_its_jacobian() -> None:
    """At positive inputs: the identity; where sides are halved, rows of it and of zeros."""
    x = inputs(1, 2, 4, 4).abs() + 0.1
    for after, stride in ((2, 1), (4, 2)):
        block = BasicBlock(2, after, batch_norm=False, stride=stride).double()
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)  # type: ignore[arg-type]
        found = exact_jacobian(block, x)[0]
        kept = found[found.any(1)]
        torch.testing.assert_close(kept @ kept.T, torch.eye(32 // stride**2, dtype=torch.float64))
        assert set(found.unique().tolist()) == {0.0, 1.0}


def test_the_jacobian_of_a_residual_block_is_the_identity_and_that_of_its_branch() -> None:
    torch.manual_seed(0)
    block = BasicBlock(2, 2, batch_norm=False, stride=1).double()
    x = inputs(1, 2, 4, 4)
    branch = nn.Sequential(block.conv1, nn.ReLU(), block.conv2)
    on = (block(x) > 0).double().flatten()
    expected = on[:, None] * (torch.eye(32, dtype=torch.float64) + exact_jacobian(branch, x)[0])
    torch.testing.assert_close(exact_jacobian(block, x)[0], expected)


@pytest.mark.parametrize("channels", [2, 8])
def test_whole_jacobians_are_right_by_rows_and_by_columns(channels: int) -> None:
    block, x = (
        nn.Sequential(nn.Conv2d(4, channels, 3, padding=1), nn.Tanh()).double(),
        inputs(1, 4, 3, 3),
    )
    expected = jacobian(block, x).reshape(channels * 9, 36)
    torch.testing.assert_close(exact_jacobian(block, x)[0], expected)


def test_networks_have_the_published_numbers_of_parameters() -> None:
    """36.5 million of WRN-28-10, 1.7 million of ResNet-110."""
    wide = build_network(WideResidual(kind="wide_residual"), (3, 32, 32), 10)
    deep = build_network(Residual(kind="residual", blocks=18), (3, 32, 32), 10)
    assert parameters(wide) == 36_479_194
    assert round(parameters(deep) / 1e6, 1) == 1.7
    convolutions = [m for m in deep.layers.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 110  # with the head


def test_a_penalty_of_each_block_reaches_every_convolution_of_a_residual_network() -> None:
    network = residual(batch_norm=False)
    with BlockRegularizer(network, network.blocks, weight=1.0) as regularizer:
        network(inputs(2, 3, 8, 8))
        regularizer.penalty().backward()  # type: ignore[no-untyped-call]
    assert all(bool(layer.weight.grad.any()) for layer in network.weighted)  # type: ignore[union-attr]
    assert all(weight.grad is None for weight in network.head.parameters())


def test_jacobians_in_evaluation_mode_leave_a_network_in_training_as_it_was() -> None:
    network, x = residual(batch_norm=True).train(), inputs(3, 3, 8, 8)
    with pytest.raises(ValueError, match="couples the examples"):
        JacobianOrthogonality(network)(x)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for penalty, again in (
        (JacobianOrthogonality(network, estimator="exact", evaluate=True), JacobianOrthogonality),
        (JacobianFrobenius(network, evaluate=True, generator=torch.manual_seed(0)), None),
    ):
        found = penalty(x)
        assert all(module.training for module in network.modules())
        if again is not None:
            network.eval()
            torch.testing.assert_close(found, again(network, estimator="exact")(x))
            network.train()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_start_of_a_convolutional_network_is_isometric_layer_by_layer() -> None:
    network, x = convolutional(), inputs(1, 1, 8, 8)
    settings = Regularisation(method="none", start="orthogonal", gain=2.0)
    assert prepare(network, settings, 0.0, torch.Generator()) is None
    for layer in network.weighted:
        values = singular_values(layer, inputs(1, layer.in_channels, 4, 4))  # type: ignore[arg-type]
        torch.testing.assert_close(values, torch.full_like(values, 2**0.5))
    assert Spectrum(network, x).numbers["largest_singular_value"] < 2


def test_more_sampled_blocks_than_there_are_are_refused() -> None:
    settings = Regularisation(method="ojr_layers", sampled=99)
    network = convolutional()
    with pytest.raises(
        InputError, match=r"regularisation\.sampled 99; allowed: a whole number from 1 to \d+, the"
    ):
        prepare(network, settings, 1.0, torch.Generator())


@pytest.mark.parametrize("method", ["ojr_layers", "ojr_whole", "frobenius"])
def test_normalisation_that_couples_examples_is_refused_by_the_method_s_name(method: str) -> None:
    network, x = residual(batch_norm=True), inputs(3, 3, 8, 8)
    settings = Regularisation(method=method)  # type: ignore[arg-type]
    penalty = prepare(network, settings, 1.0, torch.Generator())
    assert penalty is not None
    network(x)
    with pytest.raises(InputError, match=rf"regularisation\.method {method}: .*couples the"):
        penalty(x)


def test_an_orthogonal_convolution_stays_on_its_gain() -> None:
    pytest.importorskip("orthogonium")
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular")
    constrain_orthogonal(layer, gain=2.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    x = inputs(2, 4, 5, 5).float()
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    values = singular_values(layer, x[:1])
    torch.testing.assert_close(values, torch.full_like(values, 2**0.5), rtol=1e-3, atol=0)


def test_orthogonal_convolutions_without_their_package_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isometric, "find_spec", lambda name: None)
    settings = Regularisation(method="orthogonal_weights")
    with pytest.raises(InputError, match=r"orthogonal_weights: .* package orthogonium") as caught:
        prepare(convolutional(), settings, 0.0, torch.Generator())
    assert "\n" not in str(caught.value)


def test_what_cannot_be_orthogonal_is_refused() -> None:
    with pytest.raises(ValueError, match="stride 1"):
        constrain_orthogonal(nn.Conv2d(2, 4, 3, stride=2))
    settings = Regularisation(method="none", start="orthogonal")
    with pytest.raises(InputError, match=r"start orthogonal: .*out >= in"):
        prepare(convolutional(channels=2), settings, 0.0, torch.Generator())
    wrong = Convolutional(kind="convolutional", activation="tanh", depth=1, patch=3)
    with pytest.raises(InputError, match=r"network\.patch 3, network\.pool 1: allowed"):
        build_network(wrong, (1, 8, 8), 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Perceptron(kind="perceptron", activation="maxmin", depth=1, width=7), "width 7"),
        (
            Convolutional(kind="convolutional", activation="maxmin", depth=1, channels=3),
            "channels 3",
        ),
        (WideResidual(kind="wide_residual", depth=11), "depth 11"),
    ],
    ids=["width", "channels", "depth"],
)
def test_networks_that_cannot_be_built_are_refused_by_their_setting(
    settings: NetworkSettings, said: str
) -> None:
    with pytest.raises(InputError, match=rf"network\.{said}; allowed"):
        build_network(settings, (1, 8, 8), 3)


@pytest.mark.parametrize("channels", [2, 8])
def test_the_mean_square_of_singular_values_is_estimated_on_either_side(channels: int) -> None:
    torch.manual_seed(0)
    block, x = nn.Conv2d(4, channels, 3, padding=1).double(), inputs(2, 4, 5, 5)
    expected = singular_values(block, x).square().mean(1).sqrt()
    found = rms_singular_values(block, x, probes=400)
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)


def test_of_a_large_map_scale_and_largest_value_are_taken() -> None:
    torch.manual_seed(0)
    settings = Convolutional(kind="convolutional", activation="tanh", depth=1, channels=4)
    network, x = build_network(settings, (3, 16, 16), 3), inputs(1, 3, 16, 16).float()
    found = Spectrum(network, x)
    assert found.values is None
    exact = singular_values(network.layers, x)[0]
    numbers = found.numbers
    assert numbers["largest_singular_value"] == pytest.approx(exact[0].item(), rel=1e-3)
    rms = exact.square().mean().sqrt().item()
    assert numbers["rms_singular_value"] == pytest.approx(rms, rel=0.1)
