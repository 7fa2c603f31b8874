"""Step time and memory of the kernel discriminator beside a network, and how they grow.

Floor of an iteration: the generator's forward and backward pass, and tables of kernel values of
(2B, M) for the update and (B, M) for each generator step, of which each entry takes an exponential
and about 4 (d + 1) multiplications.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Final

import torch

from common.results.benchmarks import BenchmarkRow, compare, memory_row, one_thread
from common.training.peak_memory import peak_tensor_bytes
from papers.okgan.benchmarks.peers import (
    autograd_sum,
    fused_sum,
    keops_sum,
    kernel_discriminator,
    naive_sum,
    network_discriminator,
    training_step,
    value_and_gradient,
)

PAPER = "okgan"
BUDGET: Final = 1024
BUDGETS: Final = {
    "smoke": (256, 1024),
    "laptop": (256, 1024, 4096, 16384, 65536),
    "paper": (256, 1024, 4096, 16384, 65536),
}
DIMENSIONS: Final = {"smoke": (16,), "laptop": (16, 128, 784), "paper": (16, 128, 784)}
BATCHES: Final = {"smoke": (256,), "laptop": (32, 512), "paper": (32, 512)}
#: Layers and width of the network beside it.
NETWORKS: Final = ((3, 64), (3, 256))


def beside_a_network(scale: str) -> list[BenchmarkRow]:
    """An iteration on the ring with 1 or 3 generator steps, ours over a GAN's."""
    rows = []
    repeats = 3 if scale == "smoke" else 7
    with one_thread():
        for layers, width in NETWORKS:
            for steps in (1, 3):
                mine = training_step(kernel_discriminator(BUDGET), generator_steps=steps)
                theirs = training_step(network_discriminator(width, layers), generator_steps=steps)
                found = compare(_times(mine, 10), _times(theirs, 10), repeats)
                what = f"iteration of {steps} generator step{'s'[: steps - 1]}, budget {BUDGET:,}"
                rows.append(found.row(PAPER, what, f"GAN, {layers} layers of {width}"))
    return rows


def beside_other_sums(scale: str) -> list[BenchmarkRow]:
    """The gradient of f at 128 points, ours over a loop, one table by autograd, and KeOps."""
    rows = []
    repeats = 3 if scale == "smoke" else 7
    with one_thread():
        for budget in BUDGETS[scale]:
            torch.manual_seed(0)
            inputs = torch.randn(128, 2), torch.randn(budget, 2), torch.randn(budget)
            peers = {"one table, autograd": autograd_sum(1.0), "KeOps": keops_sum(1.0, 2)}
            if budget <= BUDGET:
                peers["loop over keys"] = naive_sum(1.0)
            mine = value_and_gradient(fused_sum(1.0), *inputs)
            for name, peer in peers.items():
                if peer is None:
                    continue
                apart = float((value_and_gradient(peer, *inputs) - mine).abs().max())
                if apart > 1e-3 * float(mine.abs().max()):
                    raise ValueError(f"{name}: gradients differ by {apart}")
                count = max(1, 4 * BUDGET // budget)
                ours, theirs = (
                    partial(value_and_gradient, total, *inputs) for total in (fused_sum(1.0), peer)
                )
                found = compare(_times(ours, count), _times(theirs, count), repeats)
                rows.append(found.row(PAPER, f"gradient of f, {budget:,} keys", name))
    return rows


def growth(scale: str) -> list[BenchmarkRow]:
    """An iteration as budget, dimension and batch grow, over that of 1,024 keys, 2, and 128."""
    rows = []
    repeats = 3 if scale == "smoke" else 5
    with one_thread():
        base = training_step(kernel_discriminator(BUDGET))
        for budget in BUDGETS[scale]:
            if budget == BUDGET:
                continue
            mine = training_step(kernel_discriminator(budget))
            rows.append(_grown(f"budget {budget:,}", budget / BUDGET, mine, base, repeats))
        for features in DIMENSIONS[scale]:
            mine = training_step(kernel_discriminator(BUDGET, features), features=features)
            rows.append(_grown(f"dimension {features}", features / 2, mine, base, repeats))
        for batch in BATCHES[scale]:
            mine = training_step(kernel_discriminator(BUDGET), batch)
            rows.append(_grown(f"batch {batch}", batch / 128, mine, base, repeats))
    return rows


def memory(scale: str) -> list[BenchmarkRow]:
    """Most bytes in tensors during an iteration: beside a network, with the budget, over time."""
    rows = []

    def peak(step: Callable[[], object], before: int = 2) -> int:
        for _ in range(before):
            step()
        gc.collect()
        return peak_tensor_bytes(step)

    base = peak(training_step(kernel_discriminator(BUDGET)))
    for layers, width in NETWORKS:
        theirs = peak(training_step(network_discriminator(width, layers)))
        what = f"iteration, budget {BUDGET:,}"
        rows.append(memory_row(PAPER, what, f"GAN, {layers} layers of {width}", base, theirs))
    for budget in BUDGETS[scale][-1:]:
        grown = peak(training_step(kernel_discriminator(budget)))
        note = f"{budget / BUDGET:g} times the budget"
        peer = f"budget {BUDGET:,}"
        rows.append(memory_row(PAPER, f"iteration, budget {budget:,}", peer, grown, base, note))
    later = peak(training_step(kernel_discriminator(BUDGET)), 30 if scale == "smoke" else 500)
    rows.append(memory_row(PAPER, "iteration, after 500 others", "after 2 others", later, base))
    return rows


def _grown(
    what: str, factor: float, mine: Callable[[], object], base: Callable[[], object], repeats: int
) -> BenchmarkRow:
    peer = f"budget {BUDGET:,}, dimension 2, batch 128"
    return compare(mine, base, repeats).row(PAPER, f"iteration, {what}", peer, f"{factor:g} times")


def _times(step: Callable[[], object], count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            step()

    return run


BENCHMARKS = {
    "beside_a_network": beside_a_network,
    "beside_other_sums": beside_other_sums,
    "growth": growth,
    "memory": memory,
}
