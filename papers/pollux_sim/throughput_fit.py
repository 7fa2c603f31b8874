"""Fits the throughput model to a job's own measurements, with prior-driven exploration.

Source: Qiao et al. 2021, Sec. 3.2 and 4.1; loss, penalties and bounds as in the authors' artifact.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import minimize

from papers.pollux_sim.goodput import Theta

START = np.array([0.1, 0.01, 0.1, 0.01, 0.1, 0.01, 1.001])
LOWEST = 1e-8
MAX_GAMMA = 10.0
#: Weights of the two penalties: small gamma, and optimism about retrogression (artifact).
GAMMA_PENALTY = 1e-3
RETROGRESSION_PENALTY = 1e-2


@njit(cache=True)
def loss_and_gradient(
    theta: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Loss of the throughput model and its exact gradient.

    RMSE of log T_grad + RMSE of log T_iter + penalties on gamma and on b/a.

    Args:
        theta: (7,) parameters in the order of :class:`~papers.pollux_sim.goodput.Theta`.
        rows: (n, 5) one observation a row: N, K, m, log T_grad, log T_iter (seconds).

    Returns:
        (loss, (7,) gradient).
    """
    a_node, b_node, a_local, b_local, gamma = theta[2], theta[3], theta[4], theta[5], theta[6]
    count = rows.shape[0]
    grad_square, iter_square = 0.0, 0.0
    from_grad, from_iter = np.zeros(7), np.zeros(7)
    for row in range(count):
        num_nodes, num_gpus, local_bsz = rows[row, 0], rows[row, 1], rows[row, 2]
        compute = theta[0] + theta[1] * local_bsz
        log_compute = np.log(compute)
        error = log_compute - rows[row, 3]
        grad_square += error * error
        from_grad[0] += error / compute
        from_grad[1] += error * local_bsz / compute
        if num_gpus <= 1:
            error = log_compute - rows[row, 4]
            iter_square += error * error
            from_iter[0] += error / compute
            from_iter[1] += error * local_bsz / compute
            continue
        more = max(num_gpus - 2.0, 1e-8)
        first = 2 if num_nodes > 1 else 4
        sync = a_node + b_node * more if num_nodes > 1 else a_local + b_local * more
        log_sync = np.log(sync)
        # log of the gamma-norm, and the weight of T_grad in it, without over- or underflow.
        gap = gamma * (log_sync - log_compute)
        log_sum = gamma * max(log_compute, log_sync) + np.log1p(np.exp(-abs(gap)))
        weight = 1.0 / (1.0 + np.exp(gap)) if gap < 700 else 0.0
        error = log_sum / gamma - rows[row, 4]
        iter_square += error * error
        from_iter[0] += error * weight / compute
        from_iter[1] += error * weight * local_bsz / compute
        from_iter[first] += error * (1.0 - weight) / sync
        from_iter[first + 1] += error * (1.0 - weight) * more / sync
        mean_log = weight * log_compute + (1.0 - weight) * log_sync
        from_iter[6] += error * (mean_log - log_sum / gamma) / gamma
    grad_rmse, iter_rmse = np.sqrt(grad_square / count), np.sqrt(iter_square / count)
    gradient = np.zeros(7)
    if grad_rmse > 0.0:
        gradient += from_grad / (count * grad_rmse)
    if iter_rmse > 0.0:
        gradient += from_iter / (count * iter_rmse)
    node_ratio, local_ratio = b_node / a_node, b_local / a_local
    gradient[2] -= 2 * RETROGRESSION_PENALTY * node_ratio**2 / a_node
    gradient[3] += 2 * RETROGRESSION_PENALTY * node_ratio / a_node
    gradient[4] -= 2 * RETROGRESSION_PENALTY * local_ratio**2 / a_local
    gradient[5] += 2 * RETROGRESSION_PENALTY * local_ratio / a_local
    gradient[6] += 2 * GAMMA_PENALTY * (gamma - 1.0)
    loss = grad_rmse + iter_rmse + GAMMA_PENALTY * (gamma - 1.0) ** 2
    return loss + RETROGRESSION_PENALTY * (node_ratio**2 + local_ratio**2), gradient


def fit(rows: NDArray[np.float64]) -> Theta:
    """Theta of a job from what it has measured so far.

    What the data cannot tell is fixed by optimistic priors, so that a job which never left one
    GPU (or one node) is believed to scale perfectly and gets explored.

    Args:
        rows: (n, 5), n >= 1: N, K, m, log T_grad, log T_iter (seconds) of each configuration.
    """
    num_nodes, num_gpus, local_bsz = rows[:, 0], rows[:, 1], rows[:, 2]
    lower = np.array([LOWEST] * 6 + [1.0])
    upper = np.array([np.inf] * 6 + [MAX_GAMMA])
    if local_bsz.min() == local_bsz.max():
        lower[0] = upper[0] = np.exp(rows[:, 3]).mean() / 2
    seen_across = bool((num_nodes > 1).any())
    if not seen_across:
        upper[2:4] = LOWEST
    if not ((num_nodes == 1) & (num_gpus > 1)).any():
        upper[4:6] = LOWEST
    if not (num_gpus > 2).any():
        upper[[3, 5]] = LOWEST
    # The last iterate is taken even where the optimiser gives up (as the artifact does): the loss
    # has a kink wherever a term is fitted exactly, and a line search may end on it.
    theta = minimise(np.clip(START, lower, upper), rows, lower, upper)
    if not seen_across:
        theta[2] = max(theta[2], 1.1 * theta[4])
        theta[3] = max(theta[3], 1.1 * theta[5])
    return Theta(*theta.tolist())


def minimise(
    start: NDArray[np.float64],
    rows: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Local minimum of the loss from ``start`` within bounds; equal bounds fix a parameter."""
    result = minimize(
        loss_and_gradient,
        start,
        args=(rows,),
        jac=True,
        method="L-BFGS-B",
        bounds=np.column_stack([lower, upper]),
    )
    return np.asarray(result.x, dtype=np.float64)
