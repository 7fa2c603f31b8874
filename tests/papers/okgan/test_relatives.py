"""Facts of the discriminators that OKGAN is compared with."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from common.errors import InputError
from papers.okgan import Discriminator, Gaussian
from papers.okgan.bourgan import BourgainNoise, distance_loss
from papers.okgan.fields import Drifting, MeanDiscrepancy, PastSamples
from papers.okgan.methods.generation import Generation, GeneratorOptimizer
from papers.okgan.neural import NeuralDiscriminator, UnrolledDiscriminator
from tests.papers.okgan.test_kernels import normal

OBJECTIVES: dict[str, dict[str, Any]] = {
    "nonsaturating": {"objective": "nonsaturating"},
    "hinge": {"objective": "hinge"},
    "wasserstein": {"objective": "wasserstein", "penalty": 10.0, "steps": 2},
    "relativistic": {"objective": "relativistic", "penalty": 0.1},
    "packed": {"objective": "nonsaturating", "packing": 2},
}


def net(inputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 1)
    return nn.Sequential(*layers).double()


def made(name: str) -> NeuralDiscriminator:
    options = OBJECTIVES[name]
    inputs = 2 * options.get("packing", 1)
    return NeuralDiscriminator(net(inputs), lambda p: torch.optim.Adam(p, 0.05), **options)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_tells_real_from_generated_and_pulls_the_generator(name: str) -> None:
    discriminator = made(name)
    assert isinstance(discriminator, Discriminator)
    real, fake = normal(64, 2), normal(64, 2, seed=1) + 2
    for _ in range(40):
        discriminator.update(real, lambda: fake)
    with torch.no_grad():
        apart = discriminator.score(real).mean() - discriminator.score(fake).mean()
    assert float(apart) > 0.5
    moved = fake.clone().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator.generator_loss(moved, real), moved)
    assert (slope.mean(0) > 0).all()  # from 2 to 0


def test_objectives_by_hand() -> None:
    class Itself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.a * x[:, 0]

    def of(objective: Any, penalty: float = 0.0) -> NeuralDiscriminator:
        return NeuralDiscriminator(Itself(), torch.optim.SGD, objective, penalty=penalty)

    real, fake = torch.tensor([[2.0]]).double(), torch.tensor([[-1.0]]).double()

    def softplus(u: float) -> float:
        return math.log1p(math.exp(u))

    for name, penalty, wanted, generator in (
        ("nonsaturating", 0.0, softplus(-2) + softplus(-1), softplus(1)),
        ("hinge", 0.0, 0.0, 1.0),
        ("wasserstein", 0.0, -3.0, 1.0),
        ("wasserstein", 10.0, -3.0, 1.0),  # the slope's norm is 1 everywhere
        ("relativistic", 0.0, softplus(-3), softplus(3)),
        ("relativistic", 0.4, softplus(-3) + 0.2 * 2, softplus(3)),  # half of R1 + R2
    ):
        found = of(name, penalty)
        assert float(found.loss(real, fake)) == pytest.approx(wanted)
        assert float(found.generator_loss(fake, real)) == pytest.approx(generator)


def test_packing_joins_points() -> None:
    discriminator = made("packed")
    x = normal(6, 2)
    assert_close(discriminator.score(x), discriminator.net(x.reshape(3, 4))[:, 0])
    with pytest.raises(InputError, match="a batch of 5 is not a multiple"):
        discriminator.score(normal(5, 2))


def test_a_network_resumes_with_its_optimiser() -> None:
    one, other = made("nonsaturating"), made("nonsaturating")
    real, fake = normal(8, 2), normal(8, 2, seed=1)
    one.update(real, lambda: fake)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for each in (one, other):
        each.update(real, lambda: fake)
    assert torch.equal(one.score(real), other.score(real))


def test_unrolled_steps_are_differentiated_through() -> None:
    discriminator = UnrolledDiscriminator(net(), torch.optim.SGD, ahead=3, ahead_lr=0.1)
    real, fake = normal(6, 2), normal(6, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: discriminator.generator_loss(x, real), fake)
    # One step ahead, taken by hand.
    discriminator = UnrolledDiscriminator(net(), torch.optim.SGD, ahead=1, ahead_lr=0.1)
    before = discriminator.generator_loss(fake.detach(), real)
    stepped = NeuralDiscriminator(net(), lambda p: torch.optim.SGD(p, 0.1))
    stepped.update(real, lambda: fake.detach())
    assert_close(before, stepped.generator_loss(fake.detach(), real))


def test_the_mean_discrepancy_is_its_definition() -> None:
    """``E k(x, x') - 2 E k(x, y)``, of pairs that differ, and its gradient."""
    kernel, real = Gaussian(0.5), normal(7, 2)
    x = normal(5, 2, seed=1).requires_grad_()
    found = MeanDiscrepancy(kernel).generator_loss(x, real)
    among = kernel.gram(x, x)
    wanted = (among.sum() - among.diagonal().sum()) / 20 - 2 * kernel.gram(x, real).mean()
    assert_close(
        torch.autograd.grad(found, x)[0], torch.autograd.grad(wanted, x)[0], rtol=1e-9, atol=1e-12
    )


class TestDrifting:
    def test_the_field_is_the_difference_of_two_mean_shifts(self) -> None:
        x, real = normal(4, 2), normal(6, 2, seed=1)
        found = Drifting(0.7).field(x, real, x)
        for row in range(4):
            towards = torch.exp(-(real - x[row]).norm(dim=1) / 0.7)
            others = torch.cat([x[:row], x[row + 1 :]])
            away = torch.exp(-(others - x[row]).norm(dim=1) / 0.7)
            pull = (towards[:, None] * (real - x[row])).sum(0) / towards.sum()
            push = (away[:, None] * (others - x[row])).sum(0) / away.sum()
            assert_close(found[row], pull - push)

    @pytest.mark.parametrize("gaussian", [False, True])
    def test_samples_move_along_it_and_reach_the_data(self, gaussian: bool) -> None:
        real = normal(200, 2) + torch.tensor([2.0, 0.0]).double()
        x = normal(200, 2, seed=1).requires_grad_()
        drifting = Drifting(0.5, gaussian=gaussian)
        (slope,) = torch.autograd.grad(drifting.generator_loss(x, real), x)
        assert_close(slope * -len(x) / 2, drifting.field(x.detach(), real, x.detach()))
        moved = x.detach()
        for _ in range(60):
            moved = moved + drifting.field(moved, real, moved)
        assert float((moved.mean(0) - real.mean(0)).norm()) < 0.15

    def test_past_samples_repel_too(self) -> None:
        past = PastSamples(8, 2).double()
        drifting = Drifting(0.5, past)
        drifting.update(normal(4, 2), lambda: normal(6, 2, seed=1))
        drifting.update(normal(4, 2), lambda: normal(5, 2, seed=2))
        assert past.filled == 8
        kept = {tuple(row) for row in past.all().tolist()}
        wanted = torch.cat([normal(6, 2, seed=1)[3:], normal(5, 2, seed=2)])
        assert kept == {tuple(row) for row in wanted.tolist()}
        x, real = normal(4, 2, seed=3), normal(4, 2)
        alone = Drifting(0.5).generator_loss(x, real)
        assert float(drifting.generator_loss(x, real)) != pytest.approx(float(alone))


def test_noise_keeps_the_data_s_distances() -> None:
    data = torch.cat([0.01 * normal(50, 2), 0.01 * normal(50, 2, seed=1) + 5])
    noise = BourgainNoise(data, dimensions=2, deviation=0.01)
    z = noise(400)
    assert z.shape == (400, 2)
    # Two clusters, as far apart as the data's in its own scale.
    along = z[:, 0]
    assert float(along.std()) > 20 * 0.01
    assert ((along - along.mean()).abs() > 0.5 * along.std()).all()
    points = noise.points * noise.scale
    assert float(torch.pdist(points).mean()) == pytest.approx(float(torch.pdist(data).mean()))
    assert float(distance_loss(3 * z, z, 3.0)) == pytest.approx(0, abs=1e-10)
    assert float(distance_loss(6 * z, z, 3.0)) == pytest.approx(math.log(2) ** 2, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NeuralDiscriminator(net(), torch.optim.SGD, steps=0), "steps=0"),
        (lambda: UnrolledDiscriminator(net(), torch.optim.SGD, ahead=0), "ahead=0"),
        (lambda: Drifting(0.0), "temperature=0.0"),
        (lambda: PastSamples(-1, 2), "budget=-1"),
        (lambda: BourgainNoise(torch.zeros(1, 2), 2), "1 points"),
        (lambda: BourgainNoise(torch.full((4, 2), torch.nan), 2), "points are not finite"),
        (
            lambda: NeuralDiscriminator(net(), torch.optim.SGD, "foo"),
            "objective='foo'; allowed: nonsaturating, hinge",
        ),
    ],
)
def test_values_out_of_range_are_one_clear_line(make: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert said in str(error.value)


def test_a_diverged_network_says_so() -> None:
    network = made("nonsaturating")
    for weights in network.parameters():
        weights.data.mul_(torch.inf)
    with pytest.raises(InputError, match="its loss is"):
        network.update(normal(8, 2), lambda: normal(8, 2))


def test_looking_at_a_generator_leaves_its_training_as_it_is() -> None:
    found = []
    for looks in (0, 3):
        torch.manual_seed(1)
        training = Generation(
            nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)),
            lambda count: torch.randn(count, 2),
            NeuralDiscriminator(net().float(), lambda p: torch.optim.Adam(p, 0.01)),
            GeneratorOptimizer(),
            iterations=4,
        )
        real = torch.ones(16, 2)
        for _ in range(4):
            training.iterate(real)
            for _ in range(looks):
                training.sample(50)
        found.append([param.detach().clone() for param in training.generator.parameters()])
    for plain, looked_at in zip(*found, strict=True):
        assert torch.equal(plain, looked_at)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_generator_s_step_costs_no_gradient_of_the_network(name: str) -> None:
    critic = made(name)
    fake = normal(8, 2).requires_grad_()
    critic.generator_loss(fake, normal(8, 2)).backward()  # type: ignore[no-untyped-call]
    assert fake.grad is not None
    assert float(fake.grad.abs().sum()) > 0
    assert [param.grad for param in critic.net.parameters()] == [None] * 4
    assert all(param.requires_grad for param in critic.net.parameters())
