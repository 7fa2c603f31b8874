"""NSGA-II for two objectives that are maximised: fronts, crowding, survival, tournaments.

Source: Deb et al. 2002; the fronts of two objectives by a sorted sweep (Jensen 2003).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from papers.pollux_sim.compiled import compiled, lean
from papers.pollux_sim.search.allocation_operators import Population
from papers.pollux_sim.search.random_stream import State, next_bits, shuffle


@lean
def sort_by_objectives(population: Population, slots: NDArray[np.int64], count: int) -> None:
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


@compiled
def rank(
    population: Population, slots: NDArray[np.int64], count: int, front: NDArray[np.int64]
) -> int:
    """Number the fronts of ``slots``, sorted by objectives, from 0; returns how many there are.

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


@compiled
def crowd(population: Population, members: NDArray[np.int64]) -> None:
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


@compiled
def survive(
    population: Population, slots: NDArray[np.int64], count: int, size: int
) -> tuple[int, int]:
    """Keep at most ``size`` of ``slots``: front by front, the last one by crowding.

    Returns (number kept, size of the first front); ``slots`` is permuted, the kept first.
    """
    sort_by_objectives(population, slots, count)
    front = np.empty(count, np.int64)
    num_fronts = rank(population, slots, count, front)
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
            crowd(population, group)
        if group.shape[0] > size - kept > 0:
            # Least crowded first; equal distances stay in order of fitness.
            order = np.argsort(-population.crowding[group], kind="mergesort")
            members[starts[number] : starts[number + 1]] = group[order]
        kept = min(kept + group.shape[0], size)
    slots[:count] = members
    return kept, min(starts[1], size)


@lean
def tournament(population: Population, one: int, other: int, state: State) -> int:
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


@compiled
def select_parents(
    population: Population,
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
        parents[place] = tournament(population, rivals[0], rivals[1], state)
