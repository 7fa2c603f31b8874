"""PolluxSched's search over allocations: NSGA-II with Pollux's own operators, compiled.

Two objectives are maximised: FITNESS_p, the power mean of the jobs' speedups, and UTILITY, speedup
per GPU of the occupied nodes, which only keeps the population diverse; the fittest member of the
final first front is the allocation used. Source: Qiao et al. 2021, Sec. 4.2.

Two rows or allocations are taken as equal when their 64-bit hashes are: within one search (about
1e4 allocations) the chance of a false match is below 1e-11.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.pollux_sim.compiled import compiled, lean
from papers.pollux_sim.search.allocation_operators import (
    RESET_PROBABILITY,
    Allocations,
    Population,
    Problem,
    Workspace,
    grow,
    load_row,
    pair_hash,
    put,
    repair_and_store,
)
from papers.pollux_sim.search.nsga2 import select_parents, survive
from papers.pollux_sim.search.random_stream import State, below, seeded, uniform

CROSSOVER_PROBABILITY = 0.9
#: Repeats of the mating step that look for children not seen before.
MATING_ATTEMPTS = 101


class Front(NamedTuple):
    """Final first front of a search, its objectives, and the index of the fittest member."""

    allocations: Allocations
    fitness: NDArray[np.float64]
    utility: NDArray[np.float64]
    best: int
    evaluations: int


@lean
def add_unseen(seen: NDArray[np.uint64], value: np.uint64) -> bool:
    """Insert into an open-addressing set (zero marks a free place); False if it was there."""
    last = np.uint64(seen.shape[0] - 1)
    value |= np.uint64(1)
    place = (value >> np.uint64(20)) & last
    while seen[place] != 0:
        if seen[place] == value:
            return False
        place = (place + np.uint64(1)) & last
    seen[place] = value
    return True


@lean
def _child(
    problem: Problem,
    work: Workspace,
    population: Population,
    head: int,
    tail: int,
    cut: int,
    slot: int,
    state: State,
) -> None:
    """Rows 0..cut-1 of ``head`` and the rest of ``tail``; mutated, repaired, stored in ``slot``."""
    for job in range(work.length.shape[0]):
        if uniform(state) < RESET_PROBABILITY:
            load_row(work, job, problem.current, 0, state)
        else:
            load_row(work, job, population.rows, head if job < cut else tail, state)
    grow(problem, work, state)
    repair_and_store(problem, work, population, slot, state)


@compiled
def _mate(
    problem: Problem,
    work: Workspace,
    population: Population,
    slots: NDArray[np.int64],
    count: int,
    size: int,
    state: State,
) -> tuple[int, int]:
    """Append up to ``size`` new children after the ``count`` living slots.

    Returns (children kept, candidates evaluated).
    """
    num_jobs = work.length.shape[0]
    parents = np.empty(size + 2, np.int64)
    # A power of two, at most a quarter full: the living and their children.
    seen = np.zeros(1 << int(np.ceil(np.log2(8 * size))), np.uint64)
    for place in range(count):
        add_unseen(seen, population.hash[slots[place]])
    children, evaluated = 0, 0
    for _attempt in range(MATING_ATTEMPTS):
        num_pairs = (size - children + 1) // 2
        select_parents(population, slots, count, parents, 2 * num_pairs, state)
        for pair in range(num_pairs):
            one, other = parents[2 * pair], parents[2 * pair + 1]
            cut = below(state, num_jobs) if uniform(state) < CROSSOVER_PROBABILITY else 0
            for side in range(2):
                if children == size:
                    break
                slot = slots[count + children]
                head, tail = (other, one) if side == 0 else (one, other)
                _child(problem, work, population, head, tail, cut, slot, state)
                evaluated += 1
                if add_unseen(seen, population.hash[slot]):
                    children += 1
        if children == size:
            break
    return children, evaluated


@compiled
def _search(
    problem: Problem, initial: Allocations, size: int, generations: int, state: State
) -> tuple[Population, NDArray[np.int64], int, int]:
    num_jobs, num_nodes = problem.gpu_cap.shape[0], problem.num_nodes
    most_nodes = initial.node.shape[2]
    num_slots = 2 * size
    population = Population(
        Allocations(
            np.zeros((num_slots, num_jobs, most_nodes), np.int16),
            np.zeros((num_slots, num_jobs, most_nodes), np.int8),
            np.zeros((num_slots, num_jobs), np.int16),
        ),
        np.zeros(num_slots, np.uint64),
        np.zeros(num_slots),
        np.zeros(num_slots),
        np.zeros(num_slots),
    )
    work = Workspace(
        np.zeros((num_jobs, num_nodes), np.int8),
        np.zeros((num_jobs, num_nodes), np.int64),
        np.zeros(num_jobs, np.int64),
        np.zeros(num_nodes, np.int64),
        np.zeros(num_nodes, np.int64),
        np.zeros(num_nodes, np.int64),
        np.zeros(num_nodes, np.int64),
        np.zeros(num_nodes, np.int64),
        np.zeros(num_jobs, np.uint64),
    )
    for job in range(num_jobs):
        for entry in range(problem.current.length[0, job]):
            node = problem.current.node[0, job, entry]
            work.current_hash[job] += pair_hash(job, node, problem.current.gpus[0, job, entry])
    slots = np.arange(num_slots)
    seen = np.zeros(1 << int(np.ceil(np.log2(8 * size))), np.uint64)
    count, evaluations = 0, 0
    for index in range(min(initial.length.shape[0], size)):
        for job in range(num_jobs):
            for entry in range(initial.length[index, job]):
                gpus = initial.gpus[index, job, entry]
                put(work, job, initial.node[index, job, entry], gpus)
        repair_and_store(problem, work, population, slots[count], state)
        evaluations += 1
        if add_unseen(seen, population.hash[slots[count]]):
            count += 1
    count, first_size = survive(population, slots, count, size)
    for _generation in range(generations - 1):
        children, evaluated = _mate(problem, work, population, slots, count, size, state)
        evaluations += evaluated
        if children == 0:
            break
        count, first_size = survive(population, slots, count + children, size)
    return population, slots, first_size, evaluations


def search(
    problem: Problem, initial: Allocations, population_size: int, generations: int, seed: int
) -> Front:
    """Search allocations of one scheduling round.

    Args:
        problem: the jobs and the cluster.
        initial: (n, J, L) start of the population; need not be feasible. L is the largest number
            of nodes that a job may use.
        population_size: individuals kept, and children, in each generation.
        generations: the initial population counts as the first.
        seed: of the random stream; the result is a function of the arguments.

    Returns:
        The first front of the last generation.
    """
    population, slots, size, evaluations = _search(
        problem, initial, population_size, generations, seeded(seed)
    )
    first = slots[:size]
    fitness, rows = population.fitness[first], population.rows
    return Front(
        Allocations(rows.node[first], rows.gpus[first], rows.length[first]),
        fitness,
        population.utility[first],
        int(np.argmax(fitness)),
        evaluations,
    )
