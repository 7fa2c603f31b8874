"""The goodput model: closed forms, bounds and limits; the batch choice against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papers.pollux_sim.applications.applications import APPLICATIONS
from papers.pollux_sim.models.goodput import (
    BatchLimits,
    Theta,
    best_batch,
    efficiency,
    gain,
    goodput_table,
    grad_time,
    iteration_time,
    split_batch,
    sync_time,
    throughput,
)

SECONDS = st.floats(1e-5, 5.0)
THETAS = st.builds(Theta, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, st.floats(1, 10))
LIMITS = st.sampled_from(
    [
        BatchLimits(app.init_batch_size, app.max_batch_size, app.min_local_bsz, app.max_local_bsz)
        for app in APPLICATIONS.values()
    ]
)
GPUS = st.integers(1, 32)
SQR, VAR = st.floats(0, 1e3), st.floats(1e-6, 1e6)


@given(SQR, VAR, st.floats(1, 256), st.floats(1, 256))
def test_efficiency_is_one_at_the_initial_batch_and_falls_with_the_batch(
    sqr: float, var: float, one: float, other: float
) -> None:
    assert efficiency(sqr, var, 1.0) == pytest.approx(1.0, rel=1e-12)
    small, large = sorted((one, other))
    at_small, at_large = efficiency(sqr, var, small), efficiency(sqr, var, large)
    assert 0 < at_large <= at_small * (1 + 1e-12)
    assert at_small <= 1 + 1e-12


@given(st.floats(1e-3, 1e3), VAR, st.integers(8, 256), st.floats(1, 64))
def test_efficiency_is_that_of_the_noise_scale(
    sqr: float, var: float, init_batch_size: int, scale: float
) -> None:
    phi, batch_size = init_batch_size * var / sqr, init_batch_size * scale
    expected = (phi + init_batch_size) / (phi + batch_size)
    assert efficiency(sqr, var, scale) == pytest.approx(expected)
    assert gain(sqr, var, scale) == pytest.approx(scale * expected)


def test_nothing_but_noise_makes_every_sample_count_and_no_noise_makes_the_batch_useless() -> None:
    assert gain(0.0, 1.0, 16.0) == pytest.approx(16.0)
    assert gain(1.0, 0.0, 16.0) == pytest.approx(1.0)
    assert gain(0.0, 0.0, 16.0) == 1.0


@given(THETAS, st.booleans(), GPUS, st.integers(1, 512), st.floats(1, 10))
def test_iteration_lies_between_maximum_and_sum_and_gamma_shortens_it(
    theta: Theta, crosses: bool, gpus: int, m: int, gamma: float
) -> None:
    compute, sync = grad_time(theta, m), sync_time(theta, crosses, gpus)
    seconds = iteration_time(theta, crosses, gpus, m)
    assert max(compute, sync) * (1 - 1e-12) <= seconds <= (compute + sync) * (1 + 1e-12)
    more, less = sorted((gamma, theta.gamma), reverse=True)
    overlapped = iteration_time(theta._replace(gamma=more), crosses, gpus, m)
    assert overlapped <= iteration_time(theta._replace(gamma=less), crosses, gpus, m) * (1 + 1e-12)


@given(THETAS, st.booleans(), st.integers(1, 512))
def test_one_gpu_has_nothing_to_synchronise(theta: Theta, crosses: bool, m: int) -> None:
    assert sync_time(theta, crosses, 1) == 0.0
    assert iteration_time(theta, crosses, 1, m) == grad_time(theta, m)


def test_synchronisation_grows_from_two_gpus_by_its_slope() -> None:
    theta = Theta(0.1, 0.01, 0.5, 0.03, 0.2, 0.01, 2.0)
    assert sync_time(theta, False, 2) == pytest.approx(0.2)
    assert sync_time(theta, True, 2) == pytest.approx(0.5)
    assert sync_time(theta, False, 4) == pytest.approx(0.22)
    assert sync_time(theta, True, 12) == pytest.approx(0.8)


@given(THETAS, st.booleans(), GPUS, st.integers(1, 512), st.integers(0, 8))
def test_without_overlap_throughput_has_a_closed_form(
    theta: Theta, crosses: bool, gpus: int, m: int, accum: int
) -> None:
    theta = theta._replace(gamma=1.0)
    slope = theta.b_node if crosses else theta.b_local
    sync = ((theta.a_node if crosses else theta.a_local) + slope * (gpus - 2)) * (gpus > 1)
    seconds = (accum + 1) * (theta.a_grad + theta.b_grad * m) + sync
    expected = gpus * m * (accum + 1) / seconds
    assert throughput(theta, crosses, gpus, m, accum) == pytest.approx(expected, rel=1e-6)


def brute_force(
    theta: Theta, sqr: float, var: float, limits: BatchLimits, crosses: bool, gpus: int
) -> float:
    """Largest goodput over the candidates, from the paper's formulas alone."""
    first, largest, low, high = limits
    totals = np.geomspace(max(first, low * gpus), largest, 50)
    local = totals / gpus
    accum = np.ceil(local / high - 1e-8) - 1
    if gpus == 1:
        accum = np.where(local > first + 1e-8, np.maximum(accum, 1), accum)
    m = np.ceil(local / (accum + 1) - 1e-8)
    size = gpus * m * (accum + 1)
    compute = theta.a_grad + theta.b_grad * m
    a, b = (theta.a_node, theta.b_node) if crosses else (theta.a_local, theta.b_local)
    sync = a + b * (gpus - 2) if gpus > 1 else 0.0
    top = np.maximum(compute, sync)
    overlapped = top * ((compute / top) ** theta.gamma + (sync / top) ** theta.gamma) ** (
        1 / theta.gamma
    )
    goodput = size / (accum * compute + overlapped)
    goodput *= (var + sqr) / (var / (size / first) + sqr) / (size / first)
    return float(np.where((low <= m) & (m <= high), goodput, 0.0).max())


