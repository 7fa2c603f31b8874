"""Facts of kernels: positive definite, gradients in closed form, parts of tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from common.errors import InputError
from papers.okgan import (
    Gaussian,
    Kernel,
    Linear,
    MixedGaussian,
    MixedRationalQuadratic,
    Polynomial,
    RationalQuadratic,
    expand,
    kernels,
)

KERNELS: dict[str, Kernel] = {
    "gaussian": Gaussian(0.7),
    "mixed gaussian": MixedGaussian((0.1, 0.7, 3.0)),
    "linear": Linear(),
    "polynomial": Polynomial(0.3, degree=3, shift=0.5),
    "rational quadratic": RationalQuadratic(0.5),
    "mixed rational quadratic": MixedRationalQuadratic((0.5, 2.0)),
}
EACH = pytest.mark.parametrize("name", KERNELS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@EACH
def test_gradients_by_points_keys_are_those_of_the_sum(name: str) -> None:
    x, keys, weights = normal(5, 3), normal(7, 3, seed=1), normal(7, seed=2)
    inputs = x.requires_grad_(), keys.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, keys: expand(KERNELS[name], x, keys, weights), inputs, fast_mode=False
    )


@EACH
def test_the_sum_is_what_autograd_makes_of_the_table(name: str) -> None:
    x, keys, weights = normal(5, 3).requires_grad_(), normal(7, 3, seed=1), normal(7, seed=2)
    found = expand(KERNELS[name], x, keys, weights)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    wanted = KERNELS[name].gram(x, keys) @ weights
    assert_close(found, wanted)
    assert_close(gradient, torch.autograd.grad(wanted.square().sum(), x)[0])


@EACH
def test_tables_are_positive_semidefinite(name: str) -> None:
    x = normal(12, 3)
    gram = KERNELS[name].gram(x, x)
    assert_close(gram, gram.T)
    assert float(torch.linalg.eigvalsh(gram)[0]) > -1e-9


def test_values_by_hand() -> None:
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, -1.0]])  # D = 10, s = -2
    for kernel, wanted in (
        (Gaussian(0.2), math.exp(-2)),
        (MixedGaussian((0.2, 0.1)), math.exp(-2) + math.exp(-1)),
        (MixedGaussian.of_widths([math.sqrt(2.5)]), math.exp(-2)),
        (Linear(), -2),
        (Polynomial(0.5), -1),
        (RationalQuadratic(0.5), 11**-0.5),
        (MixedRationalQuadratic((0.5, 1.0)), 11**-0.5 + 1 / 6 - 2),
    ):
        assert float(kernel.gram(x, y)) == pytest.approx(wanted)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_table_made_in_parts_gives_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> list[Tensor]:
        x, keys = normal(8, 3).requires_grad_(), normal(7, 3, seed=1).requires_grad_()
        found = expand(Gaussian(0.7), x, keys, normal(7, seed=2))
        return [found, *torch.autograd.grad(found.square().sum(), (x, keys))]

    whole = both()
    monkeypatch.setattr(kernels, "TABLE", 7 * rows)
    for one, other in zip(whole, both(), strict=True):
        assert_close(one, other)


def test_far_points_give_no_denormal_numbers() -> None:
    far = Gaussian(1.0).gram(torch.zeros(1, 2), torch.full((1, 2), 100.0))
    assert 0 < float(far) < 1e-30
    assert float(far) >= torch.finfo(torch.float32).tiny


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gaussian(0.0), "gamma=0.0"),
        (lambda: Gaussian(float("nan")), "gamma=nan"),
        (lambda: MixedGaussian(()), "gammas=()"),
        (lambda: MixedGaussian.of_widths([1.0, -1.0]), "sigma=-1.0"),
        (lambda: Polynomial(1.0, degree=0), "degree=0"),
        (lambda: RationalQuadratic(-1.0), "a=-1.0"),
    ],
)
def test_values_out_of_range_are_one_clear_line(make: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert said in str(error.value)
    assert "allowed" in str(error.value)
