"""What the cost of a problem reads of the others, beside what the edges say.

A parameter that a cost reads without an edge is a constant to hypergradients: they leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from papers.betty.graph import DataflowGraph


def leaves(loss: Tensor) -> set[int]:
    """Identities of the tensors by which ``loss`` can be differentiated: the ends of its graph."""
    found = {id(loss)} if loss.is_leaf else set()
    seen, open_ends = set(), [loss.grad_fn]
    while open_ends:
        node = open_ends.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            found.add(id(node.variable))  # type: ignore[attr-defined]
        open_ends += [before for before, _ in node.next_functions]
    return found


def missing_edges(
    graph: DataflowGraph, name: str, read: set[int], params: Mapping[str, Sequence[Tensor]]
) -> Iterator[str]:
    """A warning of every problem that the cost of ``name`` reads without an edge that matters.

    Args:
        read: what :func:`leaves` found of its cost.
        params: parameters of each problem of the program.
    """
    foreign = read - {id(param) for param in params[name]}
    for other, theirs in params.items():
        joined = name in (*graph.u2l[other], *graph.l2u[other])
        if joined or not any(id(param) in foreign for param in theirs):
            continue
        kind, poorer = _without(graph, other, name)
        if poorer:
            yield (
                f"its cost depends on the parameters of {other!r}, but dependencies[{kind!r}]"
                f" has no {other!r} -> {name!r}: the hypergradient of"
                f" {', '.join(poorer)} leaves that out (add the edge, or detach what is read)"
            )


def _without(graph: DataflowGraph, other: str, problem: str) -> tuple[str, list[str]]:
    """The kind of an edge from ``other`` to ``problem``; whose hypergradients lack something."""
    edges = {"u2l": graph.u2l, "l2u": graph.l2u}
    if other in graph.above(problem):
        kind = "u2l"
    elif problem in graph.above(other):
        kind = "l2u"
    else:  # neither waits for the other: it may read a value that is the present one
        return "", []
    edges[kind] = {**edges[kind], other: [*edges[kind][other], problem]}
    wider = DataflowGraph(graph.names, **edges)
    found = {name: (wider.seeds(name), wider.factors(name)) for name in graph.names}
    return kind, [n for n in found if found[n] != (graph.seeds(n), graph.factors(n))]
