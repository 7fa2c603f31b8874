"""Gradients that come to a parameter on another path than its layer's are not lost in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from papers.logra import LogIX
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.parameter_paths import SecondPathError, TiedWeightError
from papers.logra.gradients.watching import watched
from papers.logra.scoring.influence import flatten_log
from tests.papers.logra.one_at_a_time import autograd_gradients
from tests.papers.logra.test_capture import mlp, state_of


def data(n: int = 4) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(3)).double()


def refused(model: nn.Module, loss: Callable[[Tensor], Tensor], match: str, **options: Any) -> None:
    """Such a loss is refused, and the model is as it was."""
    before = state_of(model)
    with (
        pytest.raises(SecondPathError, match=match),
        Capture(model, watched(model), **options).batch(),
    ):
        loss(data()).backward()
    assert state_of(model) == before


def test_a_gradient_penalty_is_refused() -> None:
    """Gradients of the inner pass were counted as the loss's."""
    model = mlp()

    def loss(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        value = model(x).pow(2).sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return value + slope.square().sum()

    refused(model, loss, r"layer 4: a gradient that the loss is made of \(create_graph=True")


def test_a_penalty_on_gradients_that_backward_left_is_refused() -> None:
    model = mlp()

    def loss(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        model(x).pow(2).sum().backward(create_graph=True)
        assert x.grad is not None
        return x.grad.square().sum()

    refused(model, loss, r"create_graph=True")


@pytest.mark.filterwarnings("ignore:Using backward")
def test_a_backward_pass_that_makes_a_graph_is_one_all_the_same() -> None:
    model = mlp()
    with Capture(model, watched(model)).batch() as plain:
        model(data()).pow(3).sum().backward()
    with Capture(model, watched(model)).batch() as graph:
        model(data()).pow(3).sum().backward(create_graph=True)
    assert torch.equal(plain.matrix, graph.matrix)


def perturbed(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The loss at inputs that are moved along its own gradient."""

    def loss(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).pow(3).sum(), x)
        return model((x + 0.1 * slope.sign()).detach()).pow(3).sum()

    return loss


def test_a_gradient_of_inputs_on_the_way_is_not_one_of_the_loss() -> None:
    """It was counted twice: autograd.grad adds to no parameter."""
    model = mlp()
    layers, loss = watched(model), perturbed(model)
    expected = autograd_gradients(model, layers, loss, data(), bias=True)
    statistics = Statistics({"backward": ["covariance"], "grad": ["covariance"]})
    with Capture(model, layers, bias=True, statistics=statistics).batch() as batch:
        loss(data()).backward()
    for name, found in batch.gradients.items():
        torch.testing.assert_close(found, expected[name])
    assert set(statistics.counts("backward").values()) == {4.0}


def test_neither_is_it_in_logged_activations(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), mlp()
    run.watch(model)
    run.setup({"backward": ["log"], "forward": [], "grad": ["log"]})
    with run(data_id=range(4)):
        perturbed(model)(data()).backward()
    _, log = run.get_log()
    assert isinstance(log, dict)
    expected = autograd_gradients(model, {"4": model[4]}, perturbed(model), data(), bias=True)
    # The bias's gradient is the output's.
    torch.testing.assert_close(log["4"]["backward"], expected["4"][..., -1])
    assert flatten_log(run.get_log(), run.layout).isfinite().all()


def test_a_weight_that_a_function_is_given_too_is_refused() -> None:
    model = mlp()

    def loss(x: Tensor) -> Tensor:
        return functional.linear(model[:4](x), model[4].weight * 2).sum() + model(x).sum()

    refused(model, loss, "layer 4: its weight reaches the loss on a second path, not through")


def test_a_penalty_on_weights_is_refused_as_it_is_of_no_sample() -> None:
    model = mlp()
    refused(
        model,
        lambda x: model(x).sum() + model[2].weight.square().sum(),
        "layer 2: its weight reaches the loss on a second path",
    )
    refused(
        model,
        lambda x: model(x).sum() + model[2].bias.square().sum(),
        "layer 2: its bias reaches",
        bias=True,
    )


def test_a_bias_that_does_not_count_may_be_used_elsewhere() -> None:
    model = mlp()
    with Capture(model, watched(model)).batch() as batch:
        (model(data()).sum() + model[2].bias.square().sum()).backward()
    assert batch.matrix.any()


class Scaled(nn.Module):
    """A module of no known kind, with a parameter of its own."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.matrix = weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


def test_a_tie_to_a_module_without_a_rule_is_refused_by_its_name() -> None:
    model = mlp()
    model.append(nn.Sequential(Scaled(model[4].weight), nn.Tanh()))
    with (
        pytest.raises(TiedWeightError, match=r"its weight, a parameter of 4 and 5\.0 too, reaches"),
        Capture(model, watched(model)).batch(),
    ):
        model(data()).sum().backward()


class Standardised(nn.Linear):
    """Its weight is normalised on the way."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return functional.linear(input, weight, self.bias)


class Counting(nn.Linear):
    """As linear as its parent."""

    def forward(self, input: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(input)


def test_a_subclass_that_does_something_else_is_refused() -> None:
    for kind, match in ((Counting, None), (Standardised, "layer 2: Standardised gives something")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), kind(4, 3)).double()
        if match is not None:
            refused(model, lambda x, model=model: model(x).sum(), match)  # type: ignore[misc]
            continue
        layers = watched(model)
        expected = autograd_gradients(model, layers, lambda x, m=model: m(x).pow(3).sum(), data())
        with Capture(model, layers).batch() as batch:
            model(data()).pow(3).sum().backward()
        for name, found in batch.gradients.items():
            torch.testing.assert_close(found, expected[name])
