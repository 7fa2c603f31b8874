"""The regulariser on blocks of a network: what it reaches, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import InputError
from papers.ojr.estimators import ESTIMATORS, Estimator
from papers.ojr.isometric import MaxMin, constrain_orthogonal, delta_orthogonal_
from papers.ojr.orthogonality import BlockRegularizer, JacobianFrobenius, JacobianOrthogonality
from papers.ojr.products import exact_jacobian
from papers.ojr.spectrum import (
    largest_singular_values,
    rms_singular_values,
    singular_values,
)
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


SPECTRA: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "all": singular_values,
    "largest": lambda block, x: largest_singular_values(block, x, 2),
    "rms": rms_singular_values,
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_singular_values_of_half_precision_are_near_those_of_the_whole(
    name: str, precision: torch.dtype
) -> None:
    block, x = network()[0], inputs(3, 6).to(precision)
    found = SPECTRA[name](block.to(precision), x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, SPECTRA[name](block.float(), x.float()), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", SPECTRA)
def test_singular_values_are_refused_before_normalisation_has_run(name: str) -> None:
    norm = nn.BatchNorm1d(6)
    with pytest.raises(InputError, match="couples the examples"):
        SPECTRA[name](nn.Sequential(nn.Linear(6, 6), norm), inputs(4, 6).float() + 1)
    assert norm.running_mean is not None
    assert not norm.running_mean.any()


@pytest.mark.parametrize("estimator", ["exact", "residual"])
def test_a_block_may_have_one_number_an_example(estimator: Estimator) -> None:
    """Of a row w the penalty is (|w|² - 1)², with or without a side of its own."""
    row, x = nn.Linear(4, 1).double(), inputs(3, 4)
    flat = nn.Sequential(row, nn.Flatten(0))
    found = [
        JacobianOrthogonality(
            block, estimator=estimator, generator=torch.Generator().manual_seed(0)
        )(x)
        for block in (row, flat)
    ]
    torch.testing.assert_close(found[0], found[1])
    if estimator == "exact":
        expected = (row.weight.square().sum() - 1).square()
        torch.testing.assert_close(found[1], expected)


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


def test_a_compiled_module_within_a_block_is_differentiated_as_it_was_written() -> None:
    """Ahead-of-time autograd has no second derivative."""

    def gradient(wrap: Callable[[nn.Module], nn.Module]) -> Tensor:
        inner = network()[0]
        block = nn.Sequential(wrap(inner), nn.Linear(6, 6).double())
        with BlockRegularizer(
            block, [""], 1.0, generator=torch.Generator().manual_seed(0)
        ) as regularizer:
            block(inputs(4, 6))
            regularizer.penalty().backward()  # type: ignore[no-untyped-call]
        grad = linear(inner).weight.grad
        assert grad is not None
        return grad

    def compiled(inner: nn.Module) -> nn.Module:
        made: nn.Module = torch.compile(inner, backend="aot_eager", fullgraph=True)  # type: ignore[assignment]
        return made

    torch.testing.assert_close(gradient(compiled), gradient(lambda inner: inner))


def test_a_network_that_ran_compiled_before_is_told_to_wait() -> None:
    net, x = network(), inputs(4, 6)
    compiled: nn.Module = torch.compile(net, backend="eager", fullgraph=True)  # type: ignore[assignment]
    compiled(x)
    with BlockRegularizer(compiled, ["0"], 1.0) as regularizer:
        compiled(x)
        with pytest.raises(InputError, match="first ran compiled after the regulariser"):
            regularizer.penalty()
    torch.compiler.reset()
    with BlockRegularizer(compiled, ["0"], 1.0) as regularizer:
        compiled(x)
        assert regularizer.penalty().item() > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_runs_again_is_no_forward_pass(reentrant: bool) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = network()[0]

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = checkpoint(self.block, x, use_reentrant=reentrant)
            return found

    net = Network()
    with BlockRegularizer(net, ["block"], 1.0) as regularizer:
        loss = net(inputs(4, 6).requires_grad_()).sum()
        if not reentrant:
            assert regularizer.penalty().item() > 0
        loss.backward()  # type: ignore[no-untyped-call]
        with pytest.raises(InputError, match=r"'block' was not reached .* re-entrant"):
            regularizer.penalty()


class Calling(nn.Module):
    """A network that calls its block as a function says."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.call = network()[0], call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.block, x)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda block, x: block(input=x), "called with input; allowed"),
        (lambda block, x: block(x, x), "called with Tensor, Tensor; allowed"),
        (lambda block, x: block(block(x)), "more than once"),
    ],
    ids=["keyword", "two inputs", "twice"],
)
def test_a_block_is_reached_once_by_one_tensor(
    call: Callable[[nn.Module, Tensor], Tensor], said: str
) -> None:
    def penalty() -> None:
        net = Calling(call)
        with BlockRegularizer(net, ["block"], 1.0) as regularizer:
            net(inputs(4, 6))
            regularizer.penalty()

    with pytest.raises(InputError, match=f"block 'block' was .*{said}"):
        penalty()


def test_of_several_forward_passes_the_last_counts() -> None:
    net, x = network(), inputs(4, 6)
    with BlockRegularizer(net, ["1"], 1.0, estimator="exact") as regularizer:
        net(x + 1)
        net(x)
        with torch.no_grad():
            net(x + 2)
        found = regularizer.penalty()
    torch.testing.assert_close(found, JacobianOrthogonality(net[1], estimator="exact")(net[0](x)))


