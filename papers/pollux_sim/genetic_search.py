"""PolluxSched's search over allocations: NSGA-II with Pollux's own operators, compiled.

An allocation gives each of J jobs some GPUs on some of c nodes. Jobs hold few nodes, so a row is
stored as a short list of (node, GPUs) and one candidate costs O(J + nodes held + free nodes), not
O(J c). Two objectives are maximised: FITNESS_p, the power mean of the jobs' speedups, and UTILITY,
speedup per GPU of the occupied nodes, which only keeps the population diverse; the fittest member
of the final first front is the allocation used. Source: Qiao et al. 2021, Sec. 4.2; operators and
their probabilities as in the authors' artifact.

Two rows or allocations are taken as equal when their 64-bit hashes are: within one search (about
1e4 allocations) the chance of a false match is below 1e-11.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from papers.pollux_sim.random_stream import State, below, mix, next_bits, seeded, shuffle, uniform

CROSSOVER_PROBABILITY = 0.9
RESET_PROBABILITY = 0.1
SELECT_PROBABILITY = 0.1
ZERO_PROBABILITY = 0.1
#: Repeats of the mating step that look for children not seen before.
MATING_ATTEMPTS = 101
_Function = TypeVar("_Function", bound=Callable[..., object])
_outer = njit(cache=True, error_model="numpy")
# Functions that allocate nothing are compiled without reference counting: Numba would count each
# array again at every access through a tuple, atomically, which took two thirds of the time.
_inner: Callable[[_Function], _Function] = njit(  # type: ignore[call-overload]
    cache=True, error_model="numpy", _nrt=False
)

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


class Front(NamedTuple):
    """Final first front of a search, its objectives, and the index of the fittest member."""

    allocations: Allocations
    fitness: NDArray[np.float64]
    utility: NDArray[np.float64]
    best: int
    evaluations: int


class _Workspace(NamedTuple):
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


class _Population(NamedTuple):
    """Slots of individuals; ``pop`` lists the living ones, ``rank`` and ``crowding`` by slot."""

    rows: Allocations
    hash: NDArray[np.uint64]
    fitness: NDArray[np.float64]
    utility: NDArray[np.float64]
    crowding: NDArray[np.float64]


@_inner
def _pair_hash(job: int, node: int, gpus: int) -> np.uint64:
    return mix(
        (np.uint64(job) << np.uint64(32)) | (np.uint64(node) << np.uint64(8)) | np.uint64(gpus)
    )


@_inner
def _put(work: _Workspace, job: int, node: int, gpus: int) -> None:
    work.gpus[job, node] = gpus
    work.node[job, work.length[job]] = node
    work.length[job] += 1
    work.used[node] += gpus
    work.jobs_on[node] += 1


@_inner
def _load(work: _Workspace, job: int, source: Allocations, index: int, state: State) -> None:
    """Copy one row into the workspace, zeroing elements of rows that mutation selects."""
    selected = uniform(state) < SELECT_PROBABILITY
    for entry in range(source.length[index, job]):
        if selected and uniform(state) < ZERO_PROBABILITY:
            continue
        _put(work, job, source.node[index, job, entry], source.gpus[index, job, entry])


@_inner
def _grow(problem: Problem, work: _Workspace, state: State) -> None:
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


@_inner
def _repair_and_store(
    problem: Problem, work: _Workspace, population: _Population, slot: int, state: State
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
            row_hash += _pair_hash(job, node, gpus)
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


@_inner
def _order(population: _Population, slots: NDArray[np.int64], count: int) -> None:
    """Sort ``slots`` by fitness, then utility, both descending (shell sort: count <= 200)."""
    fitness, utility = population.fitness, population.utility
    gap = 57 if count > 57 else (23 if count > 23 else 10)
    while gap > 0:
        for start in range(gap, count):
            moving = slots[start]
            key, tie = fitness[moving], utility[moving]
            place = start
            while place >= gap:
                other = slots[place - gap]
                if fitness[other] > key or (fitness[other] == key and utility[other] >= tie):
                    break
                slots[place] = other
                place -= gap
            slots[place] = moving
        gap = (
            23 if gap == 57 else (10 if gap == 23 else (4 if gap == 10 else (1 if gap == 4 else 0)))
        )


@_outer
def _rank(
    population: _Population, slots: NDArray[np.int64], count: int, front: NDArray[np.int64]
) -> int:
    """Number the fronts of ``slots`` (sorted by :func:`_order`) from 0; returns how many there are.

    In two objectives a member of a sorted list is dominated by a front exactly if the front's
    largest utility so far is larger, or equal with more fitness; those maxima fall from front to
    front, so the first front that does not dominate it is found by bisection.
    """
    top_utility, top_fitness = np.empty(count), np.empty(count)
    num_fronts = 0
    for place in range(count):
        fitness, utility = population.fitness[slots[place]], population.utility[slots[place]]
        low, high = 0, num_fronts
        while low < high:
            middle = (low + high) // 2
            dominated = top_utility[middle] > utility or (
                top_utility[middle] == utility and top_fitness[middle] > fitness
            )
            if dominated:
                low = middle + 1
            else:
                high = middle
        front[place] = low
        top_utility[low], top_fitness[low] = utility, fitness
        num_fronts = max(num_fronts, low + 1)
    return num_fronts


@_outer
def _crowd(population: _Population, members: NDArray[np.int64]) -> None:
    """Crowding distance of one front, sorted by fitness; exact duplicates get 0, ends infinity."""
    unique = np.empty(members.shape[0], np.int64)
    num_unique = 0
    for slot in members:
        if num_unique > 0:
            last = unique[num_unique - 1]
            same = population.fitness[last] == population.fitness[slot]
            if same and population.utility[last] == population.utility[slot]:
                population.crowding[slot] = 0.0
                continue
        unique[num_unique] = slot
        num_unique += 1
    first, last = unique[0], unique[num_unique - 1]
    fitness_range = population.fitness[first] - population.fitness[last]
    utility_range = population.utility[last] - population.utility[first]
    for place in range(num_unique):
        slot = unique[place]
        if place == 0 or place == num_unique - 1:
            population.crowding[slot] = np.inf
            continue
        left, right = unique[place - 1], unique[place + 1]
        across = (population.fitness[left] - population.fitness[right]) / fitness_range
        along = (population.utility[right] - population.utility[left]) / utility_range
        population.crowding[slot] = (across + along) / 2.0


@_outer
def _survive(
    population: _Population, slots: NDArray[np.int64], count: int, size: int
) -> tuple[int, int]:
    """Keep at most ``size`` of ``slots``: front by front, the last one by crowding.

    Returns (number kept, size of the first front); ``slots`` is permuted, the kept first.
    """
    _order(population, slots, count)
    front = np.empty(count, np.int64)
    num_fronts = _rank(population, slots, count, front)
    # Bucket the members of each front, keeping their order.
    starts = np.zeros(num_fronts + 1, np.int64)
    for place in range(count):
        starts[front[place] + 1] += 1
    for number in range(num_fronts):
        starts[number + 1] += starts[number]
    filled = starts.copy()
    members = np.empty(count, np.int64)
    for place in range(count):
        members[filled[front[place]]] = slots[place]
        filled[front[place]] += 1
    kept = 0
    for number in range(num_fronts):
        group = members[starts[number] : starts[number + 1]]
        if kept < size:
            _crowd(population, group)
        if group.shape[0] > size - kept > 0:
            # Least crowded first; equal distances stay in order of fitness.
            order = np.argsort(-population.crowding[group], kind="mergesort")
            members[starts[number] : starts[number + 1]] = group[order]
        kept = min(kept + group.shape[0], size)
    slots[:count] = members
    return kept, min(starts[1], size)


@_inner
def _tournament(population: _Population, one: int, other: int, state: State) -> int:
    """The dominating one of two, else the less crowded one, else a coin's choice."""
    more_fit = population.fitness[one] - population.fitness[other]
    more_useful = population.utility[one] - population.utility[other]
    if more_fit >= 0 and more_useful >= 0 and more_fit + more_useful > 0:
        return one
    if more_fit <= 0 and more_useful <= 0 and more_fit + more_useful < 0:
        return other
    if population.crowding[one] != population.crowding[other]:
        return one if population.crowding[one] > population.crowding[other] else other
    return one if next_bits(state) & np.uint64(1) else other


