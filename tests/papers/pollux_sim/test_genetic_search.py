"""Facts of PolluxSched's search: feasibility, optimality on small problems, determinism, a peer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papers.pollux_sim.search.allocation_operators import SPEEDUP_FLOOR, Allocations, Problem
from papers.pollux_sim.search.genetic_search import Front, search
from papers.pollux_sim.search.random_stream import below, seeded, uniform


def make_problem(
    num_jobs: int,
    num_nodes: int,
    seed: int,
    gpus_per_node: int = 4,
    power: float = -1.0,
    avoid_interference: bool = True,
    mask_all_later_jobs: bool = False,
) -> Problem:
    """A problem with concave speedups that drop across nodes, and nothing allocated yet."""
    rng = np.random.default_rng(seed)
    cap = rng.integers(1, num_nodes * gpus_per_node + 1, num_jobs)
    gpus = np.arange(cap.max() + 1)
    exponent = rng.uniform(0.4, 1.0, (num_jobs, 1))
    local = gpus**exponent
    across = local * rng.uniform(0.5, 1.0, (num_jobs, 1))
    rows = min(16, num_nodes)
    empty = Allocations(
        np.zeros((1, num_jobs, rows), np.int16),
        np.zeros((1, num_jobs, rows), np.int8),
        np.zeros((1, num_jobs), np.int16),
    )
    return Problem(
        current=empty,
        speedup=np.stack([local, across], axis=1),
        gpu_cap=cap,
        realloc_factor=rng.uniform(0.5, 1.0, num_jobs),
        num_nodes=num_nodes,
        gpus_per_node=gpus_per_node,
        power=power,
        avoid_interference=avoid_interference,
        mask_all_later_jobs=mask_all_later_jobs,
    )


def dense(problem: Problem, allocations: Allocations) -> np.ndarray:
    """(n, J, c) GPUs."""
    count, num_jobs, _ = allocations.node.shape
    matrix = np.zeros((count, num_jobs, problem.num_nodes), int)
    for index, job in itertools.product(range(count), range(num_jobs)):
        for entry in range(allocations.length[index, job]):
            node = allocations.node[index, job, entry]
            matrix[index, job, node] += allocations.gpus[index, job, entry]
    return matrix


def fitness_of(problem: Problem, matrix: np.ndarray) -> float:
    """FITNESS_p by the paper's formula, for one (J, c) allocation that starts from nothing."""
    values = []
    for job, row in enumerate(matrix):
        speedup = problem.speedup[job, int(np.count_nonzero(row) > 1), row.sum()]
        factor = 1.0 if not row.any() else problem.realloc_factor[job]
        values.append(speedup * factor / problem.gpus_per_node)
    x = np.array(values)
    if problem.power == 0:
        return float(np.exp(np.log(np.maximum(x, SPEEDUP_FLOOR)).mean()))
    return float(((x + SPEEDUP_FLOOR) ** problem.power).mean() ** (1 / problem.power))


def run(problem: Problem, seed: int = 0, generations: int = 20) -> Front:
    return search(problem, problem.current, 30, generations, seed)


