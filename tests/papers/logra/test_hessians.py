"""Preconditioned gradients are those of a dense solve, whatever was asked for before."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.errors import InputError
from papers.logra.curvature.curvatures import Damping
from papers.logra.curvature.hessians import (
    EKFAC,
    KFAC,
    EmpiricalFisher,
    Hessian,
    IdentityHessian,
    component_weights,
    components,
)
from papers.logra.curvature.layout import Block, Layout
from papers.logra.curvature.product_sums import PackedMoment, ProductSum, RowMoment

LAYOUT = Layout([Block("a", 3, 4), Block("b.mlp", 2, 5)])


class Problem(NamedTuple):
    """Gradients of a training set and their statistics."""

    gradients: Tensor
    raw: dict[str, Tensor]
    forward: dict[str, Tensor]
    backward: dict[str, Tensor]


def problem(seed: int = 0, n: int = 40, layout: Layout = LAYOUT) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def mixed(width: int) -> Tensor:
        # Correlated, but not so that rounding shows in what follows.
        return normal(n, width) @ (torch.eye(width) + 0.3 * normal(width, width))

    forward, backward, gradients = {}, {}, {}
    for block in layout.blocks:
        a, e = mixed(block.inner), mixed(block.out)
        forward[block.name], backward[block.name] = a.T @ a / n, e.T @ e / n
        gradients[block.name] = e.unsqueeze(2) * a.unsqueeze(1)
    matrix = layout.flatten(gradients)
    raw = {name: matrix[:, s].T @ matrix[:, s] / n for name, s in layout.slices.items()}
    return Problem(matrix, raw, forward, backward)


def flatten_log(case: Problem) -> dict[str, RowMoment]:
    """What the raw moments are of."""
    return {
        name: RowMoment(case.gradients[:, columns], len(case.gradients))
        for name, columns in LAYOUT.slices.items()
    }


def sums_of(case: Problem) -> dict[str, PackedMoment]:
    """The raw moments as statistics keep them."""
    found = {}
    for name, moment in flatten_log(case).items():
        held = ProductSum(moment.rows.shape[1], dtype=torch.float64, device="cpu")
        held.add(moment.rows)
        found[name] = PackedMoment(held.packed, moment.number)
    return found


def eigenvectors(case: Problem) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        name: (
            torch.linalg.eigh(case.forward[name])[1],
            torch.linalg.eigh(case.backward[name])[1],
        )
        for name in case.forward
    }


def corrected(case: Problem) -> EKFAC:
    bases, values = eigenvectors(case), {}
    for name, gradients in LAYOUT.unflatten(case.gradients).items():
        inner, outer = bases[name]
        values[name] = (outer.T @ gradients @ inner).square().mean(0)
    return EKFAC(LAYOUT, bases, values)


def dense_kronecker(case: Problem) -> dict[str, Tensor]:
    return {name: torch.kron(case.backward[name], case.forward[name]) for name in case.forward}


def dense_solve(
    blocks: dict[str, Tensor], gradients: Tensor, damping: Callable[[Tensor], float]
) -> Tensor:
    parts = []
    for name, columns in LAYOUT.slices.items():
        block = blocks[name]
        damped = block + damping(block) * torch.eye(len(block), dtype=block.dtype)
        parts.append(torch.linalg.solve(damped, gradients[:, columns].T).T)
    return torch.cat(parts, 1)


HESSIANS: dict[str, Callable[[Problem], Hessian]] = {
    "raw": lambda case: EmpiricalFisher(LAYOUT, case.raw),
    "raw by Cholesky": lambda case: EmpiricalFisher(LAYOUT, case.raw, widest_eigenbasis=1),
    "raw of sums": lambda case: EmpiricalFisher(LAYOUT, sums_of(case)),
    "raw of rows": lambda case: EmpiricalFisher(LAYOUT, flatten_log(case)),
    "kfac": lambda case: KFAC(LAYOUT, case.forward, case.backward),
    "ekfac": corrected,
}


@pytest.mark.parametrize("by", ["raw", "raw by Cholesky", "raw of sums", "raw of rows"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), value=st.floats(1e-3, 10), relative=st.booleans())
def test_raw_is_a_dense_solve(by: str, seed: int, value: float, relative: bool) -> None:
    case = problem(seed)
    found = HESSIANS[by](case).precondition(case.gradients, Damping(value, relative))

    def damping(block: Tensor) -> float:
        return value * float(block.trace()) / len(block) if relative else value

    expected = dense_solve(case.raw, case.gradients, damping)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), value=st.floats(1e-3, 10))
def test_kfac_is_a_dense_kronecker_inverse(seed: int, value: float) -> None:
    case = problem(seed)
    found = HESSIANS["kfac"](case).precondition(case.gradients, Damping(value))

    def damping(block: Tensor) -> float:
        return value * float(block.trace()) / len(block)

    expected = dense_solve(dense_kronecker(case), case.gradients, damping)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_ekfac_with_kfacs_eigenvalues_is_kfac() -> None:
    case = problem()
    values = {}
    for name in case.forward:
        inner, outer = (torch.linalg.eigh(m[name])[0] for m in (case.forward, case.backward))
        values[name] = torch.outer(outer, inner)
    same = EKFAC(LAYOUT, eigenvectors(case), values)
    kfac = HESSIANS["kfac"](case)
    torch.testing.assert_close(same.precondition(case.gradients), kfac.precondition(case.gradients))


def test_ekfac_has_the_trace_of_the_raw_fisher() -> None:
    case = problem()
    raw, ekfac = HESSIANS["raw"](case), HESSIANS["ekfac"](case)
    for name in LAYOUT.slices:
        assert ekfac.resolve_damping(name) == pytest.approx(raw.resolve_damping(name))


@pytest.mark.parametrize("kind", HESSIANS)
def test_products_of_whitened_gradients_are_scores(kind: str) -> None:
    case = problem()
    hessian, damping = HESSIANS[kind](case), Damping(0.3)
    white = hessian.whiten(case.gradients, damping)
    expected = case.gradients @ hessian.precondition(case.gradients, damping).T
    torch.testing.assert_close(white @ white.T, expected)


@pytest.mark.parametrize("kind", HESSIANS)
def test_defects_3_and_5_calls_change_nothing_and_each_damping_counts(kind: str) -> None:
    """Upstream added damping to stored eigenvalues, and kept the first inverse for all."""
    case = problem()
    hessian = HESSIANS[kind](case)
    weak, strong = Damping(0.01, relative=False), Damping(5.0, relative=False)
    first = hessian.precondition(case.gradients, weak)
    other = hessian.precondition(case.gradients, strong)
    assert torch.equal(hessian.precondition(case.gradients, weak), first)
    assert torch.equal(HESSIANS[kind](case).precondition(case.gradients, strong), other)
    assert float(other.norm()) < 0.9 * float(first.norm())


@pytest.mark.parametrize("kind", ["raw", "raw of rows", "kfac", "ekfac"])
def test_another_damping_needs_no_factorisation(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem()
    hessian = HESSIANS[kind](case)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("factorised again")

    for name in ("eigh", "cholesky_ex", "inv", "solve"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    for value in (0.1, 0.2):
        hessian.precondition(case.gradients, Damping(value))


@pytest.mark.parametrize("kind", HESSIANS)
def test_defect_4_default_damping_is_each_layers_own(kind: str) -> None:
    """Upstream took the first layer's for all."""
    case = problem()
    blocks = dense_kronecker(case) if kind == "kfac" else case.raw
    hessian = HESSIANS[kind](case)
    found = {name: hessian.resolve_damping(name) for name in LAYOUT.slices}
    for name, block in blocks.items():
        assert found[name] == pytest.approx(0.1 * float(block.trace()) / len(block))
    assert len(set(found.values())) == len(found)
    if kind != "ekfac":
        expected = dense_solve(blocks, case.gradients, lambda b: 0.1 * float(b.trace()) / len(b))
        torch.testing.assert_close(hessian.precondition(case.gradients), expected)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3))
