"""Time, memory and direction of a meta gradient beside the published package and other libraries.

Sides do the same work in the same process (:mod:`peers`); a peer that is not installed is left out.

Floor: a base step is one forward and one backward pass; a meta gradient is three of each, of which
two backward passes go to the meta parameters alone and cost little where those are few. With a
backward pass as two forward ones a base and a meta step take at least ``3 + 3 + 1 + 1 = 8``
forward passes, 2.7 times plain training. In memory it is a copy each of the last gradients, of v
and of the weights, never more than two of them at once: 1.25 times the four of plain training.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import nn

from common.results.benchmarks import BenchmarkRow, compare, memory_row, score_row
from common.training.peak_memory import peak_tensor_bytes
from papers.sama.benchmarks.peers import OURS, Method, Reweighting, Step, betty_ml
from papers.sama.tasks.random_classes import NetworkSettings

PAPER = "sama"
NAMES: dict[Method, str] = {"sama": "SAMA", "neumann": "Neumann", "cg": "CG"}
SECOND_ORDER: tuple[Method, ...] = ("neumann", "cg")
MLP, ENCODER = "MLP", "encoder"
#: (title, network, samples, steps that are timed together) by scale.
TASKS: dict[str, tuple[tuple[str, NetworkSettings, int, int], ...]] = {
    "smoke": ((MLP, NetworkSettings(kind="mlp", width=32, depth=2), 20, 1),),
    "laptop": (
        (MLP, NetworkSettings(kind="mlp", width=64, depth=3), 100, 10),
        (MLP, NetworkSettings(kind="mlp", width=512, depth=3), 100, 3),
        (
            ENCODER,
            NetworkSettings(kind="encoder", width=64, depth=2, inputs=16, dropout=0.0),
            48,
            1,
        ),
    ),
}
TASKS["paper"] = (
    *TASKS["laptop"],
    (MLP, NetworkSettings(kind="mlp", width=2048, depth=3), 100, 1),
    (ENCODER, NetworkSettings(kind="encoder", width=256, depth=2, inputs=32, dropout=0.0), 48, 1),
)
#: Base steps before the hypergradient that is compared, and seeds.
STEPS, SEEDS = {"smoke": 3, "laptop": 30, "paper": 30}, {"smoke": 1, "laptop": 5, "paper": 5}
#: Lengths of the shift: so short that the difference is exact, and the package's own.
ALPHAS = (0.01, 1.0)


def beside_peers(scale: str) -> list[BenchmarkRow]:
    """Base samples a second of a base and a meta step, ours over the peer's."""
    rows, package = [], betty_ml()
    for title, network, samples, count in TASKS[scale]:
        task = Reweighting(network, samples)
        size = f"{title}, {task.parameters:,} parameters"

        def row(what: str, peer: str, mine: Step, theirs: Step) -> None:
            timed = compare(_times(mine, count), _times(theirs, count))  # noqa: B023
            rows.append(timed.row(PAPER, f"{what}, {size}", peer))  # noqa: B023

        if package is not None:
            row("SAMA", "betty-ml", task.sama()[0], task.with_engine(package, "sama")[0])
            for method in SECOND_ORDER:
                mine = task.with_engine(OURS, method)[0]
                row(f"{NAMES[method]}", "betty-ml", mine, task.with_engine(package, method)[0])
        for method in SECOND_ORDER:
            theirs = task.with_engine(OURS, method)[0]
            row("SAMA", f"{NAMES[method]}, one iteration, of ours", task.sama()[0], theirs)
        for peer, make in _unrolling(task):
            row("SAMA", f"{peer}, one step unrolled", task.sama()[0], make()[0])
    return rows


