"""A batch leaves the gradients of its samples and nothing else."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.projections import Projections, random_projections
from papers.logra.gradients.watching import watched
from tests.papers.logra.one_at_a_time import autograd_gradients


def mlp() -> nn.Sequential:
    """Three layers, activations in place."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()


class Tied(nn.Module):
    """One layer used twice, and one called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(input=torch.sin(self.shared(torch.tanh(self.shared(x)))))


class TiedConvolutions(nn.Module):
    """A grouped convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Conv1d(4, 4, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(torch.tanh(self.shared(x)))


class Convolutional(nn.Module):
    """Images through grouped and strided convolutions, batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding="same"),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, stride=2, groups=2, padding_mode="circular", padding=1),
            nn.Dropout(0.5),
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def cubes(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A loss that is a sum over samples."""
    return lambda x: model(x).pow(3).sum()


def double_projections(layers: dict[str, nn.Module], rank: int, bias: bool = True) -> Projections:
    random = random_projections(layers, rank, seed=1, bias=bias)
    return Projections({name: (p.inner.double(), p.out.double()) for name, p in random.items()})


def state_of(model: nn.Module) -> dict[str, object]:
    """All that a capture could have changed, comparable by ==."""
    return {
        "values": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "trained": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "training": [module.training for module in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "keys": [sorted(vars(module)) for module in model.modules()],
    }


MODELS = [
    (mlp(), (4, 5)),
    (mlp(), (4, 6, 5)),
    (Tied().double(), (4, 4)),
    (Tied().double(), (3, 2, 4)),
    # So long that the sum over tokens comes before the projection.
    (Tied().double(), (3, 12, 4)),
    (TiedConvolutions().double(), (3, 4, 2)),
    (TiedConvolutions().double(), (3, 4, 20)),
    (Convolutional().double().eval(), (3, 2, 6, 6)),
]


@pytest.mark.parametrize(("model", "shape"), MODELS)
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_autograd(
    model: nn.Module, shape: tuple[int, ...], bias: bool
) -> None:
    data, layers = torch.randn(shape).double(), watched(model)
    expected = autograd_gradients(model, layers, cubes(model), data, bias)
    before, outputs = state_of(model), model(data)
    capture = Capture(model, layers, bias=bias)
    with capture.batch() as batch:
        seen = model(data)
        seen.pow(3).sum().backward()
    assert torch.equal(seen, outputs)
    assert state_of(model) == before
    assert list(batch.gradients) == list(layers)
    for name, found in batch.gradients.items():
        torch.testing.assert_close(found, expected[name])
    projections = double_projections(layers, 3, bias)
    with Capture(model, layers, projections, bias=bias).batch() as batch:
        cubes(model)(data).backward()
    for name, (p_i, p_o) in projections.items():
        torch.testing.assert_close(batch.gradients[name], p_o @ expected[name] @ p_i.T)
    assert state_of(model) == before


def test_layout_is_that_of_the_gradients() -> None:
    model = mlp()
    layers = watched(model)
    for projections in (None, random_projections(layers, 3, seed=0, bias=True)):
        capture = Capture(model, layers, projections, bias=True)
        with capture.batch() as batch:
            model(torch.randn(2, 5).double()).sum().backward()
        assert torch.equal(capture.layout.flatten(batch.gradients), batch.matrix)


def test_an_exception_leaves_the_model_as_it_was() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    model[2].register_forward_hook(lambda *_: None)
    before = state_of(model)
    capture = Capture(model, watched(model))
    with pytest.raises(RuntimeError, match="scalar"), capture.batch():
        model(torch.randn(2, 5).double()).backward()
    assert state_of(model) == before


def test_gradients_of_parameters_are_not_computed_and_old_ones_stay() -> None:
    model = mlp()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    with Capture(model, watched(model)).batch():
        model(torch.randn(2, 5).double()).sum().backward()
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[2].weight.grad is None


def test_nothing_is_watched_after_the_block() -> None:
    model, data = mlp(), torch.randn(2, 5).double()
    statistics = Statistics({"forward": ["covariance"], "grad": ["covariance"]})
    capture = Capture(model, watched(model), statistics=statistics)
    with capture.batch() as batch:
        model(data).sum().backward()
    held = {name: found.clone() for name, found in batch.gradients.items()}
    model(data).sum().backward()
    assert statistics.counts("forward") == {"0": 2, "2": 2, "4": 2}
    for name, found in batch.gradients.items():
        assert torch.equal(found, held[name])


def test_gradients_own_their_memory() -> None:
    model, data = mlp(), torch.randn(2, 5).double()
    capture = Capture(model, watched(model))
    with capture.batch() as first:
        model(data).sum().backward()
    held = {name: found.clone() for name, found in first.gradients.items()}
    with capture.batch():
        model(-data).sum().backward()
    for name, found in first.gradients.items():
        assert torch.equal(found, held[name])


def test_several_backward_passes_add_up() -> None:
    model, data = mlp(), torch.randn(2, 5).double()
    capture = Capture(model, watched(model))
    with capture.batch() as one:
        model(data).pow(3).sum().backward()
    with capture.batch() as two:
        out = model(data)
        out.pow(3).sum().backward(retain_graph=True)
        out.pow(3).sum().backward()
    for name, found in one.gradients.items():
        torch.testing.assert_close(two.gradients[name], 2 * found)


def test_a_layer_that_the_loss_does_not_see_has_no_gradient() -> None:
    model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    with Capture(model, watched(model)).batch() as batch:
        data = torch.randn(4, 3)
        model[1](data)
        model[0](data).sum().backward()
    assert torch.equal(batch.gradients["1"], torch.zeros(4, 2, 3))
    assert batch.gradients["0"].abs().sum() > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_names_layer_and_sample(value: float) -> None:
    model, data = mlp(), torch.randn(4, 5).double()
    weights = torch.ones(4, 3).double()
    weights[2, 1] = value
    with (
        pytest.raises(
            InputError, match=r"layer 0: gradient of sample 2 is (nan|inf|-inf); allowed"
        ),
        Capture(model, watched(model)).batch(),
    ):
        (model(data) * weights).sum().backward()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_gradients_come_in_the_type_asked_for(kind: torch.dtype) -> None:
    model, data = mlp().float(), torch.randn(2, 5)
    with Capture(model, watched(model)).batch() as plain:
        model(data).sum().backward()
    with Capture(model, watched(model), dtype=kind).batch() as cast:
        model(data).sum().backward()
    for name, found in cast.gradients.items():
        assert plain.gradients[name].dtype == torch.float32
        assert torch.equal(found, plain.gradients[name].to(kind))


def test_models_of_half_precision_give_single_precision() -> None:
    model, data = mlp().bfloat16(), torch.randn(4, 5).bfloat16()
    layers = watched(model)
    exact = copy.deepcopy(model).double()
    expected = autograd_gradients(exact, watched(exact), cubes(exact), data.double(), bias=True)
    projections = random_projections(layers, 3, seed=0, bias=True)
    with Capture(model, layers, projections, bias=True).batch() as batch:
        model(data).pow(3).sum().backward()
    for name, found in batch.gradients.items():
        p_i, p_o = (p.double() for p in projections[name])
        assert found.dtype == torch.float32
        close = p_o @ expected[name] @ p_i.T
        assert (found - close).norm() < 0.03 * close.norm()


def test_a_loss_scale_is_divided_out_of_gradients_and_statistics() -> None:
    model, data = mlp(), torch.randn(4, 5).double()
    found = []
    for scale in (1.0, 1024.0, 1 / 4):
        statistics = Statistics({"backward": ["covariance"], "grad": ["covariance"]})
        with Capture(model, watched(model), statistics=statistics).batch(loss_scale=scale) as batch:
            (model(data).pow(3).sum() * scale).backward()
        found.append(
            (batch.gradients, statistics.covariance("backward"), statistics.covariance("grad"))
        )
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            for name in one:
                torch.testing.assert_close(other[name], one[name])


@pytest.mark.parametrize("projected", [False, True])
def test_projected_rows_are_kept_instead_of_activations(projected: bool) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    layers = watched(model)
    projections = random_projections(layers, 2, seed=0) if projected else None
    memory = np.ones((8, 64), dtype=np.float32)
    alive = weakref.ref(memory)
    with Capture(model, layers, projections).batch():
        data = torch.from_numpy(memory)
        loss = model(data).sum()
        del data, memory
        gc.collect()
        assert (alive() is None) == projected
        loss.backward()


def test_an_input_changed_in_place_is_refused_where_it_is_needed_whole() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x += self.inside(x)
            return x

    model = Residual()
    data = torch.randn(2, 3)
    with (
        pytest.raises(InputError, match="layer inside: its input was changed in place"),
        Capture(model, watched(model)).batch(),
    ):
        model(data.clone()).sum().backward()
    projections = Projections({"inside": (torch.eye(3), torch.eye(3))})
    with Capture(model, watched(model), projections).batch() as batch:
        model(data.clone()).sum().backward()
    torch.testing.assert_close(batch.gradients["inside"], data.unsqueeze(1).expand(2, 3, 3))


def test_activations_changed_in_place_after_a_layer_of_sequences() -> None:
    # The output of a linear map of sequences is a view, whose hooks torch drops in such a change.
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    data = torch.randn(2, 5, 3).double()
    expected = autograd_gradients(model, watched(model), cubes(model), data)
    with Capture(model, watched(model)).batch() as batch:
        cubes(model)(data).backward()
    for name, found in batch.gradients.items():
        torch.testing.assert_close(found, expected[name])


def test_other_hooks_may_replace_a_layer_s_output() -> None:
    model = mlp()
    model[2].register_forward_hook(lambda module, args, output: output * 3)
    data = torch.randn(3, 5).double()
    expected = autograd_gradients(model, watched(model), cubes(model), data)
    with Capture(model, watched(model)).batch() as batch:
        cubes(model)(data).backward()
    for name, found in batch.gradients.items():
        torch.testing.assert_close(found, expected[name])


def test_inputs_of_the_model_may_require_gradients() -> None:
    model, data = mlp(), torch.randn(3, 5).double().requires_grad_()
    with Capture(model, watched(model)).batch():
        cubes(model)(data).backward()
    found = data.grad.clone()
    data.grad = None
    cubes(model)(data).backward()
    torch.testing.assert_close(found, data.grad)


def test_transformer_encoders_do_not_take_their_fast_path() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double().eval()
    data, layers = torch.randn(3, 4, 8).double(), watched(model)
    assert [name for name in layers if "self_attn" not in name] == ["linear1", "linear2"]
    expected = autograd_gradients(model, layers, cubes(model), data, bias=True)
    with Capture(model, layers, bias=True).batch() as batch:
        cubes(model)(data).backward()
    for name, found in batch.gradients.items():
        torch.testing.assert_close(found, expected[name])


class TestRefuses:
    def test_gradients_before_the_end_of_the_block(self) -> None:
        model = mlp()
        with Capture(model, watched(model)).batch() as batch:
            model(torch.randn(2, 5).double()).sum().backward()
            with pytest.raises(InputError, match="allowed: after the with block"):
                _ = batch.gradients

    def test_a_layer_that_does_not_run(self) -> None:
        model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
        with (
            pytest.raises(InputError, match="layer 1 did not run"),
            Capture(model, watched(model)).batch(),
        ):
            model[0](torch.randn(4, 3)).sum().backward()

    def test_a_layer_that_runs_without_gradients(self) -> None:
        model = mlp()
        with (
            pytest.raises(InputError, match="layer 0 ran without gradients"),
            Capture(model, watched(model)).batch(),
        ):
            model[1:](torch.no_grad()(model[0])(torch.randn(4, 5).double())).sum().backward()

    def test_a_batch_without_backward(self) -> None:
        model = mlp()
        with (
            pytest.raises(InputError, match=r"no gradient arrived.*loss.backward"),
            Capture(model, watched(model)).batch(),
        ):
            model(torch.randn(4, 5).double())

    def test_layers_that_do_not_have_the_samples_first(self) -> None:
        model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(2, 2)])
        with (
            pytest.raises(InputError, match=r"layer 1 saw 20 samples where 0 saw 4; allowed"),
            Capture(model, watched(model)).batch(),
        ):
            model[1](model[0](torch.randn(4, 5, 3)).flatten(0, 1)).sum().backward()

    def test_batch_norm_in_training(self) -> None:
        model = Convolutional()
        with (
            pytest.raises(InputError, match=r"batch norm features.1 is in training mode.*eval"),
            Capture(model, watched(model)).batch(),
        ):
            pass
        assert state_of(model) == state_of(Convolutional())

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({}, "layer 0 has no projection"),
            (
                {"0": (torch.eye(4), torch.eye(7))},
                r"shapes \(4, 4\) and \(7, 7\); allowed: \(k, 5\)",
            ),
        ],
    )
    def test_projections_of_another_model(
        self, wrong: dict[str, tuple[Tensor, Tensor]], message: str
    ) -> None:
        model = mlp()
        with pytest.raises(InputError, match=message):
            Capture(model, watched(model), Projections(wrong))