@_outer
def _select_parents(
    population: _Population,
    slots: NDArray[np.int64],
    count: int,
    parents: NDArray[np.int64],
    num_parents: int,
    state: State,
) -> None:
    """Fill ``parents`` by binary tournaments between neighbours in random permutations."""
    deck = slots[:count].copy()
    drawn = count
    for place in range(num_parents):
        rivals = (0, 0)
        for _side in range(2):
            if drawn == count:
                shuffle(state, deck, count)
                drawn = 0
            rivals = (rivals[1], deck[drawn])
            drawn += 1
        parents[place] = _tournament(population, rivals[0], rivals[1], state)


@_inner
def _add(seen: NDArray[np.uint64], value: np.uint64) -> bool:
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


@_inner
def _child(
    problem: Problem,
    work: _Workspace,
    population: _Population,
    head: int,
    tail: int,
    cut: int,
    slot: int,
    state: State,
) -> None:
    """Rows 0..cut-1 of ``head`` and the rest of ``tail``; mutated, repaired, stored in ``slot``."""
    for job in range(work.length.shape[0]):
        if uniform(state) < RESET_PROBABILITY:
            _load(work, job, problem.current, 0, state)
        else:
            _load(work, job, population.rows, head if job < cut else tail, state)
    _grow(problem, work, state)
    _repair_and_store(problem, work, population, slot, state)


