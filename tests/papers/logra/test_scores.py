"""Scores from blocks are those of the whole matrix, in every mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.errors import InputError
from papers.logra.curvature.hessians import EmpiricalFisher, IdentityHessian
from papers.logra.curvature.layout import Block, Layout
from papers.logra.scoring.scores import (
    gather_scores,
    group_columns,
    iterate_blocks,
    scores,
    self_influences,
    share_of_rows,
    top_scores,
)

LAYOUT = Layout([Block("h.0.mlp", 2, 3), Block("h.0.att", 2, 2), Block("h.1.mlp", 1, 4)])


def rows(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, LAYOUT.width, generator=generator, dtype=torch.float64)


def raw_of(train: Tensor) -> EmpiricalFisher:
    moments = {k: train[:, s].T @ train[:, s] / len(train) for k, s in LAYOUT.slices.items()}
    return EmpiricalFisher(LAYOUT, moments)


@settings(max_examples=25, deadline=None)
@given(
    q=st.integers(1, 5),
    n=st.integers(1, 30),
    block=st.integers(1, 40),
    mode=st.sampled_from(["dot", "cosine", "l2"]),
    k=st.integers(1, 40),
)
def test_neither_scores_nor_the_highest_depend_on_blocks(
    q: int, n: int, block: int, mode: Any, k: int
) -> None:
    queries, train = rows(q, seed=1), rows(n)
    hessian = raw_of(train)
    queries = hessian.precondition(queries)
    own = self_influences(iterate_blocks(train, block), n, hessian)
    found = scores(queries, iterate_blocks(train, block), n, mode=mode, self_influences=own)[
        "total"
    ]
    expected = queries @ train.T
    itself = torch.einsum("nk,nk->n", train, hessian.precondition(train))
    torch.testing.assert_close(own["total"], itself)
    if mode == "cosine":
        expected = expected / itself.sqrt()
    elif mode == "l2":
        expected = expected - itself / 2
    torch.testing.assert_close(found, expected)
    top = top_scores(queries, iterate_blocks(train, block), k, mode=mode, self_influences=own)
    order = expected.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert torch.equal(top.positions, order)
    torch.testing.assert_close(top.scores, expected.gather(1, order))


@given(
    values=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    block=st.integers(1, 20),
    k=st.integers(1, 5),
)
def test_of_equal_scores_the_earlier_row_comes_first(values: list[int], block: int, k: int) -> None:
    train = torch.zeros(len(values), LAYOUT.width, dtype=torch.float64)
    train[:, 0] = torch.tensor(values)
    query = torch.ones(1, LAYOUT.width, dtype=torch.float64)
    expected = sorted(range(len(values)), key=lambda place: (-values[place], place))[:k]
    assert top_scores(query, iterate_blocks(train, block), k).positions[0].tolist() == expected


@pytest.mark.parametrize("mode", ["dot", "l2"])
def test_groups_that_part_the_layers_add_up(mode: Any) -> None:
    train, queries = rows(9), rows(2, seed=1)
    hessian, groups = raw_of(train), group_columns(LAYOUT, ["h.0.", "h.1."])
    queries = hessian.precondition(queries)
    own = self_influences(iterate_blocks(train, 4), 9, hessian, groups=groups)
    found = scores(
        queries, iterate_blocks(train, 4), 9, mode=mode, self_influences=own, groups=groups
    )
    assert list(found) == ["total", "h.0.", "h.1."]
    torch.testing.assert_close(found["h.0."] + found["h.1."], found["total"])
    torch.testing.assert_close(own["h.0."] + own["h.1."], own["total"])
    assert float(found["h.0."].norm()) > 0.1 < float(found["h.1."].norm())


def test_cosine_of_a_group_is_normalised_by_the_group() -> None:
    train, queries = rows(9), rows(2, seed=1)
    groups = group_columns(LAYOUT, ["mlp"])
    columns = [*range(6), *range(10, 14)]
    own = self_influences(iterate_blocks(train), 9, IdentityHessian(LAYOUT), groups=groups)
    found = scores(
        queries, iterate_blocks(train), 9, mode="cosine", self_influences=own, groups=groups
    )["mlp"]
    part = train[:, columns]
    torch.testing.assert_close(found, queries[:, columns] @ part.T / part.norm(dim=1))


def test_cosine_divides_by_the_training_sample_alone() -> None:
    train, queries = rows(9), rows(2, seed=1)
    own = self_influences(iterate_blocks(train), 9, IdentityHessian(LAYOUT))
    factors = torch.arange(1.0, 10.0, dtype=torch.float64).unsqueeze(1)

    def relatif(queries: Tensor, train: Tensor) -> Tensor:
        own = self_influences(iterate_blocks(train), 9, IdentityHessian(LAYOUT))
        return scores(queries, iterate_blocks(train), 9, mode="cosine", self_influences=own)[
            "total"
        ]

    torch.testing.assert_close(own["total"], train.square().sum(1))
    first = relatif(queries, train)
    torch.testing.assert_close(relatif(queries, factors * train), first)
    torch.testing.assert_close(relatif(3 * queries, train), 3 * first)


def test_a_sample_without_a_gradient_has_no_influence_in_any_mode() -> None:
    train = rows(3).index_fill(0, torch.tensor([1]), 0.0)
    own = self_influences(iterate_blocks(train), 3, IdentityHessian(LAYOUT))
    for mode in ("dot", "cosine", "l2"):
        found = scores(rows(2, 1), iterate_blocks(train), 3, mode=mode, self_influences=own)[
            "total"
        ]
        assert found[:, 1].tolist() == [0.0, 0.0]
        assert found[:, [0, 2]].isfinite().all()


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return found


def test_defect_18_no_product_of_all_pairs_and_columns_is_made() -> None:
    """Upstream multiplied (n, 1, k) by (1, m, k) and summed."""
    train, queries = rows(64), rows(64, seed=1)
    hessian = raw_of(train)
    with Largest() as largest:
        own = self_influences(iterate_blocks(train, 16), 64, hessian)
        for mode in ("dot", "cosine"):
            scores(queries, iterate_blocks(train, 16), 64, mode=mode, self_influences=own)
        assert largest.numbers == 64 * 64
        largest.numbers = 0
        top_scores(queries, iterate_blocks(train, 16), 4)
        assert largest.numbers == 64 * 16


def test_types_and_devices_are_those_of_the_queries() -> None:
    train, queries = rows(5), rows(2, seed=1)
    exact = queries @ train.T
    for kind, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        found = scores(queries.to(kind), iterate_blocks(train.half()), 5)["total"]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=max(tolerance, 0.02))


def test_unusable_input_says_what_is_allowed() -> None:
    train, queries = rows(5), rows(2, seed=1)
    with pytest.raises(InputError, match="mode 'cosin'; allowed: dot, relatif, l2"):
        scores(queries, iterate_blocks(train), 5, mode="cosin")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mode 'l2' without self-influences of total"):
        scores(queries, iterate_blocks(train), 5, mode="l2")
    with pytest.raises(InputError, match=r"training gradients \(13,\) wide; allowed: \(14,\)"):
        scores(queries, iterate_blocks(train[:, 1:]), 5)
    with pytest.raises(InputError, match="5 training rows; allowed: 6"):
        scores(queries, iterate_blocks(train), 6)
    with pytest.raises(InputError, match="more than 4 training rows"):
        scores(queries, iterate_blocks(train), 4)
    with pytest.raises(InputError, match="k=0; allowed: at least 1"):
        top_scores(queries, iterate_blocks(train), 0)
    with pytest.raises(InputError, match="0 training rows; allowed: at least 1"):
        top_scores(queries, iterate_blocks(train[:0]), 1)
    with pytest.raises(InputError, match=r"influence group 'h.7.'; allowed: a part of one of h.0"):
        group_columns(LAYOUT, ["h.7."])
    with pytest.raises(InputError, match="influence group 'total'"):
        group_columns(LAYOUT, ["total"])
    with pytest.raises(InputError, match="allowed: a list of substrings"):
        group_columns(LAYOUT, "mlp")


def test_one_process_has_all_rows() -> None:
    assert share_of_rows(7) == range(7)
    assert torch.equal(gather_scores(rows(2), 14), rows(2))
