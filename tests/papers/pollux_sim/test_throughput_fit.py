"""The online fit: exact gradient, recovery of a known model, optimistic priors, SciPy as a peer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from papers.pollux_sim.models.goodput import (
    BatchLimits,
    Theta,
    goodput_table,
    grad_time,
    iteration_time,
)
from papers.pollux_sim.models.throughput_fit import (
    GAMMA_PENALTY,
    LOWEST,
    MAX_GAMMA,
    RETROGRESSION_PENALTY,
    START,
    fit,
    loss_and_gradient,
)

Array = NDArray[np.float64]
KNOWN = Theta(0.05, 0.002, 0.3, 0.004, 0.08, 0.001, 1.5)
GRID = [
    (nodes, gpus, m)
    for nodes in (1, 2, 4)
    for gpus in range(nodes, 4 * nodes + 1)
    for m in (16, 32, 64, 128)
]


def observed(theta: Theta, grid: list[tuple[int, int, int]]) -> Array:
    """Rows of the fit, timed without noise."""
    return np.array(
        [
            (n, k, m, np.log(grad_time(theta, m)), np.log(iteration_time(theta, n > 1, k, m)))
            for n, k, m in grid
        ]
    )


def noisy(seed: int, sigma: float = 0.1) -> Array:
    """Rows of a random model with log-normal noise on both times."""
    rng = np.random.default_rng(seed)
    theta = Theta(*(np.array(KNOWN) * rng.lognormal(size=7)).tolist())
    rows = observed(theta._replace(gamma=rng.uniform(1, 4)), GRID)
    rows[:, 3:] += rng.normal(scale=sigma, size=(len(rows), 2))
    return rows


def data_loss(theta: Theta, rows: Array) -> float:
    """The loss without its penalties: how far the predictions are from the data."""
    loss, _ = loss_and_gradient(np.array(theta), rows)
    ratios = (theta.b_node / theta.a_node) ** 2 + (theta.b_local / theta.a_local) ** 2
    return float(loss - GAMMA_PENALTY * (theta.gamma - 1) ** 2 - RETROGRESSION_PENALTY * ratios)


def loss_in_torch(theta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The loss as the paper and its artifact state it, in plain powers."""
    a_grad, b_grad, a_node, b_node, a_local, b_local, gamma = theta
    nodes, gpus, m, log_grad, log_iter = rows.T
    grad = a_grad + b_grad * m
    across, within = a_node + b_node * (gpus - 2), a_local + b_local * (gpus - 2)
    sync = torch.where(nodes > 1, across, within)
    together = (grad**gamma + sync.clamp(min=1e-300) ** gamma) ** (1 / gamma)
    seconds = torch.where(gpus > 1, together, grad)
    rmse = ((grad.log() - log_grad) ** 2).mean().sqrt()
    rmse = rmse + ((seconds.log() - log_iter) ** 2).mean().sqrt()
    penalty = 1e-3 * (gamma - 1) ** 2 + 1e-2 * ((b_node / a_node) ** 2 + (b_local / a_local) ** 2)
    loss: torch.Tensor = rmse + penalty
    return loss


