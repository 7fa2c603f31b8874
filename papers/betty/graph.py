"""The dataflow graph of a multilevel program: its edges, its paths, its picture.

An edge u2l says that the value of an upper parameter enters a lower cost; an edge l2u says that the
optimum of a lower problem enters an upper cost. A hypergradient follows one u2l edge down and any
number of l2u edges up. Source: Choe et al. 2023, Sec. 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from common.errors import InputError

Edges = Mapping[str, Sequence[str]]


class Factor(NamedTuple):
    """One factor of a hypergradient: the optimum of ``problem`` by each of ``by``."""

    problem: str
    by: tuple[str, ...]


class DataflowGraph:
    """Problems and the two kinds of edges between them.

    Args:
        names: problems, in the order given to the engine.
        u2l: upper -> lower problems whose cost reads its value.
        l2u: lower -> upper problems whose cost reads its optimum.

    Raises:
        InputError: a name is given twice or not known, a problem has no edge among several, the
            l2u edges form a cycle, or no path leads from the lower end of a u2l edge back up.
    """

    def __init__(self, names: Sequence[str], u2l: Edges, l2u: Edges) -> None:
        twice = sorted({name for name in names if list(names).count(name) > 1})
        if twice:
            raise InputError(f"problems: several are named {twice[0]!r}; names must differ")
        self.names = list(names)
        self.u2l = self._checked("u2l", u2l)
        self.l2u = self._checked("l2u", l2u)
        waiting = {above for ends in self.l2u.values() for above in ends}
        #: Problems that wait for no other: the engine steps these, and they step the rest.
        self.leaves = [name for name in self.names if name not in waiting]
        self._factors: dict[str, list[Factor]] = {}
        self._refuse_cycles()
        self._refuse_islands()
        self._refuse_dead_ends()

    def _checked(self, kind: str, edges: Edges) -> dict[str, list[str]]:
        for name in [*edges, *(target for targets in edges.values() for target in targets)]:
            if name not in self.names:
                near = get_close_matches(name, self.names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                known = ", ".join(self.names)
                raise InputError(f"dependencies[{kind!r}]: no problem {name!r} among {known}{hint}")
        for name, targets in edges.items():
            if name in targets:
                raise InputError(f"dependencies[{kind!r}]: {name!r} depends on itself")
        return {name: list(dict.fromkeys(edges.get(name, ()))) for name in self.names}

    def _refuse_cycles(self) -> None:
        state = dict.fromkeys(self.names, 0)

        def visit(name: str, trail: list[str]) -> None:
            state[name] = 1
            for above in self.l2u[name]:
                if state[above] == 1:
                    cycle = [*trail[trail.index(above) :], above]
                    raise InputError(
                        f"dependencies['l2u']: cycle {' -> '.join(cycle)}: a problem cannot wait"
                        " for its own optimum"
                    )
                if state[above] == 0:
                    visit(above, [*trail, above])
            state[name] = 2

        for name in self.names:
            if state[name] == 0:
                visit(name, [name])

    def _refuse_islands(self) -> None:
        joined = {name for edges in (self.u2l, self.l2u) for name, to in edges.items() if to}
        joined |= {to for edges in (self.u2l, self.l2u) for ends in edges.values() for to in ends}
        alone = [name for name in self.names if name not in joined]
        if alone and len(self.names) > 1:
            raise InputError(
                f"problem {alone[0]!r} is unreachable: it has no edge to any other;"
                " give it one, or an engine of its own"
            )

    def _refuse_dead_ends(self) -> None:
        for upper, lowers in self.u2l.items():
            for lower in lowers:
                if upper not in self.above(lower):
                    raise InputError(
                        f"dependencies['u2l']: {upper!r} -> {lower!r}: no l2u path leads from"
                        f" {lower!r} back to {upper!r}, so it has no hypergradient"
                    )

    def below(self, name: str) -> list[str]:
        """Problems whose optimum enters the cost of ``name``."""
        return [other for other in self.names if name in self.l2u[other]]

    def above(self, name: str) -> set[str]:
        """Problems that some l2u path leads to from ``name``."""
        found: set[str] = set()
        open_ends = [name]
        while open_ends:
            for above in self.l2u[open_ends.pop()]:
                if above not in found:
                    found.add(above)
                    open_ends.append(above)
        return found

    def paths(self, upper: str) -> list[list[str]]:
        """Every path of the hypergradient of ``upper``, evaluated from left to right.

        ``[upper, x_1, ..., x_m, upper]``: x_1 enters the cost of ``upper``, x_m reads its value.
        """
        return [
            [*reversed(path), upper]
            for lower in self.u2l[upper]
            for path in self._climbs(lower, upper)
        ]

    def _climbs(self, lower: str, upper: str) -> Iterator[list[str]]:
        if lower == upper:
            yield [upper]
            return
        for above in self.l2u[lower]:
            for rest in self._climbs(above, upper):
                yield [lower, *rest]

    def factors(self, upper: str) -> list[Factor]:
        """The paths of ``upper`` with common suffixes merged, in the order of evaluation.

        The product is linear in the vector that it is applied to, so vectors that reach a problem
        on different paths are summed before its factor is applied: one factor a problem, where
        separate paths would be exponentially many in the worst case.
        """
        if upper not in self._factors:
            self._factors[upper] = self._merged(upper)
        return self._factors[upper]

    def _merged(self, upper: str) -> list[Factor]:
        reads = set(self.u2l[upper])
        useful = {
            name
            for name in self.names
            if upper in self.above(name)
            and (name in reads or any(name in self.above(lower) for lower in reads))
        }
        order: list[str] = []

        def visit(name: str) -> None:
            for above in self.l2u[name]:
                if above in useful and above not in order:
                    visit(above)
            order.append(name)

        for name in self.names:
            if name in useful and name not in order:
                visit(name)
        return [
            Factor(
                name,
                (
                    *(below for below in self.below(name) if below in useful),
                    *((upper,) if name in reads else ()),
                ),
            )
            for name in order
        ]

    def seeds(self, upper: str) -> list[str]:
        """Problems by whose parameters the cost of ``upper`` is differentiated directly."""
        return [
            factor.problem for factor in self.factors(upper) if upper in self.l2u[factor.problem]
        ]

    def mermaid(self) -> str:
        """The graph as Mermaid text: solid edges l2u, dotted edges u2l."""
        lines = [f"  {name}(({name}))" for name in self.names]
        lines += [f"  {low} -- optimum --> {up}" for low, up in _pairs(self.l2u)]
        lines += [f"  {up} -. value .-> {low}" for up, low in _pairs(self.u2l)]
        return "\n".join(["flowchart BT", *lines])

    def dot(self) -> str:
        """The graph in Graphviz's language: solid edges l2u, dashed edges u2l."""
        lines = [f'  "{name}";' for name in self.names]
        lines += [f'  "{low}" -> "{up}" [label="optimum"];' for low, up in _pairs(self.l2u)]
        lines += [
            f'  "{up}" -> "{low}" [label="value", style=dashed];' for up, low in _pairs(self.u2l)
        ]
        return "\n".join(["digraph program {", "  rankdir=BT;", *lines, "}"])

    def __str__(self) -> str:
        """One line a problem: what it is made of, and the paths of its hypergradient."""
        lines = []
        for name in self.names:
            parts = ["leaf" if name in self.leaves else "after " + ", ".join(self.below(name))]
            if self.u2l[name]:
                parts.append("read by " + ", ".join(self.u2l[name]))
            paths = [" <- ".join(path) for path in self.paths(name)]
            lines.append(f"{name}: {'; '.join(parts)}" + "".join(f"\n    {path}" for path in paths))
        return "\n".join(lines)


def _pairs(edges: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    return [(name, end) for name, ends in edges.items() for end in ends]