@_outer
def _mate(
    problem: Problem,
    work: _Workspace,
    population: _Population,
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
        _add(seen, population.hash[slots[place]])
    children, evaluated = 0, 0
    for _attempt in range(MATING_ATTEMPTS):
        num_pairs = (size - children + 1) // 2
        _select_parents(population, slots, count, parents, 2 * num_pairs, state)
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
                if _add(seen, population.hash[slot]):
                    children += 1
        if children == size:
            break
    return children, evaluated


@_outer
def _search(
    problem: Problem, initial: Allocations, size: int, generations: int, state: State
) -> tuple[_Population, NDArray[np.int64], int, int]:
    num_jobs, num_nodes = problem.gpu_cap.shape[0], problem.num_nodes
    most_nodes = initial.node.shape[2]
    num_slots = 2 * size
    population = _Population(
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
    work = _Workspace(
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
            work.current_hash[job] += _pair_hash(job, node, problem.current.gpus[0, job, entry])
    slots = np.arange(num_slots)
    seen = np.zeros(1 << int(np.ceil(np.log2(8 * size))), np.uint64)
    count, evaluations = 0, 0
    for index in range(min(initial.length.shape[0], size)):
        for job in range(num_jobs):
            for entry in range(initial.length[index, job]):
                gpus = initial.gpus[index, job, entry]
                _put(work, job, initial.node[index, job, entry], gpus)
        _repair_and_store(problem, work, population, slots[count], state)
        evaluations += 1
        if _add(seen, population.hash[slots[count]]):
            count += 1
    count, first_size = _survive(population, slots, count, size)
    for _generation in range(generations - 1):
        children, evaluated = _mate(problem, work, population, slots, count, size, state)
        evaluations += evaluated
        if children == 0:
            break
        count, first_size = _survive(population, slots, count + children, size)
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