def test_raw_scores_with_relative_damping_do_not_know_the_scale_of_projections(
    scale: float,
) -> None:
    case = problem()
    scaled = case._replace(
        gradients=scale * case.gradients, raw={k: scale**2 * m for k, m in case.raw.items()}
    )
    found = [
        p.gradients @ EmpiricalFisher(LAYOUT, p.raw).precondition(p.gradients).T
        for p in (case, scaled)
    ]
    torch.testing.assert_close(found[1], found[0])


def test_full_rank_projections_give_the_scores_of_whole_gradients() -> None:
    """Of an orthogonal P at any damping; of any invertible P without damping."""
    case = problem(n=80)
    generator = torch.Generator().manual_seed(1)
    blocks = case.raw.items()
    draws = {name: torch.randn(m.shape, generator=generator).double() for name, m in blocks}
    orthogonal = {name: torch.linalg.qr(draw)[0] for name, draw in draws.items()}
    for matrices, damping in ((orthogonal, Damping()), (draws, Damping(0.0))):
        p = torch.block_diag(*matrices.values())
        projected = case.gradients @ p.T
        moments = {name: q @ case.raw[name] @ q.T for name, q in matrices.items()}
        found = projected @ EmpiricalFisher(LAYOUT, moments).precondition(projected, damping).T
        whole = EmpiricalFisher(LAYOUT, case.raw).precondition(case.gradients, damping)
        torch.testing.assert_close(found, case.gradients @ whole.T, rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), value=st.floats(1e-3, 10))