def test_gradients_of_a_language_model_count_every_token() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(11, 4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 11)
    ).double()
    tokens = torch.randint(11, (3, 6))

    def loss(tokens: Tensor) -> Tensor:
        logits = model(tokens[:, :-1])
        return functional.cross_entropy(
            logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
        )

    layers = watched(model, type_filter=[nn.Embedding, nn.Linear])
    expected = autograd_gradients(model, layers, loss, tokens, bias=True)
    with Capture(model, layers, bias=True).batch() as batch:
        loss(tokens).backward()
    for name, found in batch.gradients.items():
        torch.testing.assert_close(found, expected[name])


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("make", [mlp, Tied, TiedConvolutions])
def test_eigenvalues_are_the_same_of_rows_that_are_rotated_and_of_rotated_gradients(
    make: Callable[[], nn.Module], projected: bool
) -> None:
    model = make().double()
    size = {mlp: (9, 5), Tied: (9, 4), TiedConvolutions: (9, 4, 6)}[make]
    inputs, layers = torch.randn(size, dtype=torch.float64), watched(model)
    projections = random_projections(layers, 2, seed=0) if projected else None

    def gather(statistics: Statistics, **how: bool) -> None:
        capture = Capture(model, layers, projections, statistics=statistics, **how)
        with capture.batch():
            model(inputs).square().sum().backward()

    statistics = Statistics({"forward": ["covariance"], "backward": ["covariance"]})
    gather(statistics, gradients=False)
    found = []
    for rotated in (False, True):
        one = copy.deepcopy(statistics)
        one.collect({"grad": ["corrected_eigval"]})
        gather(one, rotated=rotated)
        found.append(one.corrected_eigenvalues())
    for name in layers:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_other_moments_of_rotated_gradients_are_refused() -> None:
    model = mlp()
    statistics = Statistics({"forward": ["covariance"], "backward": ["covariance"]})
    with Capture(model, watched(model), statistics=statistics, gradients=False).batch():
        model(torch.randn(4, 5, dtype=torch.float64)).sum().backward()
    statistics.collect({"grad": ["corrected_eigval", "mean"]})
    capture = Capture(model, watched(model), statistics=statistics, rotated=True)
    with (
        pytest.raises(InputError, match="rotated gradients; allowed: corrected_eigval alone"),
        capture.batch(),
    ):
        model(torch.randn(4, 5, dtype=torch.float64)).sum().backward()