@settings(max_examples=30)
@given(
    num_jobs=st.integers(1, 12),
    num_nodes=st.integers(1, 20),
    seed=st.integers(0, 10**6),
    avoid=st.booleans(),
    upstream=st.booleans(),
    power=st.sampled_from([-10.0, -1.0, 0.0, 1.0]),
)
def test_every_member_of_the_front_is_feasible_and_scored_by_the_formula(
    num_jobs: int, num_nodes: int, seed: int, avoid: bool, upstream: bool, power: float
) -> None:
    problem = make_problem(
        num_jobs,
        num_nodes,
        seed,
        power=power,
        avoid_interference=avoid,
        mask_all_later_jobs=upstream,
    )
    front = run(problem, seed, generations=8)
    matrices = dense(problem, front.allocations)
    assert (matrices.sum(axis=1) <= problem.gpus_per_node).all()
    assert (matrices.sum(axis=2) <= problem.gpu_cap).all()
    nodes_held = np.count_nonzero(matrices, axis=2)
    assert (nodes_held <= 16).all()
    if avoid:
        distributed = (nodes_held > 1)[:, :, None] & (matrices > 0)
        assert (distributed.sum(axis=1) <= 1).all()
    for matrix, fitness, utility in zip(matrices, front.fitness, front.utility, strict=True):
        assert fitness == pytest.approx(fitness_of(problem, matrix), rel=1e-12)
        active = np.count_nonzero(matrix.sum(axis=0)) * problem.gpus_per_node
        total = sum(
            problem.speedup[job, int(np.count_nonzero(row) > 1), row.sum()]
            for job, row in enumerate(matrix)
        )
        assert utility == pytest.approx(total / active if active else 0.0, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_not_dominated_and_holds_no_allocation_twice(seed: int) -> None:
    problem = make_problem(6, 4, seed)
    front = run(problem, seed)
    pairs = np.column_stack([front.fitness, front.utility])
    for one, other in itertools.permutations(pairs, 2):
        assert not ((other >= one).all() and (other > one).any())
    matrices = dense(problem, front.allocations)
    assert len({matrix.tobytes() for matrix in matrices}) == len(matrices)
    assert front.fitness[front.best] == front.fitness.max()


@pytest.mark.parametrize("seed", range(3))
def test_reaches_the_brute_force_optimum_of_a_small_problem(seed: int) -> None:
    problem = make_problem(2, 2, seed, gpus_per_node=2)
    best = -np.inf
    for cells in itertools.product(range(3), repeat=4):
        matrix = np.array(cells).reshape(2, 2)
        spread = np.count_nonzero(matrix, axis=1) > 1
        feasible = (matrix.sum(axis=0) <= 2).all() and (matrix.sum(axis=1) <= problem.gpu_cap).all()
        if feasible and spread.sum() <= 1:
            best = max(best, fitness_of(problem, matrix))
    assert run(problem, seed, generations=60).fitness.max() == pytest.approx(best, rel=1e-12)


def test_same_seed_same_front_and_another_seed_another() -> None:
    problem = make_problem(10, 8, 0)
    first, again, other = (run(problem, seed, generations=5) for seed in (1, 1, 2))
    assert (first.fitness == again.fitness).all()
    assert (dense(problem, first.allocations) == dense(problem, again.allocations)).all()
    assert first.fitness.tolist() != other.fitness.tolist()


def test_more_generations_never_lower_the_best_fitness() -> None:
    problem = make_problem(12, 8, 3)
    reached = [run(problem, 5, generations).fitness.max() for generations in (1, 2, 5, 20, 60)]
    assert reached == sorted(reached)
    assert reached[-1] > reached[0]


def test_staying_put_costs_nothing_and_moving_does() -> None:
    """With a factor of 0 for moving, the search leaves a running job where it is."""
    problem = make_problem(1, 4, 0)._replace(gpu_cap=np.array([8]), realloc_factor=np.zeros(1))
    held = Allocations(*(array.copy() for array in problem.current))
    held.node[0, 0, 0], held.gpus[0, 0, 0], held.length[0, 0] = 2, 3, 1
    speedup = np.stack([np.arange(9.0), np.arange(9.0)])[None]
    problem = problem._replace(current=held, speedup=speedup)
    front = search(problem, held, 20, 30, 0)
    best = dense(problem, front.allocations)[front.best]
    assert best.tolist() == [[0, 0, 3, 0]]


def test_an_unfeasible_start_is_repaired() -> None:
    problem = make_problem(3, 2, 1)
    start = Allocations(
        np.tile(np.arange(2, dtype=np.int16), (1, 3, 1)),
        np.full((1, 3, 2), 4, np.int8),
        np.full((1, 3), 2, np.int16),
    )
    matrix = dense(problem, search(problem, start, 10, 1, 0).allocations)[0]
    assert (matrix.sum(axis=0) <= 4).all()
    assert matrix[1:].sum() == 0 or np.count_nonzero(matrix[0]) <= 1


def test_the_artifacts_mask_also_clears_single_node_jobs_behind_two_distributed_ones() -> None:
    """Upstream quirk: jobs 0 and 1 are distributed over both nodes, job 2 sits on node 1."""
    cap = np.array([2, 2, 1])
    start = Allocations(
        np.array([[[0, 1], [0, 1], [1, 0]]], np.int16),
        np.ones((1, 3, 2), np.int8),
        np.array([[2, 2, 1]], np.int16),
    )
    kept = {}
    for upstream in (False, True):
        problem = make_problem(3, 2, 0, mask_all_later_jobs=upstream)._replace(gpu_cap=cap)
        problem = problem._replace(speedup=np.ones((3, 2, 3)))
        kept[upstream] = dense(problem, search(problem, start, 10, 1, 0).allocations)[0]
    assert kept[False].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert kept[True].tolist() == [[1, 1], [0, 0], [0, 0]]


def test_random_stream_is_uniform() -> None:
    state = seeded(7)
    draws = np.array([uniform(state) for _ in range(20000)])
    assert abs(draws.mean() - 0.5) < 0.01
    assert abs(draws.var() - 1 / 12) < 0.003
    counts = np.bincount([below(state, 5) for _ in range(20000)], minlength=5)
    assert len(counts) == 5
    assert abs(counts / 20000 - 0.2).max() < 0.015


def test_random_stream_equals_the_reference_algorithm() -> None:
    """xoshiro256++ and SplitMix64 in Python integers."""
    mask = 2**64 - 1

    def mixed(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    words, value = [], 42
    for index in range(4):
        value = mixed((value + index) & mask)
        words.append(value)
    state = seeded(42)
    assert state.tolist() == words
    for _ in range(100):
        total = (words[0] + words[3]) & mask
        expected = ((((total << 23) | (total >> 41)) & mask) + words[0]) & mask
        shifted = (words[1] << 17) & mask
        words[2] ^= words[0]
        words[3] ^= words[1]
        words[1] ^= words[2]
        words[0] ^= words[3]
        words[2] ^= shifted
        words[3] = ((words[3] << 45) | (words[3] >> 19)) & mask
        assert uniform(state) == (expected >> 11) / 2**53