def test_lemma_1_damping_weighs_components_of_gradients(seed: int, value: float) -> None:
    """g_te^T (H + l)^-1 g_tr = sum_i l_i / (l_i + l) c_tr c_te, and the mean of c_tr^2 is 1."""
    case, damping = problem(seed), Damping(value)
    raw = EmpiricalFisher(LAYOUT, case.raw)
    parts = components(raw, case.gradients)
    weights = component_weights(raw, damping)
    for c in parts.values():
        torch.testing.assert_close(c.square().mean(0), torch.ones(c.shape[1]).double())
    expected = case.gradients @ raw.precondition(case.gradients, damping).T
    found = sum(parts[name] * weights[name] @ parts[name].T for name in parts)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_components_of_ekfac_have_mean_square_1_too() -> None:
    case = problem()
    for c in components(HESSIANS["ekfac"](case), case.gradients).values():
        torch.testing.assert_close(c.square().mean(0), torch.ones(c.shape[1]).double())


@pytest.mark.parametrize("kind", HESSIANS)
def test_effective_dimension_falls_from_the_rank_to_0(kind: str) -> None:
    hessian = HESSIANS[kind](problem())
    sizes = [
        [hessian.effective_dimension(Damping(value))[name] for value in (1e-12, 0.1, 1.0, 1e9)]
        for name in ("a", "b.mlp")
    ]
    for values in sizes:
        assert values == sorted(values, reverse=True)
        assert values[-1] == pytest.approx(0, abs=1e-3)
    assert [values[0] for values in sizes] == pytest.approx([12, 10], rel=1e-3)


def test_rank_deficient_moments_need_damping() -> None:
    case = problem(n=5)
    for kind in ("raw", "raw by Cholesky", "raw of sums", "raw of rows"):
        hessian = HESSIANS[kind](case)
        with pytest.raises(InputError, match=r"layer a: damping 0 leaves H singular"):
            hessian.precondition(case.gradients, Damping(0.0))
        assert hessian.precondition(case.gradients, Damping(0.1)).isfinite().all()


def test_a_layer_without_any_gradient_contributes_nothing() -> None:
    case = problem()
    case.raw["a"].zero_()
    found = LAYOUT.unflatten(EmpiricalFisher(LAYOUT, case.raw).precondition(case.gradients))
    assert not found["a"].any()
    assert found["b.mlp"].all()


def test_gradients_keep_their_type_and_are_not_changed() -> None:
    case = problem()
    gradients = case.gradients.float()
    before = gradients.clone()
    for kind, make in HESSIANS.items():
        found = make(case).precondition(gradients)
        assert found.dtype == torch.float32, kind
        assert torch.equal(gradients, before), kind
    assert torch.equal(IdentityHessian(LAYOUT).precondition(gradients), before)


