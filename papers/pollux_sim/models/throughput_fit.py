"""Fits the throughput model to a job's own measurements, with prior-driven exploration.

Source: Qiao et al. 2021, Sec. 3.2 and 4.1; loss, penalties and bounds as in the authors' artifact.

The artifact minimises with SciPy's L-BFGS-B. A job refits whenever it meets a new configuration,
some two thousand times in a workload, so the optimiser's own overhead counts: here it is a compiled
BFGS in the logarithms of the six times, which are then free of bounds and well scaled.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from papers.pollux_sim.models.goodput import Theta

START = np.array([0.1, 0.01, 0.1, 0.01, 0.1, 0.01, 1.001])
LOWEST = 1e-8
MAX_GAMMA = 10.0
#: Weights of the two penalties: small gamma, and optimism about retrogression (artifact).
GAMMA_PENALTY = 1e-3
RETROGRESSION_PENALTY = 1e-2

MAX_ITERATIONS = 200
#: Stop when an iteration lowers the loss by less than this share.
TOLERANCE = 1e-9
#: Longest step in one logarithm: a factor of about 150.
MAX_LOG_STEP = 5.0
NUM_TIMES = 6

Vector = NDArray[np.float64]
_kernel = njit(cache=True, error_model="numpy")


@_kernel
def loss_and_gradient(
    theta: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Loss of the throughput model and its exact gradient.

    RMSE of log T_grad + RMSE of log T_iter + penalties on gamma and on b/a.

    Args:
        theta: (7,) parameters in the order of :class:`~papers.pollux_sim.models.goodput.Theta`.
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
    theta = minimise(np.clip(START, lower, upper), rows, lower, upper)
    if not seen_across:
        theta[2] = max(theta[2], 1.1 * theta[4])
        theta[3] = max(theta[3], 1.1 * theta[5])
    return Theta(*theta.tolist())


@_kernel
def _evaluate(point: Vector, rows: NDArray[np.float64]) -> tuple[float, Vector]:
    """Loss and gradient where the times are given by their logarithms."""
    theta = point.copy()
    theta[:NUM_TIMES] = np.exp(point[:NUM_TIMES])
    loss, gradient = loss_and_gradient(theta, rows)
    gradient[:NUM_TIMES] *= theta[:NUM_TIMES]
    return loss, gradient


@_kernel
def _free(point: Vector, gradient: Vector, lower: Vector, upper: Vector) -> Vector:
    """1 where a parameter may move downhill, 0 where it is fixed or held by a bound."""
    free = np.ones_like(point)
    for index in range(point.shape[0]):
        at_lower = point[index] <= lower[index] and gradient[index] > 0
        at_upper = point[index] >= upper[index] and gradient[index] < 0
        if at_lower or at_upper or lower[index] == upper[index]:
            free[index] = 0.0
    return free


@_kernel
def minimise(start: Vector, rows: NDArray[np.float64], lower: Vector, upper: Vector) -> Vector:
    """Local minimum of the loss from ``start``.

    The loss has kinks where one of its terms vanishes; a weak Wolfe line search survives them
    (Lewis and Overton 2013).

    Args:
        start: (7,) within the bounds.
        rows: (n, 5) observations, as :func:`loss_and_gradient` takes them.
        lower, upper: (7,) bounds; equal bounds fix a parameter.
    """
    size = start.shape[0]
    point, low, high = start.copy(), lower.copy(), upper.copy()
    for bound in (point, low, high):
        bound[:NUM_TIMES] = np.log(bound[:NUM_TIMES])
    loss, gradient = _evaluate(point, rows)
    inverse = np.eye(size)
    steepest = True
    for _iteration in range(MAX_ITERATIONS):
        free = _free(point, gradient, low, high)
        direction = -free * (inverse @ (free * gradient))
        slope = np.dot(direction, gradient)
        if slope >= 0.0:
            inverse, steepest = np.eye(size), True
            direction = -free * gradient
            slope = np.dot(direction, gradient)
            if slope == 0.0:
                break
        longest = np.max(np.abs(direction))
        step = min(1.0, MAX_LOG_STEP / longest)
        if steepest:
            step = min(step, 1.0 / np.sqrt(-slope))
        # Weak Wolfe conditions by bisection and doubling.
        shortest, too_long = 0.0, np.inf
        target, target_loss, target_gradient = point, loss, gradient
        for _trial in range(30):
            trial = np.minimum(np.maximum(point + step * direction, low), high)
            trial_loss, trial_gradient = _evaluate(trial, rows)
            if not trial_loss <= loss + 1e-4 * step * slope:
                too_long = step
            else:
                shortest = step
                target, target_loss, target_gradient = trial, trial_loss, trial_gradient
                inside = (trial > low) & (trial < high)
                if np.dot(trial_gradient * inside, direction) >= 0.9 * slope:
                    break
                if step * longest >= MAX_LOG_STEP:
                    break
            step = 0.5 * (shortest + too_long) if too_long < np.inf else 2.0 * step
        if shortest == 0.0:
            if steepest:
                break
            inverse, steepest = np.eye(size), True
            continue
        moved, turned = target - point, target_gradient - gradient
        gained = loss - target_loss
        point, loss, gradient = target, target_loss, target_gradient
        curvature = np.dot(moved, turned)
        if curvature > 0.0:
            if steepest:
                inverse = np.eye(size) * (curvature / np.dot(turned, turned))
                steepest = False
            turn = inverse @ turned
            weight = (1.0 + np.dot(turned, turn) / curvature) / curvature
            inverse += weight * np.outer(moved, moved)
            inverse -= (np.outer(turn, moved) + np.outer(moved, turn)) / curvature
        if gained <= TOLERANCE * max(loss, 1e-3):
            break
    point[:NUM_TIMES] = np.exp(point[:NUM_TIMES])
    return np.minimum(np.maximum(point, lower), upper)
