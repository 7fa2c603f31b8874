"""Time and memory of a meta step beside the published package, other libraries and a loop by hand.

Each comparison is of callables that do the same work in the same process (:mod:`peers`); a peer
that is not installed is left out.

Floor: a finite difference needs a pass of the lower problem, one of the upper and two at perturbed
weights, so a meta step after ``k`` lower steps costs about ``k + 3`` plain training steps. (Two of
these go back to the upper's parameters alone, so it can be less.) ``growth`` measures against it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch

from common.results.benchmarks import BenchmarkRow, compare, memory_row
from common.training.peak_memory import peak_tensor_bytes
from papers.betty.benchmarks.peers import OURS, Adaptation, Chain, Reweighting, Step, betty_ml
from papers.betty.configs import Method

PAPER = "betty"
IMPLICIT: tuple[Method, ...] = ("darts", "neumann", "cg")
UNROLLED: Method = "itd"
#: Names of the methods in the paper.
NAMES = {"darts": "AID-FD", "neumann": "AID-NMN", "cg": "AID-CG", "itd": "ITD"}
#: Widths of Meta-Weight-Net's lower network, with the meta steps that are timed together.
WIDTHS = {
    "smoke": ((32, 2),),
    "laptop": ((64, 40), (512, 5), (1024, 2)),
    "paper": ((64, 40), (512, 5), (1024, 2), (3100, 1), (10_000, 1)),
}
#: Blocks, channels, side of the images, and meta steps that are timed together.
CONV = {"smoke": (2, 4, 8, 1), "laptop": (4, 32, 28, 1), "paper": (4, 64, 28, 1)}
UNROLL = {"smoke": (1, 2), "laptop": (1, 5), "paper": (1, 5, 20)}
LOOPS = {"smoke": (2,), "laptop": (5, 20), "paper": (5, 20)}
LEVELS = {"smoke": (2, 3), "laptop": (2, 3, 4), "paper": (2, 3, 4)}
#: Steps of SGD to a task of MAML.
ADAPTATION_STEPS = {"smoke": 2, "laptop": 5, "paper": 5}


def meta_weight_net(scale: str) -> list[BenchmarkRow]:
    """Implicit methods beside the package and a loop by hand; unrolled ones beside libraries."""
    rows, package = [], betty_ml()
    for width, count in WIDTHS[scale]:
        task = Reweighting(width)
        size = f"{task.parameters:,} parameters"
        mine = times(task.program(OURS, "darts"), count)
        timed = compare(mine, times(task.by_hand(), count))
        rows.append(timed.row(PAPER, f"AID-FD step, {size}", "hand-written loop"))
        for method in IMPLICIT:
            if package is None:
                continue
            mine = times(task.program(OURS, method), count)
            timed = compare(mine, times(task.program(package, method), count))
            rows.append(timed.row(PAPER, f"{NAMES[method]} step, {size}", "betty-ml"))
    width, count = WIDTHS[scale][min(1, len(WIDTHS[scale]) - 1)]
    task = Reweighting(width)
    for peer, make in _unrolling(task):
        for unroll in UNROLL[scale]:
            mine = times(task.program(OURS, UNROLLED, unroll), count)
            timed = compare(mine, times(make(unroll), count), repeats=5)
            what = f"ITD, {unroll} unrolled, {task.parameters:,} parameters"
            rows.append(timed.row(PAPER, what, peer))
    return rows


def implicit_maml(scale: str) -> list[BenchmarkRow]:
    """A meta step of implicit MAML (conjugate gradients) and of MAML (unrolled)."""
    *shape, count = CONV[scale]
    task, package, steps = Adaptation(*shape), betty_ml(), ADAPTATION_STEPS[scale]
    size = f"{task.parameters:,} parameters"
    mine = times(task.program(OURS, "cg", steps), count)
    timed = compare(mine, times(task.by_hand(steps), count))
    rows = [timed.row(PAPER, f"iMAML step, {size}", "hand-written loop")]
    if package:
        timed = compare(mine, times(task.program(package, "cg", steps), count))
        rows.append(timed.row(PAPER, f"iMAML step, {size}", "betty-ml"))
    for peer, make in _unrolling(task):
        mine = times(task.program(OURS, UNROLLED, steps), count)
        timed = compare(mine, times(make(steps), count))
        rows.append(timed.row(PAPER, f"MAML step, {size}", peer))
    return rows


def memory(scale: str) -> list[BenchmarkRow]:
    """Peak memory of whole programs: parameters, optimisers, graphs and what passes."""
    rows, package = [], betty_ml()
    width, _ = WIDTHS[scale][min(1, len(WIDTHS[scale]) - 1)]
    task, unroll, loop = Reweighting(width), UNROLL[scale][-1], LOOPS[scale][-1]
    size = f"{task.parameters:,} parameters"
    for method in (*IMPLICIT, UNROLLED):
        what = NAMES[method]
        few, many = (
            _peak(lambda m=method, n=steps: task.program(OURS, m, n))  # type: ignore[misc]
            for steps in (1, loop)
        )
        rows.append(_memory_row(f"{what}, loop of {loop}", f"{what}, loop of 1", many, few))
        if method == "darts":
            rows.append(
                _memory_row(f"{what}, {size}", "hand-written loop", few, _peak(task.by_hand))
            )
        if package and method != UNROLLED:
            theirs = _peak(lambda m=method: task.program(package, m))  # type: ignore[misc]
            rows.append(_memory_row(f"{what}, {size}", "betty-ml", few, theirs))
    mine = _peak(lambda: task.program(OURS, UNROLLED, unroll))
    for peer, make in _unrolling(task):
        theirs = _peak(lambda m=make: m(unroll))  # type: ignore[misc]
        rows.append(_memory_row(f"ITD, {unroll} unrolled, {size}", peer, mine, theirs))
    return rows + _memory_of_maml(scale)


def _memory_of_maml(scale: str) -> list[BenchmarkRow]:
    task, package, steps = Adaptation(*CONV[scale][:3]), betty_ml(), ADAPTATION_STEPS[scale]
    mine = _peak(lambda: task.program(OURS, "cg", steps))
    hand = _peak(lambda: task.by_hand(steps))
    rows = [_memory_row("iMAML", "hand-written loop", mine, hand)]
    if package:
        theirs = _peak(lambda: task.program(package, "cg", steps))
        rows.append(_memory_row("iMAML", "betty-ml", mine, theirs))
    mine = _peak(lambda: task.program(OURS, UNROLLED, steps))
    for peer, make in _unrolling(task):
        theirs = _peak(lambda m=make: m(steps))  # type: ignore[misc]
        rows.append(_memory_row(f"MAML, {steps} unrolled", peer, mine, theirs))
    return rows


def growth(scale: str) -> list[BenchmarkRow]:
    """Time as parameters, unrolled steps and levels grow, against as many plain steps."""
    rows = []
    for width, count in WIDTHS[scale]:
        task = Reweighting(width)
        repeats = 5 if width < 4096 else 2
        timed = compare(
            times(task.program(OURS, "darts"), count), times(task.plain(), 4 * count), repeats
        )
        what = f"AID-FD step, {task.parameters:,} parameters"
        rows.append(timed.row(PAPER, what, "4 plain training steps"))
    width, count = WIDTHS[scale][0]
    task, count = Reweighting(width), max(1, count // 4)
    for unroll in LOOPS[scale]:
        mine = times(task.program(OURS, "darts", unroll), count)
        timed = compare(mine, times(task.plain(), (unroll + 3) * count))
        rows.append(
            timed.row(PAPER, f"AID-FD, loop of {unroll}", f"{unroll + 3} plain training steps")
        )
        mine = times(task.program(OURS, UNROLLED, unroll), count)
        timed = compare(mine, times(task.program(OURS, UNROLLED, 1), count * unroll))
        rows.append(timed.row(PAPER, f"ITD, loop of {unroll}", f"{unroll} loops of 1"))
    for levels in LEVELS[scale]:
        chain, passes = Chain(levels), levels + 2 * (levels - 1)
        timed = compare(times(chain.program(), count), times(chain.plain(), passes * count))
        rows.append(timed.row(PAPER, f"AID-FD, {levels} levels", f"{passes} plain training steps"))
    return rows


def times(step: Step, count: int) -> Step:
    """``step`` so many times, to their end."""

    def run() -> None:
        for _ in range(count):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def _unrolling(task: Reweighting | Adaptation) -> Iterator[tuple[str, Callable[[int], Step]]]:
    """Libraries for unrolled differentiation that are installed."""
    for name, make in (("higher", task.with_higher), ("torchopt", task.with_torchopt)):
        if find_spec(name) is not None:
            yield name, make


def _peak(make: Callable[[], Step]) -> int:
    """Most bytes that the tensors of a program and its first two meta steps took at once."""
    gc.collect()
    return peak_tensor_bytes(lambda: _two_steps(make))


def _two_steps(make: Callable[[], Step]) -> None:
    step = make()
    step()
    step()


def _memory_row(what: str, peer: str, mine: int, theirs: int) -> BenchmarkRow:
    return memory_row(PAPER, f"peak memory: {what}", peer, mine, theirs)


BENCHMARKS = {
    "meta_weight_net": meta_weight_net,
    "implicit_maml": implicit_maml,
    "memory": memory,
    "growth": growth,
}
