"""Facts of the dataflow graph: paths, their merged order, what is refused."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from papers.betty.graph import DataflowGraph


def test_figure_2_of_the_paper_has_a_direct_path_and_one_through_p1() -> None:
    graph = DataflowGraph(
        ["p1", "p2", "p3", "p4"],
        u2l={"p4": ["p3", "p1"], "p3": ["p2"]},
        l2u={"p1": ["p3"], "p2": ["p3"], "p3": ["p4"]},
    )
    assert graph.paths("p4") == [["p4", "p3", "p4"], ["p4", "p3", "p1", "p4"]]
    assert graph.leaves == ["p1", "p2"]
    assert graph.factors("p4") == [("p3", ("p1", "p4")), ("p1", ("p4",))]


@pytest.mark.parametrize(
    ("names", "u2l", "l2u", "said"),
    [
        (["a", "a"], {}, {}, "several are named 'a'"),
        (["lower", "upper"], {"uper": ["lower"]}, {}, "no problem 'uper'.*did you mean 'upper'"),
        (["a", "b"], {"b": ["a"]}, {}, "no l2u path leads from 'a' back to 'b'"),
        (["a", "b"], {}, {"a": ["b"], "b": ["a"]}, "cycle a -> b -> a"),
        (["a"], {}, {"a": ["a"]}, "depends on itself"),
        (["a", "b", "c"], {"b": ["a"]}, {"a": ["b"]}, "'c' is unreachable"),
    ],
)
def test_what_cannot_run_is_refused(
    names: list[str], u2l: dict[str, list[str]], l2u: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        DataflowGraph(names, u2l, l2u)


@st.composite
def graphs(draw: st.DrawFn) -> DataflowGraph:
    """Random programs of up to six problems: every l2u edge leads up, u2l edges close paths."""
    names = [f"p{i}" for i in range(draw(st.integers(2, 6)))]
    l2u: dict[str, list[str]] = {}
    for i, name in enumerate(names[:-1]):
        above = draw(st.lists(st.sampled_from(names[i + 1 :]), min_size=1, unique=True))
        l2u[name] = above
    free = DataflowGraph(names, {}, l2u)
    u2l = {}
    for name in names:
        below = [other for other in names if name in free.above(other)]
        if below:
            u2l[name] = draw(st.lists(st.sampled_from(below), unique=True))
    return DataflowGraph(names, u2l, l2u)


@given(graphs())
@settings(max_examples=200)
def test_every_path_starts_with_one_u2l_edge_and_climbs_l2u_edges(graph: DataflowGraph) -> None:
    for upper in graph.names:
        for first, *inside, last in graph.paths(upper):
            assert first == last == upper
            assert inside[-1] in graph.u2l[upper]
            climb = [*reversed(inside), upper]
            assert all(above in graph.l2u[low] for low, above in itertools.pairwise(climb))


@given(graphs())
@settings(max_examples=200)
def test_merged_factors_walk_every_path_once(graph: DataflowGraph) -> None:
    """Counting the ways through the factors gives the number of paths."""
    for upper in graph.names:
        factors = graph.factors(upper)
        ways = Counter(dict.fromkeys(graph.seeds(upper), 1))
        ended = 0
        for name, by in factors:
            for prev in by:
                if prev == upper:
                    ended += ways[name]
                else:
                    ways[prev] += ways[name]
        assert ended == len(graph.paths(upper))
        assert len(factors) == len({name for name, _ in factors}) <= len(graph.names)


def test_the_picture_has_every_edge() -> None:
    graph = DataflowGraph(["inner", "outer"], {"outer": ["inner"]}, {"inner": ["outer"]})
    assert "inner -- optimum --> outer" in graph.mermaid()
    assert '"outer" -> "inner" [label="value", style=dashed]' in graph.dot()
    assert "outer <- inner <- outer" in str(graph)
