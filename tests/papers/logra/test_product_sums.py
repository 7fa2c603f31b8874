"""Sums of products, of which one triangle is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.training.peak_memory import peak_tensor_bytes
from papers.logra.curvature.product_sums import (
    AT_ONCE_BYTES,
    PANEL,
    PackedMoment,
    ProductSum,
    infer_width,
    packed_size,
    unpacked,
)


@given(
    width=st.sampled_from((1, 7, PANEL - 1, PANEL, PANEL + 1, 2 * PANEL + 3)),
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=5),
)
def test_the_sum_is_that_of_the_whole_product_however_rows_arrive(
    width: int, sizes: list[int]
) -> None:
    rows = torch.randn(sum(sizes), width, dtype=torch.float64)
    held = ProductSum(width, dtype=torch.float64, device="cpu")
    for part in rows.split(sizes):
        held.add(part)
    torch.testing.assert_close(unpacked(held.packed), rows.mT @ rows, atol=1e-10, rtol=1e-12)


def test_rows_that_change_after_they_were_added_count_as_they_were() -> None:
    rows = torch.randn(3, 5, dtype=torch.float64)
    expected = rows.mT @ rows
    held = ProductSum(5, dtype=torch.float64, device="cpu")
    held.add(rows)
    rows.zero_()
    torch.testing.assert_close(unpacked(held.packed), expected)


def test_reading_between_two_parts_changes_nothing() -> None:
    rows = torch.randn(40, 6, dtype=torch.float64)
    held = ProductSum(6, dtype=torch.float64, device="cpu")
    held.add(rows[:10])
    torch.testing.assert_close(unpacked(held.packed), rows[:10].mT @ rows[:10])
    held.add(rows[10:])
    whole = ProductSum(6, dtype=torch.float64, device="cpu")
    for part in (rows[:10], rows[10:]):
        whole.add(part)
    # To the last bit: a checkpoint, which reads, leaves no trace.
    assert torch.equal(held.packed, whole.packed)


@pytest.mark.parametrize("kept", [8, 70, 100])
def test_a_sum_goes_on_from_its_state_to_the_last_bit(kept: int) -> None:
    rows = torch.randn(150, 6)
    first, whole = (ProductSum(6, dtype=torch.float64, device="cpu") for _ in range(2))
    for row in rows[:kept].unsqueeze(1):
        first.add(row)
    second = ProductSum.of(*(part.clone() for part in first.state))
    for row in rows[kept:].unsqueeze(1):
        second.add(row)
    for row in rows.unsqueeze(1):
        whole.add(row)
    assert torch.equal(second.packed, whole.packed)


@pytest.mark.parametrize("width", [1, 100, PANEL, PANEL + 1, 4096])
def test_the_width_follows_from_the_size(width: int) -> None:
    assert infer_width(torch.empty(packed_size(width), device="meta")) == width


def test_wide_sums_keep_little_more_than_a_triangle() -> None:
    assert packed_size(4096) / 4096**2 == 0.5625


def test_half_precision_products_are_summed_in_the_sums_type() -> None:
    rows = torch.randn(1000, 4)
    held = ProductSum(4, dtype=torch.float64, device="cpu")
    held.add(rows)
    assert held.packed.dtype == torch.float64
    exact = rows.double().mT @ rows.double()
    torch.testing.assert_close(unpacked(held.packed), exact, atol=1e-3, rtol=1e-5)


def test_few_rows_are_kept_and_not_multiplied() -> None:
    rows = torch.randn(PANEL // 2 + 1, PANEL)
    held = ProductSum(PANEL, dtype=torch.float64, device="cpu")
    held.add(rows[:10])
    held.add(rows[10:-1])
    kept = held.rows
    assert kept is not None
    assert torch.equal(kept, rows[:-1])
    held.add(rows[-1:])
    assert held.rows is None
    held.add(torch.full((1, PANEL), 7.0))
    assert torch.equal(kept, rows[:-1])  # whoever took them has them still


def test_a_sum_that_was_lent_stays() -> None:
    rows = torch.randn(300, 6)
    held, again = (ProductSum(6, dtype=torch.float64, device="cpu") for _ in range(2))
    for sums in (held, again):
        sums.add(rows[:100])
    lent = held.lend()
    before = lent.clone()
    for sums in (held, again):
        sums.add(rows[100:])
    assert torch.equal(lent, before)
    assert torch.equal(held.packed, again.packed)


def test_rows_of_another_type_are_summed_too() -> None:
    rows = torch.randn(100, 6)
    held = ProductSum(6, dtype=torch.float64, device="cpu")
    held.add(rows[:10])
    held.add(rows[10:].double())
    exact = rows.double().mT @ rows.double()
    torch.testing.assert_close(unpacked(held.packed), exact, atol=1e-4, rtol=1e-4)


def asked_for(work: Any) -> int:
    """Most bytes of tensors at once that a piece of work makes."""
    return peak_tensor_bytes(work)


@pytest.mark.parametrize("sizes", [[20], [4] * 5, [1] * 20])
def test_few_rows_take_memory_by_their_number_not_by_the_width_squared(sizes: list[int]) -> None:
    width = 784 * 256
    rows = torch.randn(20, width)
    held = ProductSum(width, dtype=torch.float64, device="cpu")

    def add() -> None:
        for part in rows.split(sizes):
            held.add(part)

    # 16 MB; 64 MiB are taken at once, for they cost nothing.
    assert asked_for(add) <= max(rows.nbytes, AT_ONCE_BYTES)
    assert held.rows is not None
    assert torch.equal(held.rows, rows)
    packed, waiting = held.state
    again = ProductSum.of(packed, waiting.clone())
    assert again.rows is not None
    assert torch.equal(again.rows, rows)


def test_room_for_rows_grows_with_them() -> None:
    width, count = 65_536, 700
    rows = torch.randn(count, width)
    held = ProductSum(width, dtype=torch.float64, device="cpu")

    def add() -> None:
        for part in rows.split(7):
            held.add(part)

    # What was there and half as many again, while rows are copied.
    assert asked_for(add) <= 2.6 * rows.nbytes < width // 2 * width * 4 / 10
    assert held.rows is not None
    assert torch.equal(held.rows, rows)


def test_what_does_not_fit_is_refused_with_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("papers.logra.curvature.memory_limits.free_bytes", lambda _: 10**9)
    held = ProductSum(200_704, dtype=torch.float64, device="cpu")
    held.add(torch.zeros(20, 200_704))
    free = r"GB are needed and 1 GB of cpu memory are free; allowed: projections \(lora\)"
    with pytest.raises(InputError, match=f"200704 numbers, of 2000 rows.* 1.61 {free}"):
        held.add(torch.zeros(1, 200_704).expand(1980, -1))
    with pytest.raises(InputError, match=f"200704 numbers, of more rows.* 162 {free}"):
        held.multiply()
    moment = PackedMoment(torch.zeros(1).expand(packed_size(30_000)), 1.0)
    with pytest.raises(InputError, match=f"30000 numbers, whole: .* 3.6 {free}"):
        moment.matrix()
