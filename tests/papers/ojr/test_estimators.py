"""Estimators of the distance to an isometry, against whole Jacobians in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from papers.ojr.estimators import Probing, Side, estimate, frobenius
from papers.ojr.isometric import MaxMin
from papers.ojr.orthogonality import JacobianOrthogonality
from papers.ojr.products import Products, exact_jacobian
from papers.ojr.weight_penalties import weight_penalty

DRAWS = 40_000


def tanh_layer(inputs: int, outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh()).double()


def convolution() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), MaxMin()).double()


def isometry(scale: float) -> nn.Sequential:
    layer = nn.Linear(6, 4).double()
    nn.init.orthogonal_(layer.weight, scale)
    return nn.Sequential(layer, MaxMin())


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def differentiate(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def gram_defect(block: nn.Module, x: Tensor, gain: float, side: Side) -> Tensor:
    """(n, d, d) J Jᵀ - c I, or Jᵀ J - c I."""
    jacobian = exact_jacobian(block, x)
    gram = jacobian @ jacobian.mT if side == "output" else jacobian.mT @ jacobian
    return gram - gain * torch.eye(gram.shape[-1], dtype=gram.dtype)


@pytest.mark.parametrize(
    ("block", "x"),
    [(tanh_layer(5, 6), inputs(3, 5)), (convolution(), inputs(2, 2, 3, 3))],
    ids=["layer", "convolution"],
)
def test_products_are_those_of_the_whole_jacobian(block: nn.Module, x: Tensor) -> None:
    jacobian = exact_jacobian(block, x)
    products = Products(block, x)
    v, u = inputs(*products.y.shape), inputs(*x.shape)
    transposed = torch.einsum("nba,nb->na", jacobian, v.flatten(1))
    forward = torch.einsum("nba,na->nb", jacobian, u.flatten(1))
    both = torch.einsum("nba,na->nb", jacobian, transposed)
    torch.testing.assert_close(products.transposed(v).flatten(1), transposed)
    torch.testing.assert_close(products.forward(u).flatten(1), forward)
    torch.testing.assert_close([part.flatten(1) for part in products.both(v)], [transposed, both])


@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("name", ["residual", "one_product", "variance"])
def test_estimators_have_the_means_of_their_table(name: str, side: Side) -> None:
    """Within four standard errors over many draws, for a tanh layer of 4 x 5 at one input."""
    block, gain = tanh_layer(5, 4), 0.7
    one = inputs(1, 5)
    defect = gram_defect(block, one, gain, side)[0]
    gram = defect + gain * torch.eye(len(defect), dtype=defect.dtype)
    squares, d = defect.square().sum().item(), len(defect)
    expected = {
        "residual": squares / d,
        "one_product": (2 * squares + defect.trace().item() ** 2) / d,
        "variance": (gram - gram.diagonal().diag()).square().sum().item() / d,
    }[name]
    probing = Probing(gain, side, 2 if name == "variance" else 1, torch.Generator().manual_seed(2))
    values = estimate(name, block, one.expand(DRAWS, -1).contiguous(), probing)  # type: ignore[arg-type]
    error = values.std().item() / math.sqrt(DRAWS)
    assert abs(values.mean().item() - expected) < 4 * error
    assert error < 0.05 * expected  # so that the bound above says something


def test_the_residual_s_variance_is_that_of_a_gaussian_quadratic_form() -> None:
    """Var |A v|² = 2 |A²|², of which the mean over p probes has the p-th part."""
    block, x = tanh_layer(5, 4), inputs(1, 5)
    square = torch.linalg.matrix_power(gram_defect(block, x, 1.0, "output")[0], 2)
    expected = 2 * square.square().sum().item() / 4**2
    for probes in (1, 4):
        probing = Probing(1.0, "output", probes, torch.Generator().manual_seed(3))
        values = estimate("residual", block, x.expand(DRAWS, -1).contiguous(), probing)
        assert values.var().item() == pytest.approx(expected / probes, rel=0.1)


def test_one_product_s_variance_is_that_of_a_gaussian_form_s_square() -> None:
    """Of q = vᵀ A v with cumulants k_n = 2ⁿ⁻¹ (n - 1)! tr Aⁿ, Var q² = E q⁴ - (E q²)²."""
    block, x = tanh_layer(5, 4), inputs(1, 5)
    values = torch.linalg.eigvalsh(gram_defect(block, x, 0.7, "output")[0])
    one, two, three, four = (
        2 ** (n - 1) * math.factorial(n - 1) * (values**n).sum().item() for n in (1, 2, 3, 4)
    )
    fourth = four + 4 * three * one + 3 * two**2 + 6 * two * one**2 + one**4
    expected = (fourth - (two + one**2) ** 2) / 4**2
    for probes in (1, 4):
        probing = Probing(0.7, "output", probes, torch.Generator().manual_seed(6))
        found = estimate("one_product", block, x.expand(DRAWS, -1).contiguous(), probing)
        assert found.var().item() == pytest.approx(expected / probes, rel=0.1)


@pytest.mark.parametrize("probes", [2, 4])
def test_the_variance_form_s_variance_is_that_of_a_sample_s_variance(probes: int) -> None:
    """(m4 - (p - 3) / (p - 1) m2²) / p, the moments over all vectors of signs."""
    block, x = tanh_layer(5, 4), inputs(1, 5)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)
    forms = (signs @ exact_jacobian(block, x)[0].detach()).square().sum(1)
    second, fourth = (((forms - forms.mean()) ** n).mean().item() for n in (2, 4))
    spread = (fourth - (probes - 3) / (probes - 1) * second**2) / probes
    probing = Probing(None, "output", probes, torch.Generator().manual_seed(7))
    found = estimate("variance", block, x.expand(DRAWS, -1).contiguous(), probing)
    assert found.var().item() == pytest.approx(spread / (2 * 4) ** 2, rel=0.1)


def test_the_exact_form_has_no_variance() -> None:
    block, x = tanh_layer(5, 4), inputs(1, 5).expand(3, -1).contiguous()
    found = estimate("exact", block, x, Probing(0.7, "output", 1, None))
    expected = gram_defect(block, x, 0.7, "output").square().sum((1, 2)) / 4
    torch.testing.assert_close(found, expected)


def test_frobenius_is_half_the_squared_norm_on_average() -> None:
    block, x = tanh_layer(5, 4), inputs(1, 5)
    expected = exact_jacobian(block, x).square().sum().item() / 2
    many = x.expand(DRAWS, -1).contiguous()
    values = frobenius(block, many, 1, torch.Generator().manual_seed(4))
    error = values.std().item() / math.sqrt(DRAWS)
    assert abs(values.mean().item() - expected) < 4 * error
    assert error < 0.02 * expected


def test_frobenius_s_variance_is_that_of_a_form_on_the_sphere() -> None:
    """E (uᵀ M u)² = ((tr M)² + 2 |M|²) / d (d + 2) of a unit vector u."""
    block, x = tanh_layer(5, 4), inputs(1, 5)
    gram = gram_defect(block, x, 0.0, "output")[0]
    trace, squares = gram.trace().item(), gram.square().sum().item()
    expected = 4 * (trace**2 + 2 * squares) / (4 * (4 + 2)) - trace**2 / 4
    for probes in (1, 4):
        generator = torch.Generator().manual_seed(8)
        found = frobenius(block, x.expand(DRAWS, -1).contiguous(), probes, generator)
        assert found.var().item() == pytest.approx(expected / probes, rel=0.05)


def test_the_exact_penalty_is_zero_for_an_isometry_and_only_there() -> None:
    block = isometry(1.0)
    exact = JacobianOrthogonality(block, estimator="exact")
    assert exact(inputs(3, 6)).item() < 1e-28
    twice = JacobianOrthogonality(block, gain=2.0, estimator="exact")
    assert twice(inputs(3, 6)).item() == pytest.approx(1.0)  # (1 - 2)² on each of d


@pytest.mark.parametrize("estimator", ["exact", "residual"])
def test_any_scale_of_an_isometry_costs_nothing_without_a_gain(estimator: str) -> None:
    block = isometry(3.0)
    penalty = JacobianOrthogonality(block, gain=None, estimator=estimator)  # type: ignore[arg-type]
    assert penalty(inputs(3, 6)).item() < 1e-24


def test_of_a_linear_block_it_is_soft_orthogonality() -> None:
    """|W Wᵀ - c I|² / d, and its gradient 4 (W Wᵀ - c I) W / d."""
    block = nn.Linear(6, 4).double()
    differentiate(JacobianOrthogonality(block, gain=0.5, estimator="exact")(inputs(3, 6)))
    weight = block.weight.detach()
    defect = weight @ weight.T - 0.5 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(block.weight.grad, 4 * defect @ weight / 4)
    soft = weight_penalty("so", [block], gain=0.5)
    exact = JacobianOrthogonality(block, gain=0.5, estimator="exact")(inputs(3, 6))
    torch.testing.assert_close(soft / 4, exact)


@pytest.mark.parametrize("side", ["output", "input"])
def test_the_residual_s_gradient_is_the_hand_formula_s(side: Side) -> None:
    """Of one tanh layer with its vectors held fixed, by W and b."""
    block, x = tanh_layer(5, 4), inputs(3, 5)
    generator = torch.Generator().manual_seed(5)
    differentiate(JacobianOrthogonality(block, side=side, generator=generator)(x))
    layer = block[0]
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    slope = 1 - torch.tanh(x @ weight.T + bias) ** 2  # D of each example
    shape = (3, 4) if side == "output" else (3, 5)
    v = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    if side == "output":
        w = slope * (((slope * v) @ weight) @ weight.T)  # D W Wᵀ D v
    else:
        w = (slope**2 * (v @ weight.T)) @ weight  # Wᵀ D² W v
    differentiate(((w - v).square().sum(1) / v.shape[1]).mean())
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    torch.testing.assert_close(layer.bias.grad, bias.grad)


def test_an_example_s_products_do_not_depend_on_its_batch() -> None:
    block, x, v = convolution(), inputs(3, 2, 3, 3), inputs(3, 4, 3, 3)
    together = Products(block, x).both(v)
    for row in range(3):
        alone = Products(block, x[row : row + 1]).both(v[row : row + 1])
        torch.testing.assert_close([part[row] for part in together], [part[0] for part in alone])