def test_frozen_batch_normalisation_is_taken_as_it_is() -> None:
    block = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).double()
    with pytest.raises(InputError, match="couples the examples"):
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


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no parameters": (lambda: JacobianOrthogonality(nn.Tanh()), "no trainable parameters"),
    "gain": (lambda: JacobianOrthogonality(network(), gain=0.0), "gain 0.0; allowed: a positive"),
    "text": (lambda: JacobianOrthogonality(network(), gain="a"), "gain 'a'; allowed: a positive"),  # type: ignore[arg-type]
    "gain of the variance": (
        lambda: JacobianOrthogonality(network(), 2.0, "variance", probes=2),
        "gain 2.0; allowed for variance, which has none: 1 or None",
    ),
    "gain of weights": (lambda: weight_penalty("so", network()[0], gain=0), "gain 0; allowed"),
    "gain of a constraint": (
        lambda: constrain_orthogonal(nn.Linear(2, 2), gain=-1),
        "gain -1; allowed",
    ),
    "gain of a start": (
        lambda: delta_orthogonal_(torch.empty(3, 2, 3, 3), gain=0.0),
        "gain 0.0; allowed",
    ),
    "complex weights": (
        lambda: weight_penalty("so", [nn.Linear(2, 2, dtype=torch.complex64)]),
        "weights of type torch.complex64",
    ),
    "probes": (lambda: JacobianOrthogonality(network(), probes=0), "probes 0; allowed"),
    "half a probe": (
        lambda: JacobianOrthogonality(network(), probes=1.5),  # type: ignore[arg-type]
        "probes 1.5; allowed: a whole number of at least 1",
    ),
    "probes of a spectrum": (
        lambda: rms_singular_values(network(), inputs(2, 6), probes=0),
        "probes 0; allowed",
    ),
    "count": (
        lambda: largest_singular_values(network(), inputs(2, 6), 3),
        "count 3; allowed: a whole number from 1 to 2, below the smaller side",
    ),
    "one probe": (
        lambda: JacobianOrthogonality(network(), estimator="variance"),
        "probes 1; allowed: a whole number of at least 2 for variance",
    ),
    "Frobenius without probes": (lambda: JacobianFrobenius(network(), 0), "probes 0; allowed"),
    "side": (lambda: JacobianOrthogonality(network(), side="left"), "side 'left'; allowed"),  # type: ignore[arg-type]
    "block": (lambda: BlockRegularizer(network(), ["9"], 1.0), "no block '9'; allowed"),
    "weight": (lambda: BlockRegularizer(network(), ["0"], -1.0), "weight -1.0; allowed"),
    "sampled": (lambda: BlockRegularizer(network(), ["0"], 1.0, sampled=2), "sampled 2; allowed"),
    "half a block": (
        lambda: BlockRegularizer(network(), ["0"], 1.0, sampled=0.5),  # type: ignore[arg-type]
        "sampled 0.5; allowed: a whole number",
    ),
    "not reached": (
        lambda: BlockRegularizer(network(), ["0"], 1.0).penalty(),
        "'0' was not reached",
    ),
    "pairs": (lambda: MaxMin()(torch.ones(2, 3)), "an even number"),
    "kernel": (lambda: delta_orthogonal_(torch.empty(2, 3, 3, 3)), "out >= in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_in_one_line(case: str) -> None:
    work, said = REFUSED[case]
    with pytest.raises(InputError, match=said) as caught:
        work()
    assert "\n" not in str(caught.value)


class Paired(nn.Linear):
    """Two outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        found = super().forward(x)
        return found, found


#: Blocks and inputs that do not go together, and what is said.
UNFIT: dict[str, tuple[nn.Module, Tensor, str]] = {
    "integers": (nn.Linear(2, 2), torch.ones(3, 2).long(), "inputs of type torch.int64"),
    "complex": (nn.Linear(2, 2), torch.ones(3, 2).cfloat(), "inputs of type torch.complex64"),
    "shape": (nn.Linear(2, 2), torch.ones(4, 3), r"block Linear fails on examples of shape \(3,\)"),
    "precision": (nn.Linear(2, 2).double(), torch.ones(3, 2), "and type torch.float32"),
    "no batch": (nn.Linear(2, 2), torch.ones(2), r"shape \(2,\); allowed: \(n, ...\)"),
    "no examples": (nn.Linear(2, 2), torch.ones(0, 2), r"shape \(0, 2\); allowed"),
    "rows": (nn.Sequential(nn.Linear(2, 2), nn.Flatten(0)), torch.ones(3, 2), "one row for each"),
    "tuple": (Paired(2, 2), torch.ones(3, 2), "outputs of type tuple"),
    "two inputs": (nn.Bilinear(2, 2, 2), torch.ones(3, 2), "missing 1 required"),
    "normalisation": (
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
        torch.ones(3, 2),
        "BatchNorm1d '1': .* couples the examples",
    ),
}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("case", UNFIT)
def test_what_a_block_cannot_take_is_refused_alike_by_every_estimator(
    case: str, estimator: Estimator
) -> None:
    block, x, said = UNFIT[case]
    with pytest.raises(InputError, match=said) as caught:
        JacobianOrthogonality(block, estimator=estimator, probes=2)(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_penalty_without_a_graph_is_refused(estimator: Estimator) -> None:
    penalty = JacobianOrthogonality(network(), estimator=estimator, probes=2)
    with torch.no_grad(), pytest.raises(InputError, match="gradients are off"):
        penalty(inputs(3, 6))


def test_a_block_without_a_derivative_is_refused() -> None:
    class Largest(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1, keepdim=True).to(x.dtype)

    with pytest.raises(InputError, match="nothing that can be differentiated"):
        JacobianOrthogonality(Largest(2, 2))(torch.ones(3, 2))
