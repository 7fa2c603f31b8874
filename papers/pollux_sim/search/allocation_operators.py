"""Pollux's operators on allocations: what a child inherits, mutation, repair, evaluation.

An allocation gives each of J jobs some GPUs on some of c nodes. Jobs hold few nodes, so a row is
stored as a short list of (node, GPUs) and one candidate costs O(J + nodes held + free nodes), not
O(J c). Source: Qiao et al. 2021, Sec. 4.2; operators and their probabilities as in the authors'
artifact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.pollux_sim.compiled import lean
from papers.pollux_sim.search.random_stream import State, below, mix, shuffle, uniform

RESET_PROBABILITY = 0.1
SELECT_PROBABILITY = 0.1
ZERO_PROBABILITY = 0.1
#: Added to every speedup so that a job without GPUs does not make the power mean zero.
SPEEDUP_FLOOR = 1e-3


class Allocations(NamedTuple):
    """n allocations of J jobs; each row is a list of at most L (node, GPUs) pairs."""

    node: NDArray[np.int16]  # (n, J, L)
    gpus: NDArray[np.int8]  # (n, J, L)
    length: NDArray[np.int16]  # (n, J)


class Problem(NamedTuple):
    """What the scheduler knows in one round; J jobs in order of priority."""

    current: Allocations  # n = 1: what the jobs hold now
    speedup: NDArray[np.float64]  # (J, 2, K_max + 1): [job, crosses nodes, GPUs]
    gpu_cap: NDArray[np.int64]  # (J,)
    realloc_factor: NDArray[np.float64]  # (J,) in [0, 1]
    num_nodes: int
    gpus_per_node: int
    power: float
    avoid_interference: bool
    #: Upstream's mask clears a node's second distributed job and every job after it; the
    #: corrected one clears only distributed jobs.
    mask_all_later_jobs: bool


class Workspace(NamedTuple):
    """One candidate under construction, dense where looked up and listed where walked."""

    gpus: NDArray[np.int8]  # (J, c), zero except where listed
    node: NDArray[np.int64]  # (J, c) nodes of a row
    length: NDArray[np.int64]  # (J,)
    used: NDArray[np.int64]  # (c,) GPUs in use
    jobs_on: NDArray[np.int64]  # (c,) jobs present
    distributed_on: NDArray[np.int64]  # (c,) distributed jobs present
    free_nodes: NDArray[np.int64]  # (c,)
    row: NDArray[np.int64]  # (c,) nodes of the row under repair
    current_hash: NDArray[np.uint64]  # (J,)


class Population(NamedTuple):
    """Slots of individuals; ``pop`` lists the living ones, ``rank`` and ``crowding`` by slot."""

    rows: Allocations
    hash: NDArray[np.uint64]
    fitness: NDArray[np.float64]
    utility: NDArray[np.float64]
    crowding: NDArray[np.float64]


@lean
def pair_hash(job: int, node: int, gpus: int) -> np.uint64:
    return mix(
        (np.uint64(job) << np.uint64(32)) | (np.uint64(node) << np.uint64(8)) | np.uint64(gpus)
    )


@lean
def put(work: Workspace, job: int, node: int, gpus: int) -> None:
    work.gpus[job, node] = gpus
    work.node[job, work.length[job]] = node
    work.length[job] += 1
    work.used[node] += gpus
    work.jobs_on[node] += 1


@lean
def load_row(work: Workspace, job: int, source: Allocations, index: int, state: State) -> None:
    """Copy one row into the workspace, zeroing elements of rows that mutation selects."""
    selected = uniform(state) < SELECT_PROBABILITY
    for entry in range(source.length[index, job]):
        if selected and uniform(state) < ZERO_PROBABILITY:
            continue
        put(work, job, source.node[index, job, entry], source.gpus[index, job, entry])


@lean
def grow(problem: Problem, work: Workspace, state: State) -> None:
    """Mutation, growth: elements on nodes with a free GPU rise to a random level.

    An empty element changes with probability 1/J, a filled one with 1/J or 1/(jobs on its node).
    Empty elements are visited by geometric jumps, so that the cost follows the hits.
    """
    num_jobs, capacity = work.length.shape[0], problem.gpus_per_node
    num_free = 0
    for node in range(problem.num_nodes):
        if work.used[node] < capacity:
            work.free_nodes[num_free] = node
            num_free += 1
    if num_free == 0:
        return
    rate = 1.0 / num_jobs
    for job in range(num_jobs):
        for entry in range(work.length[job]):
            node = work.node[job, entry]
            if work.used[node] >= capacity:
                continue
            share = 1.0 / work.jobs_on[node]
            if uniform(state) < rate + share - rate * share:
                held = work.gpus[job, node]
                work.gpus[job, node] = held + below(state, capacity - held + 1)
    # Filled elements stay filled and were handled above, so a hit on one is passed over. `used`
    # and `jobs_on` are not read again before repair counts anew, so they may go stale here.
    jump = 0.0 if num_jobs == 1 else 1.0 / np.log1p(-rate)
    position, total = 0, num_free * num_jobs
    while True:
        if num_jobs > 1:
            step = np.log(1.0 - uniform(state)) * jump
            if step >= total - position:
                return
            position += int(step)
        if position >= total:
            return
        node, job = work.free_nodes[position // num_jobs], position % num_jobs
        position += 1
        if work.gpus[job, node] == 0:
            gpus = below(state, capacity + 1)
            if gpus > 0:
                work.gpus[job, node] = gpus
                work.node[job, work.length[job]] = node
                work.length[job] += 1


@lean
def repair_and_store(
    problem: Problem, work: Workspace, population: Population, slot: int, state: State
) -> None:
    """Make the workspace's candidate feasible, evaluate it, store it in ``slot``, clear up.

    Jobs are walked once in order of priority. On each node: at most one distributed job; per job:
    its GPU cap and the largest number of nodes, reached in random node order; then the node's
    GPUs, first come first served.
    """
    rows = population.rows
    num_jobs, most_nodes = work.length.shape[0], rows.node.shape[2]
    work.used[:] = 0
    work.distributed_on[:] = 0
    total_hash = np.uint64(0)
    power_sum, speedup_sum, active_nodes = 0.0, 0.0, 0
    for job in range(num_jobs):
        listed = work.length[job]
        distributed = listed > 1
        kept, wanted = 0, 0
        for entry in range(listed):
            node = work.node[job, entry]
            if problem.avoid_interference:
                if distributed:
                    work.distributed_on[node] += 1
                if work.distributed_on[node] > 1 and (distributed or problem.mask_all_later_jobs):
                    work.gpus[job, node] = 0
                    continue
            work.row[kept] = node
            kept += 1
            wanted += work.gpus[job, node]
        cap = problem.gpu_cap[job]
        if wanted > cap or kept > most_nodes:
            shuffle(state, work.row, kept)
        stored, held, taken = 0, 0, 0
        row_hash = np.uint64(0)
        for entry in range(kept):
            node = work.row[entry]
            gpus = min(work.gpus[job, node], cap - held)
            if gpus <= 0 or taken == most_nodes:
                break
            held += gpus
            taken += 1
            gpus = min(gpus, problem.gpus_per_node - work.used[node])
            if gpus <= 0:
                continue
            if work.used[node] == 0:
                active_nodes += 1
            work.used[node] += gpus
            rows.node[slot, job, stored] = node
            rows.gpus[slot, job, stored] = gpus
            stored += 1
            row_hash += pair_hash(job, node, gpus)
        rows.length[slot, job] = stored
        total_hash += row_hash
        held = 0
        for entry in range(stored):
            held += rows.gpus[slot, job, entry]
        speedup = problem.speedup[job, 1 if stored > 1 else 0, held]
        speedup_sum += speedup
        if row_hash != work.current_hash[job]:
            speedup *= problem.realloc_factor[job]
        # A speedup of 1 is scaled to one node's share of the cluster (artifact).
        scaled = speedup / problem.gpus_per_node
        if problem.power == 0.0:
            power_sum += np.log(max(scaled, SPEEDUP_FLOOR))
        elif problem.power == -1.0:
            power_sum += 1.0 / (scaled + SPEEDUP_FLOOR)
        else:
            power_sum += (scaled + SPEEDUP_FLOOR) ** problem.power
        for entry in range(listed):
            work.gpus[job, work.node[job, entry]] = 0
        work.length[job] = 0
    mean = power_sum / num_jobs
    if problem.power == 0.0:
        population.fitness[slot] = np.exp(mean)
    else:
        population.fitness[slot] = mean ** (1.0 / problem.power)
    gpus_there = active_nodes * problem.gpus_per_node
    population.utility[slot] = speedup_sum / gpus_there if gpus_there else 0.0
    population.hash[slot] = total_hash
    work.used[:] = 0
    work.jobs_on[:] = 0