@pytest.mark.parametrize("seed", range(20))
def test_loss_and_gradient_are_those_of_automatic_differentiation(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    rows = noisy(seed)
    theta = START * rng.lognormal(size=7)
    theta[6] = rng.uniform(1, MAX_GAMMA)
    loss, gradient = loss_and_gradient(theta, rows)
    point = torch.tensor(theta, requires_grad=True)
    expected = loss_in_torch(point, torch.tensor(rows))
    expected.backward()  # type: ignore[no-untyped-call]
    assert point.grad is not None
    assert loss == pytest.approx(expected.item(), rel=1e-7)
    np.testing.assert_allclose(gradient, point.grad.numpy(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_is_that_of_finite_differences(seed: int) -> None:
    rows = noisy(seed)
    theta = START * np.random.default_rng(seed).lognormal(size=7)
    theta[6] = 1.0 + seed
    _, gradient = loss_and_gradient(theta, rows)
    for index in range(7):
        width = np.zeros(7)
        width[index] = 1e-6 * theta[index]
        rise = loss_and_gradient(theta + width, rows)[0] - loss_and_gradient(theta - width, rows)[0]
        assert gradient[index] == pytest.approx(rise / (2 * width[index]), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("gamma", [1.0, MAX_GAMMA])
@pytest.mark.parametrize("sync", [LOWEST, 1e8])
def test_gradient_stays_finite_when_one_term_is_negligible(sync: float, gamma: float) -> None:
    theta = np.array([0.1, 0.01, sync, LOWEST, sync, LOWEST, gamma])
    loss, gradient = loss_and_gradient(theta, noisy(0))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_noise_free_timings_give_the_model_back() -> None:
    rows = observed(KNOWN, GRID)
    theta = fit(rows)
    assert data_loss(theta, rows) < 1e-4
    np.testing.assert_allclose(theta, KNOWN, rtol=1e-3)
    unseen = [(n, k, m) for n, k in ((1, 3), (2, 5), (3, 9), (4, 16)) for m in (24, 90, 128)]
    for nodes, gpus, m in unseen:
        truth = iteration_time(KNOWN, nodes > 1, gpus, m)
        assert iteration_time(theta, nodes > 1, gpus, m) == pytest.approx(truth, rel=0.01)


def test_a_job_that_ran_once_on_one_gpu_believes_that_it_scales_perfectly() -> None:
    rows = np.array([[1, 1, 64, np.log(0.4), np.log(0.4)]])
    theta = fit(rows)
    assert theta.a_grad == pytest.approx(0.2)
    assert grad_time(theta, 64) == pytest.approx(0.4, rel=1e-3)
    for gpus in range(2, 17):
        for crosses in (False, True):
            assert iteration_time(theta, crosses, gpus, 64) == pytest.approx(0.4, rel=1e-3)
    # Where every sample counts and every GPU can be filled, goodput is proportional to K.
    table = np.zeros((2, 17))
    goodput_table(theta, 0.0, 1.0, BatchLimits(64, 1 << 20, 16, 64), 16, table)
    for row in table:
        np.testing.assert_allclose(row[1:], row[1] * np.arange(1, 17), rtol=0.02)


def test_a_job_that_never_left_its_node_expects_worse_across_nodes() -> None:
    theta = fit(observed(KNOWN, [row for row in GRID if row[0] == 1]))
    assert theta.a_local > 10 * LOWEST
    assert theta.a_node == pytest.approx(1.1 * theta.a_local)
    assert theta.b_node == pytest.approx(1.1 * theta.b_local)


def test_what_was_never_seen_is_believed_to_be_free() -> None:
    spread_only = fit(observed(KNOWN, [row for row in GRID if row[0] > 1]))
    assert (spread_only.a_local, spread_only.b_local) == (LOWEST, LOWEST)
    assert spread_only.a_node == pytest.approx(KNOWN.a_node, rel=0.1)
    pairs_only = fit(observed(KNOWN, [row for row in GRID if row[1] <= 2]))
    assert (pairs_only.b_node, pairs_only.b_local) == (LOWEST, LOWEST)


def test_the_fit_is_no_worse_than_scipy_with_numerical_gradients() -> None:
    # The loss has several minima and the two paths may part, either way: hence many draws.
    ratios = []
    for seed in range(20):
        rows = noisy(seed)
        peer = minimize(
            lambda theta, rows=rows: loss_and_gradient(theta, rows)[0],
            START,
            method="L-BFGS-B",
            bounds=[(LOWEST, None)] * 6 + [(1.0, MAX_GAMMA)],
        )
        ratios.append(loss_and_gradient(np.array(fit(rows)), rows)[0] / peer.fun)
    assert np.median(ratios) <= 1 + 1e-6
    assert np.mean(ratios) <= 1.002
    assert max(ratios) <= 1.05
