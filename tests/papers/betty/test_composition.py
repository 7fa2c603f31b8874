"""Facts of three and more levels: hypergradients are products of Jacobians, summed over paths."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from papers.betty import Config, Problem
from papers.betty.graph import DataflowGraph
from tests.papers.betty.programs import engine, normal, problem, spd
from tests.papers.betty.test_graph import graphs

SIZE = 3


def quadratic_program(graph: DataflowGraph, kind: str, seed: int) -> tuple[list[Problem], dict]:
    """C_k = w'Aw/2 + w' sum_j B_j w_j over everything that k reads, by ``graph``."""
    generator = torch.Generator().manual_seed(seed)
    curvature = {name: spd(SIZE, generator) for name in graph.names}
    reads = {
        name: sorted({*graph.below(name), *(up for up in graph.names if name in graph.u2l[up])})
        for name in graph.names
    }
    mixed = {
        (name, other): normal(SIZE, SIZE, generator=generator)
        for name in graph.names
        for other in reads[name]
    }
    starts = {name: normal(SIZE, generator=generator) for name in graph.names}

    def cost_of(name: str):  # type: ignore[no-untyped-def]
        def cost(w: Tensor, *others: Tensor) -> Tensor:
            mixing = sum(
                w @ mixed[name, other] @ value
                for other, value in zip(reads[name], others, strict=True)
            )
            return w @ curvature[name] @ w / 2 + mixing

        return cost

    options = Config(type=kind, cg_iterations=SIZE)  # type: ignore[arg-type]
    problems = [
        problem(name, starts[name], cost_of(name), tuple(reads[name]), options)
        for name in graph.names
    ]
    return problems, {"A": curvature, "B": mixed, "w": starts, "reads": reads}


def gradient_by_paths(graph: DataflowGraph, upper: str, parts: dict, inverse: bool) -> Tensor:
    """Direct gradient plus, for each path, the product of explicit Jacobians."""
    w, mixed = parts["w"], parts["B"]
    total = parts["A"][upper] @ w[upper]
    for other in parts["reads"][upper]:
        total = total + mixed[upper, other] @ w[other]
    for path in graph.paths(upper):
        vector = mixed[upper, path[1]].T @ w[upper]
        for curr, prev in itertools.pairwise(path[1:]):
            solved = torch.linalg.solve(parts["A"][curr], vector) if inverse else vector
            vector = -mixed[curr, prev].T @ solved
        total = total + vector
    return total


@given(graphs(), st.sampled_from(["darts", "cg"]), st.integers(0, 1000))
@settings(max_examples=60)
def test_hypergradients_of_random_programs_are_sums_of_products_over_paths(
    graph: DataflowGraph, kind: str, seed: int
) -> None:
    problems, parts = quadratic_program(graph, kind, seed)
    found: dict[str, Tensor] = {}

    def catch(item: Problem):  # type: ignore[no-untyped-def]
        def callback() -> None:
            grad = item.trainable_parameters()[0].grad
            found[item.name] = torch.zeros(SIZE) if grad is None else grad.clone()

        return callback

    for item in problems:
        item.grad_callback = catch(item)  # type: ignore[method-assign]
    engine(problems, graph.u2l, graph.l2u).train_step()
    assert set(found) == set(graph.names)
    for name, gradient in found.items():
        wanted = gradient_by_paths(graph, name, parts, inverse=kind == "cg")
        scale = float(wanted.abs().max()) + 1
        assert_close(gradient, wanted, rtol=1e-6, atol=1e-7 * scale)


def test_in_nested_levels_a_middle_jacobian_holds_the_lowest_where_it_is() -> None:
    """y minimises y^2/2 + x(y)^2/2 - yz with x(y) = y/2: dy/dz = 0.8; the path rule says 1.

    The number stands in the README. The middle problem itself ends at the reduced optimum.
    """
    config = Config("cg")
    zero, z = torch.zeros(1, dtype=torch.float64), torch.full((1,), 2.0, dtype=torch.float64)

    def middle(y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        return (y * y / 2 + x * x / 2 - y * z).sum()

    sgd = lambda params: torch.optim.SGD(params, lr=0.5)  # noqa: E731
    still = lambda params: torch.optim.SGD(params, lr=0.0)  # noqa: E731
    problems = [
        problem("x", zero, lambda x, y: ((x - y / 2) ** 2).sum() / 2, ("y",), config, sgd),
        problem("y", zero, middle, ("x", "z"), config, sgd),
        problem("z", z, lambda _, y: ((y - 3) ** 2).sum() / 2, ("y",), config, still),
    ]
    program = engine(problems, {"z": ["y"], "y": ["x"]}, {"x": ["y"], "y": ["z"]})
    found: list[Tensor] = []
    problems[2].grad_callback = lambda: found.append(problems[2].module.w.grad.clone())  # type: ignore[method-assign]
    for _ in range(100):
        program.train_step()
    y = problems[1].module.w.detach()
    assert_close(y, 0.8 * z, rtol=1e-9, atol=1e-9)
    by_the_path, reduced = 1.0 * (y - 3), 0.8 * (y - 3)
    assert_close(found[-1], by_the_path, rtol=1e-9, atol=1e-9)
    assert_close(found[-1] / reduced, torch.tensor([1.25]).double(), rtol=1e-9, atol=1e-9)
