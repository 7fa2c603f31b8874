"""Goodput = throughput x statistical efficiency, and the batch size that maximises it.

Symbols as in the paper: K GPUs of a job on N nodes, m samples per GPU and forward pass, s extra
accumulation passes, total batch M = K m (s+1), initial batch M0. Source: Qiao et al. 2021, Sec. 3.

Everything here is compiled: one scheduling round evaluates thousands of candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from papers.pollux_sim import compiled  # noqa: F401  (where compiled code is kept)

#: Candidate total batch sizes tried per allocation, geometrically spaced (artifact).
NUM_CANDIDATES = 50
#: Tolerance of the ceilings below: 3.0000000001 samples are 3.
EPS = 1e-8


class BatchLimits(NamedTuple):
    """Limits on a job's batch: M0, largest total batch, smallest and largest m."""

    init_batch_size: int
    max_batch_size: int
    min_local_bsz: int
    max_local_bsz: int


class Theta(NamedTuple):
    """Parameters of the throughput model, seconds (per sample for b_grad). Sec. 3.2."""

    a_grad: float
    b_grad: float
    a_node: float
    b_node: float
    a_local: float
    b_local: float
    gamma: float


@njit(cache=True)
def grad_time(theta: Theta, local_bsz: float) -> float:
    """T_grad(m): seconds of one forward and backward pass of m samples."""
    return theta.a_grad + theta.b_grad * local_bsz


@njit(cache=True)
def sync_time(theta: Theta, crosses_nodes: bool, num_gpus: int) -> float:
    """T_sync(N, K): seconds of gradient synchronisation, 0 for one GPU."""
    if num_gpus <= 1:
        return 0.0
    more = max(num_gpus - 2, 1e-8)
    if crosses_nodes:
        return theta.a_node + theta.b_node * more
    return theta.a_local + theta.b_local * more


@njit(cache=True)
def iteration_time(theta: Theta, crosses_nodes: bool, num_gpus: int, local_bsz: float) -> float:
    """T_iter(m, 0): gamma-norm of T_grad and T_sync, from their sum (1) to nearly their maximum."""
    compute = grad_time(theta, local_bsz)
    sync = sync_time(theta, crosses_nodes, num_gpus)
    larger, smaller = max(compute, sync), min(compute, sync)
    if smaller <= 0.0:
        return larger
    norm: float = (1.0 + (smaller / larger) ** theta.gamma) ** (1.0 / theta.gamma)
    return larger * norm


@njit(cache=True)
def throughput(
    theta: Theta, crosses_nodes: bool, num_gpus: int, local_bsz: int, accum_steps: int
) -> float:
    """Samples per second of K GPUs at batch m with s accumulation passes."""
    seconds = iteration_time(theta, crosses_nodes, num_gpus, local_bsz)
    seconds += accum_steps * grad_time(theta, local_bsz)
    return num_gpus * local_bsz * (accum_steps + 1) / seconds


@njit(cache=True)
def gain(grad_sqr: float, grad_var: float, scale: float) -> float:
    """Iterations at M0 that one step at M = scale * M0 is worth (AdaScale's gain).

    grad_sqr, grad_var: squared norm of the gradient, trace of its covariance at M0.
    """
    denominator = grad_var / scale + grad_sqr
    if denominator <= 0.0:
        return 1.0
    return (grad_var + grad_sqr) / denominator


@njit(cache=True)
def efficiency(grad_sqr: float, grad_var: float, scale: float) -> float:
    """EFFICIENCY(M) = (phi + M0) / (phi + M) in (0, 1], M = scale * M0. Sec. 3.1."""
    return gain(grad_sqr, grad_var, scale) / scale


@njit(cache=True)
def split_batch(batch_size: float, num_gpus: int, limits: BatchLimits) -> tuple[int, int]:
    """(m, s) that bring a total batch onto K GPUs.

    One GPU with M > M0 accumulates at least once: a single micro-batch gives no gradient variance.
    """
    local = batch_size / num_gpus
    accum = max(int(np.ceil(local / limits.max_local_bsz - EPS)) - 1, 0)
    if num_gpus == 1 and local > limits.init_batch_size + EPS:
        accum = max(accum, 1)
    return int(np.ceil(local / (accum + 1) - EPS)), accum


@njit(cache=True)
def best_batch(
    theta: Theta,
    grad_sqr: float,
    grad_var: float,
    limits: BatchLimits,
    crosses_nodes: bool,
    num_gpus: int,
) -> tuple[float, int, int]:
    """(goodput in samples/s, m, s) of the best total batch on an allocation. Sec. 4.1."""
    low = max(limits.init_batch_size, limits.min_local_bsz * num_gpus)
    ratio = np.log(limits.max_batch_size / low) / (NUM_CANDIDATES - 1)
    best, best_local, best_accum = -1.0, 0, 0
    last_local, last_accum = -1, -1
    for index in range(NUM_CANDIDATES):
        total = low * np.exp(index * ratio)
        if index == NUM_CANDIDATES - 1:
            total = float(limits.max_batch_size)
        local, accum = split_batch(total, num_gpus, limits)
        if local == last_local and accum == last_accum:
            continue
        last_local, last_accum = local, accum
        value = 0.0
        if limits.min_local_bsz <= local <= limits.max_local_bsz:
            scale = num_gpus * local * (accum + 1) / limits.init_batch_size
            value = throughput(theta, crosses_nodes, num_gpus, local, accum)
            value *= efficiency(grad_sqr, grad_var, scale)
        if value > best:
            best, best_local, best_accum = value, local, accum
    return best, best_local, best_accum


@njit(cache=True)
def goodput_table(
    theta: Theta,
    grad_sqr: float,
    grad_var: float,
    limits: BatchLimits,
    max_gpus: int,
    table: NDArray[np.float64],
) -> None:
    """Fill ``table[crosses_nodes, K]`` with the best goodput (samples/s) for K = 0 .. max_gpus."""
    table[0, 0] = 0.0
    table[1, 0] = 0.0
    for num_gpus in range(1, max_gpus + 1):
        table[0, num_gpus] = best_batch(theta, grad_sqr, grad_var, limits, False, num_gpus)[0]
        table[1, num_gpus] = best_batch(theta, grad_sqr, grad_var, limits, True, num_gpus)[0]
