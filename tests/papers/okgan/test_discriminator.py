"""Facts of the online classifier: its recursion, its budget, what its loss does to a generator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from common.errors import InputError
from papers.okgan import (
    Discriminator,
    EncodedKernelDiscriminator,
    Gaussian,
    KernelDiscriminator,
    Linear,
    Polynomial,
)
from papers.okgan.divergence import DivergedError
from papers.okgan.fields import Drifting, MeanDiscrepancy, PastSamples
from papers.okgan.losses import loss, pull
from papers.okgan.neural import NeuralDiscriminator
from papers.okgan.regret import best_fixed_loss, regret_bound
from tests.papers.okgan.test_kernels import normal

LR, PENALTY = 0.05, 0.1
DECAY = 1 - LR * PENALTY


def made(**options: Any) -> KernelDiscriminator:
    """A classifier of plane points, in double precision."""
    given: dict[str, Any] = {
        "kernel": Gaussian(0.7),
        "budget": 64,
        "batch_size": 4,
        "passes": 1,
    } | options
    return KernelDiscriminator((2,), **given).double()


def constant(points: Tensor) -> Callable[[], Tensor]:
    """Draws these."""
    return lambda: points


class Naive:
    """The published procedure word by word: a loop over key points, everything anew each time."""

    def __init__(self, like: KernelDiscriminator) -> None:
        self.like = like
        self.slots: list[tuple[Tensor, float] | None] = [None] * like.budget
        self.offset, self.place = 0.0, 0
        self.generator = torch.Generator().manual_seed(0)

    def value(self, x: Tensor) -> float:
        total = self.offset
        for slot in self.slots:
            if slot is not None:
                total += slot[1] * float(self.like.kernel.gram(x[None], slot[0][None]))
        return total

    def update(self, real: Tensor, fake: Tensor) -> None:
        points = torch.cat([real, fake])
        labels = [1.0] * len(real) + [-1.0] * len(fake)
        for _ in range(self.like.passes):
            order = torch.randperm(len(points), generator=self.generator)
            for rows in torch.split(order, self.like.batch_size):
                values = [self.value(points[row]) for row in rows]
                self.slots = [s and (s[0], s[1] * DECAY) for s in self.slots]
                new = []
                for row, value in zip(rows.tolist(), values, strict=True):
                    margin = torch.tensor(labels[row] * value, dtype=torch.float64)
                    new.append(LR * labels[row] * float(pull(self.like.loss_name, margin)))
                    self.slots[self.place] = points[row], new[-1]
                    self.place = (self.place + 1) % self.like.budget
                self.offset += sum(new) / len(new)


@pytest.mark.parametrize("loss_name", ["logistic", "hinge"])
@pytest.mark.parametrize(
    ("budget", "passes"),
    [(64, 3), (17, 2), (10, 3)],  # never full; wraps; an update writes more than there is room for
)
def test_updates_are_the_published_procedure(loss_name: Any, budget: int, passes: int) -> None:
    classifier = made(loss_name=loss_name, budget=budget, passes=passes)
    naive = Naive(classifier)
    for number in range(3):
        real, fake = normal(5, 2, seed=number), normal(4, 2, seed=10 + number) + 1
        classifier.update(real, constant(fake))
        naive.update(real, fake)
    for place, slot in enumerate(naive.slots):
        if slot is not None:
            assert_close(classifier.keys[place], slot[0], rtol=0, atol=0)
            assert_close(float(classifier.coefficients[place]), slot[1], rtol=1e-12, atol=1e-14)
    assert float(classifier.offset) == pytest.approx(naive.offset, rel=1e-12)
    x = normal(3, 2, seed=30)
    wanted = torch.tensor([naive.value(row) for row in x], dtype=torch.float64)
    assert_close(classifier.score(x), wanted, rtol=1e-12, atol=1e-12)


def test_within_the_budget_coefficients_have_a_closed_form() -> None:
    """``lr y g`` times the decay of every later mini-batch."""
    classifier = made(budget=64, batch_size=4)
    # Points far from each other see only the offset, which these labels leave at 0.
    points = 100 * torch.arange(16, dtype=torch.float64)[:, None].expand(16, 2)
    classifier.update(points[:8], lambda: points[8:])
    seen = classifier.coefficients[:16].abs().reshape(4, 4).mean(1)
    assert float(seen[3]) == pytest.approx(LR / 2, rel=0.02)  # sigmoid of nearly 0
    assert_close(
        seen[0].mean() / seen[3].mean(), torch.tensor(DECAY**3).double(), rtol=2e-2, atol=0
    )
    classifier = made(budget=64, batch_size=4, loss_name="hinge")
    classifier.update(points[:8], lambda: points[8:])
    later = torch.tensor([3.0, 2.0, 1.0, 0.0]).double().repeat_interleave(4)
    assert_close(classifier.coefficients[:16].abs(), LR * DECAY**later)


def test_the_oldest_keys_are_overwritten_first() -> None:
    classifier = made(budget=6, batch_size=4)
    labels = []
    for number in range(4):  # of two points each
        batch = torch.full((1, 2), float(number)).double()
        classifier.update(batch, constant(batch + 0.5))
        labels.append(number)
    kept = sorted(float(key[0]) for key in classifier.keys)
    assert kept == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    assert_close(classifier.coefficients.abs(), classifier.coefficients.abs().clamp_min(1e-3))


def test_a_linear_kernel_is_stochastic_gradient_descent() -> None:
    """In the space of the points themselves, with the same decay."""
    classifier = made(kernel=Linear(), budget=4096, passes=2)
    w, b = torch.zeros(2).double(), 0.0
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        real, fake = normal(6, 2, seed=number), normal(6, 2, seed=10 + number) + 1
        classifier.update(real, constant(fake))
        points, labels = torch.cat([real, fake]), torch.tensor([1.0] * 6 + [-1.0] * 6).double()
        for _ in range(2):
            for rows in torch.split(torch.randperm(12, generator=generator), 4):
                x, y = points[rows], labels[rows]
                slopes = pull("logistic", y * (x @ w + b))
                w = DECAY * w + LR * (y * slopes) @ x
                b = b + float(LR * (y * slopes).mean())
    assert_close(classifier.coefficients @ classifier.keys, w, rtol=1e-12, atol=1e-12)
    assert float(classifier.offset) == pytest.approx(b)


def test_the_order_within_a_mini_batch_does_not_matter() -> None:
    first, second = made(batch_size=16), made(batch_size=16)
    real, fake = normal(8, 2), normal(8, 2, seed=1)
    for classifier, order in ((first, torch.arange(8)), (second, torch.randperm(8))):
        classifier.update(real, lambda: fake)
        classifier.update(real[order], constant(fake[order]))
    x = normal(5, 2, seed=2)
    assert_close(first.score(x), second.score(x), rtol=1e-12, atol=1e-12)


def test_what_a_budget_forgets_is_bounded() -> None:
    """``|f - f_cut| <= m (1 - lr penalty)^t / penalty``, t mini-batches kept (NORMA, Prop. 1).

    For slopes and ``k(x, x)`` up to 1. Both see the hinge's slopes, which are 1: real points lie at
    one place, generated ones at another, and a penalty of 2.5 keeps f below 1 there.
    """
    lr, penalty, size, budget = 0.05, 2.5, 4, 40
    whole, cut = (
        made(budget=each, batch_size=size, loss_name="hinge", lr=lr, penalty=penalty)
        for each in (4096, budget)
    )
    for number in range(50):
        real, fake = (0.01 * normal(4, 2, seed=number) + place for place in (3, -3))
        for classifier in (whole, cut):
            classifier.update(real, constant(fake))
    assert float(whole.score(torch.full((1, 2), 3.0).double()).detach()) < 1
    # What the cut one holds is what the whole one holds of the last points.
    last = whole.coefficients[400 - budget : 400].sort().values
    assert_close(last, cut.coefficients.sort().values, rtol=1e-9, atol=1e-12)
    bound = size * (1 - lr * penalty) ** (budget // size) / penalty
    assert whole.squared_norm() ** 0.5 > 2 * bound  # who forgets everything is not below it
    whole.coefficients[400 - budget : 400] = 0
    assert bound / 2 < whole.squared_norm() ** 0.5 <= bound


def test_regret_is_below_its_bound_on_a_fixed_stream() -> None:
    """Without decay and offset, against every function of norm up to 5; f = 0 is not below it."""
    kernel, radius, lr = Gaussian(0.7), 5.0, 0.5
    classifier = made(kernel=kernel, budget=4096, batch_size=4, lr=lr, penalty=0.0)
    total, norms, points, labels = 0.0, [], [], []
    for number in range(60):
        batch = normal(4, 2, seed=number) + torch.tensor([1.0, 1, -1, -1]).double()[:, None]
        y = torch.tensor([1.0, 1, -1, -1]).double()
        with torch.no_grad():
            margins = y * classifier.score(batch)
        total += float(loss("logistic", margins).sum())
        slopes = pull("logistic", margins) * y
        norms.append((slopes @ kernel.gram(batch, batch) @ slopes).sqrt())
        classifier.update(batch[:2], constant(batch[2:]))
        classifier.offset.zero_()
        points.append(batch)
        labels.append(y)
    best = best_fixed_loss(kernel, torch.cat(points), torch.cat(labels), "logistic", radius, 300)
    bound = regret_bound(radius, lr, torch.stack(norms))
    assert 0 < total - best <= bound
    assert len(torch.cat(labels)) * math.log(2) - best > 2 * bound


def test_the_generator_is_pulled_where_real_points_are() -> None:
    classifier = made()
    assert isinstance(classifier, Discriminator)
    real, fake = normal(30, 2), normal(30, 2, seed=1) + 2
    for _ in range(5):
        found = classifier.update(real, lambda: fake)
    assert found["accuracy"] > 0.8
    moved = fake.clone().requires_grad_()
    classifier.generator_loss(moved, real).backward()  # type: ignore[no-untyped-call]
    assert moved.grad is not None
    towards = -(moved.grad.mean(0))
    assert (towards < 0).all()  # from 2 to 0


def test_memory_and_state_do_not_grow() -> None:
    classifier = made(budget=32)
    before = {
        name: value.shape for name, value in classifier.state_dict().items() if name[0] != "_"
    }
    for number in range(50):
        classifier.update(normal(6, 2, seed=number), lambda: normal(6, 2, seed=99))
    after = {name: value.shape for name, value in classifier.state_dict().items() if name[0] != "_"}
    assert before == after


def test_a_saved_state_goes_on_with_the_same_bits() -> None:
    classifier, resumed = made(budget=20), made(budget=20, seed=5)
    real, fake = normal(7, 2), normal(6, 2, seed=1)
    classifier.update(real, lambda: fake)
    resumed.load_state_dict(copy.deepcopy(classifier.state_dict()))
    for each in (classifier, resumed):
        each.update(real, lambda: fake)
    x = normal(3, 2, seed=2)
    assert torch.equal(classifier.score(x), resumed.score(x))


class TestEncoder:
    """Kernels between codes of images."""

    linear: nn.Linear

    @staticmethod
    def images(seed: int) -> Tensor:
        return normal(6, 1, 4, 4, seed=seed)

    def made(self, lr: float = 0.0) -> EncodedKernelDiscriminator:
        torch.manual_seed(0)
        self.linear = nn.Linear(16, 3).double()
        encoder = nn.Sequential(nn.Flatten(), self.linear)
        return EncodedKernelDiscriminator(
            (1, 4, 4),
            Gaussian(0.5),
            encoder,
            lambda params: torch.optim.SGD(params, lr, momentum=0.9),
            budget=40,
            batch_size=4,
        ).double()

    def test_keys_are_images_that_the_present_encoder_reads(self) -> None:
        classifier = self.made()
        classifier.update(self.images(0), lambda: self.images(1))
        assert classifier.keys.shape == (40, 1, 4, 4)
        before = classifier.score(self.images(2)).detach()
        with torch.no_grad():
            self.linear.weight.mul_(2.0)
        codes = classifier.encoder(self.images(2)), classifier.encoder(classifier.keys)
        wanted = Gaussian(0.5).gram(*codes) @ classifier.coefficients + classifier.offset
        assert_close(classifier.score(self.images(2)), wanted)
        assert not torch.allclose(before, wanted)

    def test_the_encoder_learns_through_points_and_keys(self) -> None:
        classifier = self.made()
        classifier.update(self.images(0), lambda: self.images(1))
        loss = classifier.encoder_loss(self.images(2), self.images(3))
        weight = self.linear.weight
        (found,) = torch.autograd.grad(loss, weight)

        def loss_at(shift: Tensor) -> float:
            with torch.no_grad():
                weight.add_(shift)
                value = float(classifier.encoder_loss(self.images(2), self.images(3)))
                weight.sub_(shift)
            return value

        direction = 1e-6 * normal(*weight.shape, seed=9)
        slope = (loss_at(direction) - loss_at(-direction)) / 2
        assert slope == pytest.approx(float((found * direction).sum()), rel=1e-4)

    def test_an_update_takes_a_step_of_the_encoder_and_then_its_own(self) -> None:
        classifier, still = self.made(lr=0.1), self.made()
        real, fake = self.images(0), self.images(1)
        for each in (classifier, still):
            each.update(real, lambda: fake)  # with all coefficients 0 the encoder stays
        linear = classifier.encoder[1]
        weight = linear.weight.detach().clone()
        (slope,) = torch.autograd.grad(classifier.encoder_loss(real, fake), linear.weight)
        assert slope.abs().max() > 0
        found = classifier.update(real, lambda: fake)
        assert_close(linear.weight, weight - 0.1 * slope)
        with torch.no_grad():
            self.linear.weight.copy_(linear.weight)
            self.linear.bias.copy_(linear.bias)
        # The classifier's own update is that of one whose encoder is already there.
        still.update(real, lambda: fake)
        assert_close(classifier.coefficients, still.coefficients)
        assert found["encoder_loss"] > 0

    def test_keys_that_are_encoded_once_are_those_of_the_present_encoder(self) -> None:
        classifier = self.made(lr=0.1)
        fake = self.images(2)
        for seed in (0, 1):
            classifier.update(self.images(seed), lambda: fake)
            for _ in range(2):
                wanted = torch.relu(1 - classifier.score(fake)).mean()
                assert_close(classifier.generator_loss(fake, fake), wanted)

    def test_it_resumes_with_the_encoder_s_optimiser(self) -> None:
        one, other = self.made(lr=0.1), self.made(lr=0.1)
        real, fake = self.images(0), self.images(1)
        for _ in range(2):
            one.update(real, lambda: fake)
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        for each in (one, other):
            each.update(real, lambda: fake)
        assert torch.equal(one.score(real), other.score(real))

    def test_images_of_another_size_are_refused(self) -> None:
        with pytest.raises(
            InputError, match=r"points of shape \(1, 5, 5\); allowed here: \(1, 4, 4"
        ):
            self.made().score(torch.zeros(2, 1, 5, 5).double())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 0}, "budget=0"),
        ({"budget": 3, "batch_size": 4}, "at least a mini-batch, 4"),
        ({"passes": 0}, "passes=0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": 2.0, "penalty": 1.0}, "lr * penalty below 1"),
        ({"lr": math.inf, "penalty": 0.0}, "lr=inf"),
        ({"loss_name": "square"}, "loss_name='square'; allowed: logistic, hinge"),
    ],
)
def test_values_out_of_range_are_one_clear_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        made(**options)
    assert said in str(error.value)


#: Makers of everything that learns from batches of plane points.
LEARNERS: dict[str, Callable[[], Any]] = {
    "kernel": made,
    "encoded": lambda: EncodedKernelDiscriminator(
        (2,), Gaussian(0.7), nn.Linear(2, 2), torch.optim.SGD, budget=64, batch_size=4
    ).double(),
    "neural": lambda: NeuralDiscriminator(nn.Linear(2, 1).double(), torch.optim.SGD),
    "discrepancy": lambda: MeanDiscrepancy(Gaussian(0.7), PastSamples(8, 2)),
    "drifting": lambda: Drifting(0.7, PastSamples(8, 2)),
}


@pytest.mark.parametrize("learner", LEARNERS)
class TestBadBatches:
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e200])
    def test_points_that_are_not_finite_are_refused_by_whose_they_are(
        self, learner: str, bad: float
    ) -> None:
        points = normal(4, 2)
        points[1, 0] = bad
        with pytest.raises(DivergedError):
            LEARNERS[learner]().update(normal(4, 2), lambda: points)
        with pytest.raises(InputError, match="real points are not finite") as error:
            LEARNERS[learner]().update(points, lambda: normal(4, 2))
        assert not isinstance(error.value, DivergedError)

    def test_none_at_all_and_two_shapes_are_refused(self, learner: str) -> None:
        with pytest.raises(InputError, match="0 real points, 0 generated ones"):
            LEARNERS[learner]().update(normal(0, 2), lambda: normal(0, 2))
        with pytest.raises(InputError, match="shape"):
            LEARNERS[learner]().update(normal(4, 2), lambda: normal(4, 3))


@pytest.mark.parametrize("learner", ["kernel", "encoded", "discrepancy", "drifting"])
def test_a_generator_s_points_of_another_shape_are_refused(learner: str) -> None:
    made_one = LEARNERS[learner]()
    made_one.update(normal(4, 2), lambda: normal(4, 2, seed=1))
    with pytest.raises(InputError, match="shape"):
        made_one.generator_loss(normal(4, 3), normal(4, 2))


@pytest.mark.parametrize("field", [MeanDiscrepancy(Gaussian(0.7)), Drifting(0.7)])
def test_one_generated_point_has_none_beside_it(field: MeanDiscrepancy | Drifting) -> None:
    with pytest.raises(InputError, match="allowed: two or more"):
        field.generator_loss(normal(1, 2), normal(4, 2))


def test_polynomials_of_raw_images_work_too() -> None:
    classifier = KernelDiscriminator((1, 4, 4), Polynomial(1 / 16), budget=32, batch_size=8)
    classifier.update(torch.rand(8, 1, 4, 4), lambda: torch.rand(8, 1, 4, 4))
    assert classifier.score(torch.rand(3, 1, 4, 4)).shape == (3,)
