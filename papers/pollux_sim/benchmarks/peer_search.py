"""The same search by a general library: pymoo's NSGA-II with Pollux's operators in NumPy.

A peer for benchmarks and tests: whole populations as dense (n, J, c) arrays, sorting, crowding and
selection by the library. Needs the extra ``peers``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.repair import Repair
from pymoo.optimize import minimize

from papers.pollux_sim.search.allocation_operators import (
    RESET_PROBABILITY,
    SELECT_PROBABILITY,
    SPEEDUP_FLOOR,
    ZERO_PROBABILITY,
    Allocations,
    Problem,
)
from papers.pollux_sim.search.genetic_search import CROSSOVER_PROBABILITY

MAX_NODES = 16
States = NDArray[np.int64]


def dense(allocations: Allocations, num_nodes: int) -> States:
    """(n, J, c) GPUs of sparse allocations."""
    count, num_jobs, width = allocations.node.shape
    states = np.zeros((count, num_jobs, num_nodes), np.int64)
    listed = np.arange(width) < allocations.length[:, :, None]
    index, job, entry = np.nonzero(listed)
    states[index, job, allocations.node[index, job, entry]] = allocations.gpus[index, job, entry]
    return states


def library_search(
    problem: Problem, initial: Allocations, population_size: int, generations: int, seed: int
) -> tuple[float, int]:
    """(best fitness, evaluations) of the library's search; arguments as in ``search``."""
    task = _Task(problem)
    algorithm = NSGA2(
        pop_size=population_size,
        sampling=dense(initial, problem.num_nodes).reshape(len(initial.length), -1),
        crossover=_RowCrossover(problem),
        mutation=_GrowingMutation(problem),
        repair=_Feasible(problem),
    )
    result = minimize(task, algorithm, ("n_gen", generations), seed=seed)
    return float(-result.F[:, 0].min()), int(result.algorithm.evaluator.n_eval)


class _Task(PymooProblem):  # type: ignore[misc]
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.shape = (len(problem.gpu_cap), problem.num_nodes)
        self.current = dense(problem.current, problem.num_nodes)[0]
        super().__init__(
            n_var=self.shape[0] * self.shape[1], n_obj=2, xl=0, xu=problem.gpus_per_node, vtype=int
        )

    def _evaluate(self, x: States, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        problem = self.problem
        states = x.reshape(len(x), *self.shape)
        gpus = states.sum(axis=2)
        crosses = np.minimum(np.count_nonzero(states, axis=2), 2) > 1
        speedup = problem.speedup[np.arange(self.shape[0]), crosses.astype(int), gpus]
        moved = (states != self.current).any(axis=2)
        scaled = speedup * np.where(moved, problem.realloc_factor, 1.0) / problem.gpus_per_node
        power = problem.power
        if power == 0:
            fitness = np.exp(np.log(np.maximum(scaled, SPEEDUP_FLOOR)).mean(axis=1))
        else:
            fitness = ((scaled + SPEEDUP_FLOOR) ** power).mean(axis=1) ** (1 / power)
        active = np.count_nonzero(states.sum(axis=1), axis=1) * problem.gpus_per_node
        utility = np.where(active, speedup.sum(axis=1) / np.maximum(active, 1), 0.0)
        out["F"] = np.column_stack([-fitness, -utility])


class _RowCrossover(Crossover):  # type: ignore[misc]
    """Single cut between jobs."""

    def __init__(self, problem: Problem) -> None:
        self.shape = (len(problem.gpu_cap), problem.num_nodes)
        super().__init__(n_parents=2, n_offsprings=2, prob=CROSSOVER_PROBABILITY)

    def _do(self, _: Any, x: States, *args: Any, random_state: Any = None, **kwargs: Any) -> States:
        parents = x.reshape(2, -1, *self.shape)
        cut = random_state.integers(self.shape[0], size=parents.shape[1])
        swap = (np.arange(self.shape[0]) < cut[:, None])[None, :, :, None]
        return np.where(swap, parents[::-1], parents).reshape(x.shape)


class _GrowingMutation(Mutation):  # type: ignore[misc]
    """Reset rows, zero elements, grow elements on nodes with free GPUs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.shape = (len(problem.gpu_cap), problem.num_nodes)
        self.current = dense(problem.current, problem.num_nodes)[0]
        super().__init__(prob=1.0, prob_var=1.0)

    def _do(self, _: Any, x: States, *args: Any, random_state: Any = None, **kwargs: Any) -> States:
        draw, capacity = random_state.random, self.problem.gpus_per_node
        states = x.reshape(len(x), *self.shape).astype(np.int64)
        reset = draw(states.shape[:2]) < RESET_PROBABILITY
        states = np.where(reset[:, :, None], self.current, states)
        selected = draw(states.shape[:2]) < SELECT_PROBABILITY
        states[selected[:, :, None] & (draw(states.shape) < ZERO_PROBABILITY)] = 0
        free = (states.sum(axis=1, keepdims=True) < capacity) * np.ones(states.shape)
        rate = free / self.shape[0]
        present = (states > 0) & (free > 0)
        share = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
        grown = draw(states.shape) < rate + share - rate * share
        levels = random_state.integers(states, capacity, endpoint=True) if capacity else states
        return np.where(grown, levels, states).reshape(x.shape)


class _Feasible(Repair):  # type: ignore[misc]
    """Interference, GPU caps, nodes per job, node capacity."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.shape = (len(problem.gpu_cap), problem.num_nodes)
        super().__init__()

    def _do(self, _: Any, x: States, *args: Any, random_state: Any = None, **kwargs: Any) -> States:
        problem = self.problem
        states = x.reshape(len(x), *self.shape).astype(np.int64)
        if problem.avoid_interference:
            distributed = (np.count_nonzero(states, axis=2) > 1)[:, :, None]
            crowded = np.cumsum(distributed & (states > 0), axis=1) > 1
            states[crowded if problem.mask_all_later_jobs else crowded & distributed] = 0
        order = np.argsort(random_state.random(states.shape), axis=2)
        shuffled = np.take_along_axis(states, order, axis=2)
        cap = problem.gpu_cap[:, None]
        shuffled = np.diff(np.minimum(np.cumsum(shuffled, axis=2), cap), axis=2, prepend=0)
        shuffled[np.cumsum(shuffled > 0, axis=2) > MAX_NODES] = 0
        states = np.take_along_axis(shuffled, np.argsort(order, axis=2), axis=2)
        full = np.minimum(np.cumsum(states, axis=1), problem.gpus_per_node)
        return np.diff(full, axis=1, prepend=0).reshape(x.shape)