@given(THETAS, SQR, VAR, LIMITS, st.booleans(), GPUS)
def test_best_batch_is_the_best_of_all_candidates_and_within_the_limits(
    theta: Theta, sqr: float, var: float, limits: BatchLimits, crosses: bool, gpus: int
) -> None:
    value, m, accum = best_batch(theta, sqr, var, limits, crosses, gpus)
    assert value == pytest.approx(brute_force(theta, sqr, var, limits, crosses, gpus), rel=1e-6)
    total = gpus * m * (accum + 1)
    worth = throughput(theta, crosses, gpus, m, accum)
    worth *= efficiency(sqr, var, total / limits.init_batch_size)
    assert value == pytest.approx(worth)
    assert limits.min_local_bsz <= m <= limits.max_local_bsz
    # Rounding m up adds less than one sample on each GPU and pass.
    assert limits.init_batch_size <= total < limits.max_batch_size + gpus * (accum + 1)


@given(THETAS, LIMITS, st.booleans(), GPUS)
def test_without_gradient_noise_the_smallest_batch_is_best(
    theta: Theta, limits: BatchLimits, crosses: bool, gpus: int
) -> None:
    _, m, accum = best_batch(theta._replace(gamma=1.0), 1.0, 0.0, limits, crosses, gpus)
    smallest = max(limits.init_batch_size, limits.min_local_bsz * gpus)
    assert (m, accum) == split_batch(smallest, gpus, limits)


@given(LIMITS, st.floats(1, 256))
def test_one_gpu_accumulates_above_the_initial_batch(limits: BatchLimits, scale: float) -> None:
    total = scale * limits.init_batch_size
    m, accum = split_batch(total, 1, limits)
    assert (accum >= 1) == (total > limits.init_batch_size + 1e-8)
    assert total - 1e-6 <= m * (accum + 1) < total + accum + 1
    assert m <= limits.max_local_bsz


@given(THETAS, SQR, VAR, LIMITS)
def test_the_table_holds_the_best_goodput_of_every_allocation(
    theta: Theta, sqr: float, var: float, limits: BatchLimits
) -> None:
    table = np.full((2, 9), np.nan)
    goodput_table(theta, sqr, var, limits, 7, table)
    assert table[:, 0].tolist() == [0.0, 0.0]
    assert np.isnan(table[:, 8]).all()
    for crosses in (False, True):
        for gpus in range(1, 8):
            best, *_ = best_batch(theta, sqr, var, limits, crosses, gpus)
            assert table[int(crosses), gpus] == best
