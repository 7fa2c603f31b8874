"""The regulariser on blocks of a network: what it reaches, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from papers.ojr.isometric import MaxMin, constrain_orthogonal, delta_orthogonal_
from papers.ojr.orthogonality import BlockRegularizer, JacobianFrobenius, JacobianOrthogonality
from papers.ojr.products import exact_jacobian
from papers.ojr.spectrum import largest_singular_values, singular_values
from papers.ojr.weight_penalties import weight_penalty


def network(depth: int = 3, width: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Linear(width, 3)).double()


def linear(block: nn.Module) -> nn.Linear:
    return next(module for module in block.modules() if isinstance(module, nn.Linear))


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_it_reaches_the_named_blocks_at_their_own_inputs_and_no_other() -> None:
    net, x = network(), inputs(4, 6)
    with BlockRegularizer(net, ["1", "2"], weight=0.5, estimator="exact") as regularizer:
        net(x)
        penalty = regularizer.penalty()
    second = net[0](x)
    blocks = [(net[1], second), (net[2], net[1](second))]
    expected = sum(JacobianOrthogonality(one, estimator="exact")(at).item() for one, at in blocks)
    assert penalty.item() == pytest.approx(0.5 * expected)
    penalty.backward()  # type: ignore[no-untyped-call]
    # The first block only feeds them, the head comes after.
    assert [linear(net[place]).weight.grad is not None for place in range(3)] == [False, True, True]
    assert net[3].weight.grad is None


def test_sampled_blocks_have_the_sum_of_all_as_their_mean() -> None:
    net, x = network(depth=4), inputs(4, 6)
    every = BlockRegularizer(net, ["0", "1", "2", "3"], weight=1.0, estimator="exact")
    net(x)
    whole = every.penalty().item()
    every.close()
    generator = torch.Generator().manual_seed(0)
    some = BlockRegularizer(
        net, ["0", "1", "2", "3"], 1.0, sampled=1, generator=generator, estimator="exact"
    )
    seen = set()
    for _ in range(60):
        net(x)
        seen.add(round(some.penalty().item(), 12))
    assert len(seen) == 4
    assert sum(seen) / 4 == pytest.approx(whole)


def test_a_block_has_its_own_gain() -> None:
    net, x = network(), inputs(2, 6)
    with BlockRegularizer(net, {"0": 2.0, "1": None}, weight=1.0, estimator="exact") as regularizer:
        net(x)
        found = regularizer.penalty().item()
    first = JacobianOrthogonality(net[0], gain=2.0, estimator="exact")(x)
    second = JacobianOrthogonality(net[1], gain=None, estimator="exact")(net[0](x))
    assert found == pytest.approx((first + second).item())


def test_it_learns_an_isometry() -> None:
    """Gradient descent on the residual alone brings all singular values to the root of the gain."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(6, 6), MaxMin()).double()
    penalty = JacobianOrthogonality(block, gain=2.0, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(block.parameters(), lr=0.05)
    x = inputs(16, 6)
    for _ in range(400):
        optimizer.zero_grad()
        penalty(x).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(
        singular_values(block, x), torch.full((16, 6), 2.0**0.5).double(), rtol=1e-3, atol=0
    )


def test_the_largest_singular_values_are_those_of_the_whole_svd() -> None:
    net, x = network(), inputs(3, 6)
    torch.testing.assert_close(
        largest_singular_values(net, x, 2), singular_values(net, x)[:, :2], rtol=1e-8, atol=0
    )


def test_under_autocast_and_checkpointing_gradients_are_those_without() -> None:
    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = checkpoint(self.inner, x, use_reentrant=False)
            return found

    def gradient(wrap: Callable[[nn.Module], nn.Module], precision: torch.dtype) -> Tensor:
        block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        block.load_state_dict(network()[0].float().state_dict())
        generator = torch.Generator().manual_seed(0)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            JacobianOrthogonality(wrap(block), generator=generator, probes=4)(
                inputs(8, 6).float()
            ).backward()  # type: ignore[no-untyped-call]
        weight: nn.Linear = block[0]  # type: ignore[assignment]
        assert weight.weight.grad is not None
        return weight.weight.grad

    plain = gradient(lambda block: block, torch.float32)
    torch.testing.assert_close(gradient(Checkpointed, torch.float32), plain)
    half = gradient(lambda block: block, torch.bfloat16)
    assert (half - plain).norm() < 0.05 * plain.norm()


def test_a_compiled_network_is_regularised_by_the_module_inside() -> None:
    net, x = network(), inputs(4, 6)
    compiled: nn.Module = torch.compile(net, backend="eager")  # type: ignore[assignment]
    found = []
    for one in (net, compiled):
        generator = torch.Generator().manual_seed(0)
        with BlockRegularizer(
            one, ["0", ""], weight=1.0, estimator="exact", generator=generator
        ) as r:
            one(x)
            found.append(r.penalty().item())
    assert found[0] == pytest.approx(found[1])


def test_frozen_batch_normalisation_is_taken_as_it_is() -> None:
    block = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).double()
    with pytest.raises(ValueError, match="couples the examples"):
        JacobianOrthogonality(block)(inputs(4, 6))
    assert JacobianOrthogonality(block.eval(), estimator="exact")(inputs(4, 6)).item() > 0


