"""Time and memory of a training step with a penalty, over a plain step and over other penalties.

Floor of the residual: on top of a plain step (a forward and a backward pass) each sampled block
takes one forward pass, two products and the backward pass of both, about six products with its
weight where a plain step takes three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torch.nn import functional

from common.results.benchmarks import BenchmarkRow, compare, memory_row, one_thread
from common.training.peak_memory import peak_tensor_bytes
from papers.ojr.estimators import Estimator
from papers.ojr.orthogonality import BlockRegularizer, JacobianFrobenius, JacobianOrthogonality
from papers.ojr.tasks.networks import Perceptron, build_network
from papers.ojr.weight_penalties import weight_penalty

PAPER = "ojr"
Step = Callable[[], None]
DEPTH: Final = 20
WIDTH: Final = 256
CLASSES: Final = 10
BATCH: Final = 128


def overhead(scale: str) -> list[BenchmarkRow]:
    """A step with each penalty over a plain one: 20 layers of 256, batch 128."""
    plain, rows = _step(), []
    steps = {
        "OJR of one of 20 layers": _step(layers=1),
        "OJR of 4 of 20 layers": _step(layers=4),
        "OJR of all layers": _step(layers=DEPTH),
        "OJR end to end": _step(whole="residual"),
        "one product, end to end": _step(whole="one_product"),
        "soft orthogonality of all weights": _step(penalise_weights=True),
    }
    with one_thread():
        for name, step in steps.items():
            rows.append(compare(step, plain, _repeats(scale)).row(PAPER, name, "a plain step"))
    return rows


def beside_others(scale: str) -> list[BenchmarkRow]:
    """The residual end to end over the Frobenius penalty and whole Jacobians."""
    mine = _step(whole="residual")
    with one_thread():
        return [
            compare(mine, step, _repeats(scale)).row(PAPER, "OJR end to end", name)
            for name, step in _peers().items()
        ]


def memory(scale: str) -> list[BenchmarkRow]:
    """Most bytes in tensors during a step, over a plain one's and, end to end, over others'."""
    del scale
    plain = peak_tensor_bytes(_step())
    steps = {
        "OJR of one of 20 layers": _step(layers=1),
        "OJR of 4 of 20 layers": _step(layers=4),
        "OJR end to end": _step(whole="residual"),
    }
    peaks = {name: peak_tensor_bytes(step) for name, step in steps.items()}
    whole = "OJR end to end"
    return [
        *(memory_row(PAPER, name, "a plain step", peak, plain) for name, peak in peaks.items()),
        *(
            memory_row(PAPER, whole, name, peaks[whole], peak_tensor_bytes(step))
            for name, step in _peers().items()
        ),
    ]


def growth(scale: str) -> list[BenchmarkRow]:
    """The residual end to end as depth, width, classes and probes grow."""
    base, rows = _step(whole="residual"), []
    grown = {
        "40 layers": (_step(whole="residual", depth=2 * DEPTH), 2),
        "width 512": (_step(whole="residual", width=2 * WIDTH), 4),
        "100 classes": (_step(whole="residual", classes=10 * CLASSES), 1),
        "4 probes": (_step(whole="residual", probes=4), 4),
    }
    with one_thread():
        for name, (step, factor) in grown.items():
            found = compare(step, base, _repeats(scale))
            note = f"{factor} times the work"
            rows.append(found.row(PAPER, f"OJR end to end, {name}", "20 layers of 256", note))
    return rows


def _peers() -> dict[str, Step]:
    """Steps with other penalties of the whole network's Jacobian."""
    return {
        "Jacobian-Frobenius, one vector": _step(frobenius=True),
        "whole Jacobians by torch.func": _step(transforms=True),
    }


def _repeats(scale: str) -> int:
    return 3 if scale == "smoke" else 9


def _step(
    layers: int = 0,
    whole: Estimator | None = None,
    frobenius: bool = False,
    penalise_weights: bool = False,
    transforms: bool = False,
    depth: int = DEPTH,
    width: int = WIDTH,
    classes: int = CLASSES,
    probes: int = 1,
) -> Step:
    """One training step with at most one penalty."""
    torch.manual_seed(0)
    settings = Perceptron(kind="perceptron", activation="tanh", depth=depth, width=width)
    network = build_network(settings, (1, 8, 8), classes)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.randn(BATCH, 1, 8, 8), torch.randint(classes, (BATCH,))
    penalty: Callable[[], Tensor] | None = None
    if layers:
        penalty = BlockRegularizer(network, network.blocks, 1.0, sampled=layers).penalty
    elif whole:
        of_whole = JacobianOrthogonality(network, estimator=whole, probes=probes)
        penalty = lambda: of_whole(x)  # noqa: E731
    elif frobenius:
        of_norm = JacobianFrobenius(network)
        penalty = lambda: of_norm(x)  # noqa: E731
    elif transforms:
        penalty = lambda: _by_transforms(network, x)  # noqa: E731
    elif penalise_weights:
        penalty = lambda: weight_penalty("so", network.weighted)  # noqa: E731

    def step() -> None:
        loss = functional.cross_entropy(network(x), y)
        if penalty is not None:
            loss = loss + penalty()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _by_transforms(network: nn.Module, x: Tensor) -> Tensor:
    """The exact penalty from whole Jacobians of torch.func, faster than the library's."""

    def one(example: Tensor) -> Tensor:
        logits: Tensor = network(example.unsqueeze(0)).squeeze(0)
        return logits

    jacobians: Tensor = vmap(jacrev(one))(x).flatten(2)
    defect = jacobians @ jacobians.mT - torch.eye(jacobians.shape[1])
    penalty: Tensor = defect.square().sum((1, 2)).mean() / jacobians.shape[1]
    return penalty


BENCHMARKS = {
    "overhead": overhead,
    "beside_others": beside_others,
    "memory": memory,
    "growth": growth,
}
