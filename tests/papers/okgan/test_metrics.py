"""Facts of the metrics: values by hand, sampling floors, Gaussians whose divergence is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import InputError
from papers.okgan.metrics.modes import balance_of_circle, balance_over_modes, reverse_kl
from papers.okgan.metrics.neighbours import neighbour_kl
from papers.okgan.metrics.trajectory import describe_path

GRID = np.stack(np.meshgrid(*[np.linspace(-4, 4, 5)] * 2), axis=-1).reshape(-1, 2)


def test_a_perfect_sampler_is_at_the_sampling_floor() -> None:
    """``(K - 1) / (2n)``, a mean over draws; nearly all within three deviations of a plane."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(100):
        modes = rng.integers(25, size=2500)
        found.append(balance_over_modes(GRID[modes] + rng.normal(0, 0.05, (2500, 2)), GRID, 0.05))
    assert all(each.modes == 25 for each in found)
    assert np.mean([each.reverse_kl_all for each in found]) == pytest.approx(24 / 5000, rel=0.1)
    # 1 - exp(-9/2) of a plane normal distribution.
    assert np.mean([each.high_quality for each in found]) == pytest.approx(0.98889, abs=1e-3)


def test_one_mode_alone_is_as_far_as_can_be() -> None:
    found = balance_over_modes(np.zeros((10, 2)), GRID, 0.05)
    assert found.modes == 1
    assert found.high_quality == 1
    assert found.reverse_kl == pytest.approx(math.log(25))


def test_samples_between_modes_count_for_the_balance_of_all_alone() -> None:
    between = np.array([[0.9, 0.0]] * 5 + [[0.0, 0.0]] * 5)
    found = balance_over_modes(between, np.array([[0.0, 0.0], [2.0, 0.0]]), 0.05)
    assert found.high_quality == 0.5
    assert found.reverse_kl == found.reverse_kl_all == pytest.approx(math.log(2))
    far = balance_over_modes(np.array([[1.5, 0.0], [0.0, 0.0]]), np.array([[0.0, 0], [2, 0]]), 0.05)
    assert far.reverse_kl == pytest.approx(math.log(2))
    assert far.reverse_kl_all == 0
    nothing = balance_over_modes(np.ones((3, 2)), np.array([[0.0, 0], [2, 0]]), 0.05)
    assert nothing.high_quality == 0
    assert nothing.reverse_kl == pytest.approx(math.log(2))  # the worst there is


def test_shares_need_not_be_equal() -> None:
    assert reverse_kl(np.array([3, 1]), np.array([0.75, 0.25])) == 0
    assert reverse_kl(np.array([1, 1]), np.array([0.75, 0.25])) == pytest.approx(
        0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(2)
    )


def test_the_circle_has_two_cells() -> None:
    ring = np.array([[2.0, 0.0]] * 97 + [[0.0, 0.0]] * 3)
    found, captured = balance_of_circle(ring, 2.0, 0.05, 0.03)
    assert captured
    assert found.high_quality == 1
    assert found.reverse_kl == pytest.approx(0, abs=1e-12)
    found, captured = balance_of_circle(ring[:97], 2.0, 0.05, 0.03)
    assert not captured
    assert found.reverse_kl == pytest.approx(-math.log(0.97))


def test_the_divergence_of_two_gaussians_is_found() -> None:
    """``KL(N(m, 1) || N(0, s^2)) = ln s + (1 + m^2) / (2 s^2) - 1/2`` for each axis."""
    rng = np.random.default_rng(1)
    p, q = rng.normal(0.5, 1, (5000, 2)), rng.normal(0, 1.5, (5000, 2))
    exact = 2 * (math.log(1.5) + (1 + 0.25) / (2 * 1.5**2) - 0.5)
    assert neighbour_kl(p, q) == pytest.approx(exact, abs=0.05)
    assert neighbour_kl(p, rng.normal(0.5, 1, (5000, 2))) == pytest.approx(0, abs=0.03)
    with pytest.raises(InputError, match="p has 10 points; allowed: above 10"):
        neighbour_kl(p[:10], q)
    with pytest.raises(InputError, match="points or more are equal"):
        neighbour_kl(np.concatenate([q, np.zeros((1, 2))]), np.zeros((20, 2)))


def test_equal_points_are_as_far_apart_as_single_precision_tells() -> None:
    rng = np.random.default_rng(2)
    p, q = rng.normal(0, 1, (2000, 2)), rng.normal(0, 1, (2000, 2))
    p[:40] = p[0]
    clumped = neighbour_kl(p, q)
    assert 40 / 2000 * 2 * 10 < clumped < 40 / 2000 * 2 * 16.5  # 16.1 is -ln of the precision
    assert 20 < neighbour_kl(np.zeros((20, 2)), q) < 40


def test_samples_that_are_not_finite_say_that_the_generator_diverged() -> None:
    with pytest.raises(InputError, match="1 of 2 are not finite: the generator has diverged"):
        balance_over_modes(np.array([[0.0, np.nan], [0, 0]]), GRID, 0.05)
    with pytest.raises(InputError, match="samples: none"):
        balance_over_modes(np.zeros((0, 2)), GRID, 0.05)


def test_a_circling_discriminator_is_told_from_a_jittering_one() -> None:
    rng = np.random.default_rng(2)
    directions = np.linalg.qr(rng.normal(size=(50, 2)))[0].T
    angles = np.linspace(0, 3 * 2 * np.pi, 200, endpoint=False)
    circling = describe_path(np.stack([np.cos(angles), np.sin(angles)], 1) @ directions)
    assert circling.planarity == pytest.approx(1)
    assert circling.turns == pytest.approx(3, abs=0.05)
    assert circling.revisits > 50
    jitter = describe_path(rng.normal(size=(200, 50)))
    assert jitter.planarity < 0.2
    assert jitter.swing < 0.6


def test_a_path_that_stands_still_is_of_no_plane() -> None:
    still = describe_path(np.ones((10, 5)))
    assert (still.planarity, still.swing, still.turns) == (0, 0, 0)
    with pytest.raises(InputError, match="values are not finite"):
        describe_path(np.full((10, 5), np.nan))


def test_shares_are_above_zero() -> None:
    for bad in (0.0, np.nan):
        with pytest.raises(InputError, match="allowed: above 0"):
            reverse_kl(np.array([1, 1]), np.array([1.0, bad]))