def memory(scale: str) -> list[BenchmarkRow]:
    """Most bytes in tensors at once, networks and optimisers included."""
    rows, package = [], betty_ml()
    for title, network, samples, _ in TASKS[scale]:
        size = f"{title}, {Reweighting(network, samples).parameters:,} parameters"

        def peak(make: Callable[[Reweighting], Step]) -> int:
            gc.collect()
            return peak_tensor_bytes(lambda: _begin(make, network, samples))  # noqa: B023

        def row(what: str, peer: str, mine: int, theirs: int) -> None:
            rows.append(memory_row(PAPER, f"{what}, {size}", peer, mine, theirs))  # noqa: B023

        sama = peak(lambda task: task.sama()[0])
        row("SAMA", "plain training", sama, peak(lambda task: task.plain()))
        row("SAMA", "SAMA-NA", sama, peak(lambda task: task.sama(adapted=False)[0]))
        for method in SECOND_ORDER:
            theirs = peak(lambda task, m=method: task.with_engine(OURS, m)[0])  # type: ignore[misc]
            row("SAMA", f"{NAMES[method]}, one iteration, of ours", sama, theirs)
        if package is not None:
            for method in NAMES:
                theirs = peak(lambda task, m=method: task.with_engine(package, m)[0])  # type: ignore[misc]
                row("SAMA", f"{NAMES[method]} of betty-ml", sama, theirs)
        for peer, _ in _unrolling(Reweighting(network, samples)):
            theirs = peak(lambda task, p=peer: dict(_unrolling(task))[p]()[0])  # type: ignore[misc]
            row("SAMA", f"{peer}, one step unrolled", sama, theirs)
    return rows


def direction(scale: str) -> list[BenchmarkRow]:
    """Cosine of the hypergradient to the exact one through the last step, ours over the peer's."""
    rows, package, steps = [], betty_ml(), STEPS[scale]
    title, network, samples, _ = TASKS[scale][0]
    for alpha in ALPHAS:
        tasks = [
            Reweighting(network, samples, alpha, double=True, seed=seed)
            for seed in range(SEEDS[scale])
        ]
        what = f"SAMA, alpha {alpha:g}, {title}, {tasks[0].parameters:,} parameters"

        def cosines(make: Callable[[Reweighting], tuple[Step, nn.Module]]) -> list[float]:
            return [
                float(
                    torch.nn.functional.cosine_similarity(
                        task.hypergradient(make(task)), task.exact(steps), dim=0
                    )
                )
                for task in tasks  # noqa: B023
            ]

        ours = cosines(lambda task: task.sama(before=steps))
        sides: dict[str, Callable[[Reweighting], tuple[Step, nn.Module]]] = {
            "SAMA-NA": lambda task: task.sama(adapted=False, before=steps),
            "Neumann, one iteration, of ours": lambda task: task.with_engine(
                OURS, "neumann", steps
            ),
            "CG, one iteration, of ours": lambda task: task.with_engine(OURS, "cg", steps),
        }
        if package is not None:
            sides["SAMA of betty-ml"] = lambda task: task.with_engine(package, "sama", steps)
        for peer in dict(_unrolling(tasks[0])):
            sides[f"{peer}, one step unrolled"] = lambda task, p=peer: dict(_unrolling(task))[p](  # type: ignore[misc]
                steps
            )
        for peer, make in sides.items():
            theirs = cosines(make)
            if min(*ours, *theirs) > 0:
                rows.append(score_row(PAPER, what, peer, ours, theirs, "cosine to the exact one"))
    return rows


def growth(scale: str) -> list[BenchmarkRow]:
    """A base and a meta step over a plain training step, as networks grow."""
    rows = []
    for title, network, samples, count in TASKS[scale]:
        task = Reweighting(network, samples)
        for adapted in (True, False):
            timed = compare(_times(task.sama(adapted)[0], count), _times(task.plain(), count))
            what = "SAMA" if adapted else "SAMA-NA"
            rows.append(
                timed.row(PAPER, f"{what}, {title}, {task.parameters:,} parameters", "plain step")
            )
    return rows


def _times(step: Step, count: int) -> Step:
    """``step`` so many times, to their end."""

    def run() -> None:
        for _ in range(count):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def _begin(make: Callable[[Reweighting], Step], network: NetworkSettings, samples: int) -> None:
    """A whole program and two of its steps."""
    step = make(Reweighting(network, samples))
    step()
    step()


def _unrolling(
    task: Reweighting,
) -> Iterator[tuple[str, Callable[..., tuple[Step, nn.Module]]]]:
    """Libraries that differentiate through steps and are installed."""
    for name, make in (("higher", task.with_higher), ("torchopt", task.with_torchopt)):
        if find_spec(name) is not None:
            yield name, make


BENCHMARKS = {
    "beside_peers": beside_peers,
    "memory": memory,
    "direction": direction,
    "growth": growth,
}