def test_maxmin_permutes() -> None:
    block, x = MaxMin(), inputs(3, 6)
    torch.testing.assert_close(block(x).sort(1).values, x.sort(1).values)
    jacobian = exact_jacobian(block, x)
    torch.testing.assert_close(jacobian @ jacobian.mT, torch.eye(6).double().expand(3, 6, 6))


def test_delta_orthogonal_convolutions_are_isometric_from_the_start() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
    delta_orthogonal_(layer.weight, gain=1.5)
    values = singular_values(layer, inputs(2, 3, 4, 4))
    torch.testing.assert_close(values, torch.full_like(values, 1.5))


def test_a_constrained_layer_stays_on_its_gain() -> None:
    layer = nn.Linear(6, 4).double()
    constrain_orthogonal(layer, gain=2.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        layer(inputs(8, 6)).square().mean().backward()
        optimizer.step()
    weight = layer.weight.detach()
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(4).double())


@pytest.mark.parametrize("name", ["so", "dso", "mc", "srip"])
def test_weight_penalties_vanish_at_their_gain_alone(name: str) -> None:
    layer = nn.Linear(4, 4).double()
    nn.init.orthogonal_(layer.weight, gain=2**0.5)
    assert weight_penalty(name, [layer], gain=2.0).item() < 1e-12  # type: ignore[arg-type]
    assert weight_penalty(name, [layer], gain=1.0).item() > 0.9  # type: ignore[arg-type]


def test_srip_is_at_most_the_largest_eigenvalue_and_near_it() -> None:
    layer = linear(network()[0])
    weight = layer.weight.detach()
    largest = torch.linalg.eigvalsh(weight @ weight.T - torch.eye(6)).abs().max().item()
    found = [weight_penalty("srip", [layer]).item() for _ in range(20)]
    assert max(found) <= largest * (1 + 1e-9)
    assert max(found) > 0.8 * largest


def flattening() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Flatten(0))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no parameters": (lambda: JacobianOrthogonality(nn.Tanh()), "no trainable parameters"),
    "gain": (lambda: JacobianOrthogonality(network(), gain=0.0), "gain 0.0; allowed: a positive"),
    "probes": (lambda: JacobianOrthogonality(network(), probes=0), "probes 0; allowed"),
    "one probe": (
        lambda: JacobianOrthogonality(network(), estimator="variance"),
        "probes 1; allowed for variance: at least 2",
    ),
    "Frobenius without probes": (lambda: JacobianFrobenius(network(), 0), "probes 0; allowed"),
    "side": (lambda: JacobianOrthogonality(network(), side="left"), "side 'left'; allowed"),  # type: ignore[arg-type]
    "block": (lambda: BlockRegularizer(network(), ["9"], 1.0), "no block '9'; allowed"),
    "weight": (lambda: BlockRegularizer(network(), ["0"], -1.0), "weight -1.0; allowed"),
    "sampled": (lambda: BlockRegularizer(network(), ["0"], 1.0, sampled=2), "sampled 2; allowed"),
    "not reached": (
        lambda: BlockRegularizer(network(), ["0"], 1.0).penalty(),
        "'0' was not reached",
    ),
    "integers": (
        lambda: JacobianOrthogonality(nn.Linear(2, 2))(torch.ones(3, 2, dtype=torch.int64)),
        "inputs of type torch.int64",
    ),
    "complex": (
        lambda: JacobianOrthogonality(nn.Linear(2, 2))(torch.ones(3, 2, dtype=torch.complex64)),
        "inputs of type torch.complex64",
    ),
    "rows": (
        lambda: JacobianOrthogonality(nn.Sequential(nn.Linear(2, 2), nn.Flatten(0)))(
            torch.ones(3, 2)
        ),
        "one row for each",
    ),
    "pairs": (lambda: MaxMin()(torch.ones(2, 3)), "an even number"),
    "kernel": (lambda: delta_orthogonal_(torch.empty(2, 3, 3, 3)), "out >= in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(case: str) -> None:
    work, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as caught:
        work()
    assert "\n" not in str(caught.value)


def test_a_block_without_a_derivative_is_refused() -> None:
    class Largest(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1, keepdim=True).to(x.dtype)

    with pytest.raises(ValueError, match="nothing that can be differentiated"):
        JacobianOrthogonality(Largest(2, 2))(torch.ones(3, 2))