@pytest.mark.parametrize("kind", HESSIANS)
def test_gradients_in_float32_are_solved_to_their_own_precision(kind: str) -> None:
    case = problem()
    hessian = HESSIANS[kind](case)
    for function in (hessian.precondition, hessian.whiten):
        exact, single = function(case.gradients), function(case.gradients.float())
        assert 0 < float((single - exact).norm() / exact.norm()) < 1e-5


@pytest.mark.parametrize("kind", ["raw", "raw by Cholesky", "raw of rows"])
def test_float32_gradients_are_solved_as_float64_ones_whatever_the_damping(kind: str) -> None:
    """Weak damping would magnify float32's rounding: products are in float64 then."""
    layout, generator = Layout([Block("a", 16, 16)]), torch.Generator().manual_seed(0)
    # Eigenvalues that fall by a factor of 10,000, as those of networks do.
    fall = torch.arange(1, 101).pow(-2.0)
    mixed = torch.linalg.qr(torch.randn(256, 100, generator=generator))[0] * fall
    rows = torch.randn(100, 100, generator=generator) @ mixed.mT
    exact = rows.double()
    moment = exact.mT @ exact / 100
    hessian = {
        "raw": lambda: EmpiricalFisher(layout, {"a": moment}),
        "raw by Cholesky": lambda: EmpiricalFisher(layout, {"a": moment}, widest_eigenbasis=1),
        "raw of rows": lambda: EmpiricalFisher(layout, {"a": RowMoment(rows, 100)}),
    }[kind]()
    for damping in (Damping(1.0), Damping(0.1), Damping(1e-4), Damping(1e-9)):
        found, expected = (hessian.precondition(given, damping) for given in (rows, exact))
        assert float((found - expected).norm() / expected.norm()) < 1e-4, damping


def test_defect_17_missing_statistics_are_errors() -> None:
    """Upstream warned and returned gradients that were not preconditioned."""
    case = problem()
    part = {"a": case.raw["a"]}
    with pytest.raises(InputError, match=r"layer b.mlp: no gradients' second moment .*for: a"):
        EmpiricalFisher(LAYOUT, part)
    with pytest.raises(InputError, match=r"layer b.mlp: no output gradients' second moment"):
        KFAC(LAYOUT, case.forward, {"a": case.backward["a"]})
    with pytest.raises(InputError, match="layer a: no corrected eigenvalues"):
        EKFAC(LAYOUT, eigenvectors(case), {})
    with pytest.raises(InputError, match=r"of shape \(3, 3\); allowed: \(12, 12\)"):
        EmpiricalFisher(LAYOUT, {**case.raw, "a": torch.eye(3)})
    with pytest.raises(InputError, match=r"layer a: .* is not finite"):
        EmpiricalFisher(LAYOUT, {**case.raw, "a": torch.full((12, 12), float("nan"))})
    with pytest.raises(InputError, match=r"gradients of shape \(1, 3\); allowed: \(n, 22\)"):
        EmpiricalFisher(LAYOUT, case.raw).precondition(torch.ones(1, 3))
    with pytest.raises(InputError, match="layer a has no eigenvectors"):
        components(HESSIANS["raw by Cholesky"](case), case.gradients)


def test_one_damping_is_given_and_it_is_a_number() -> None:
    assert Damping.of(None, None) == Damping(0.1, relative=True)
    assert Damping.of(0.0, None) == Damping(0.0, relative=False)
    assert Damping.of(None, 0.5) == Damping(0.5, relative=True)
    with pytest.raises(InputError, match="allowed: one of them"):
        Damping.of(0.1, 0.1)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="allowed: a finite number, at least 0"):
            Damping.of(bad, None)


def test_digests_tell_hessians_apart() -> None:
    first, again, other = problem(), problem(), problem(1)
    assert EmpiricalFisher(LAYOUT, first.raw).digest == EmpiricalFisher(LAYOUT, again.raw).digest
    digests = {make(case).digest for make in HESSIANS.values() for case in (first, other)}
    assert len(digests) == 2 * len(HESSIANS)
