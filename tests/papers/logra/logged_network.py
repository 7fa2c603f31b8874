"""A small network and its data, logged by runs and scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from papers.logra import LogIX, LogIXScheduler

N, BATCH = 21, 6


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    return nn.Sequential(*layers).to(dtype)


def data(n: int = N, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 6, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(3, (n,), generator=generator)


def batches(size: int = BATCH) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    inputs, targets = data()
    for start in range(0, N, size):
        part = slice(start, start + size)
        yield [str(i) for i in range(N)[part]], inputs[part], targets[part]


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(model(inputs), targets, reduction="sum")


def log_all(run: LogIX, model: nn.Module, size: int = BATCH) -> None:
    for ids, inputs, targets in batches(size):
        with run(data_id=ids):
            loss(model, inputs, targets).backward()


def queried(run: LogIX, model: nn.Module) -> Any:
    inputs, targets = data(4, seed=2)
    with run(data_id=["a", "b", "c", "d"]):
        loss(model, inputs, targets).backward()
    return run.get_log()


def logged(run: LogIX, model: nn.Module, size: int = BATCH, **schedule: Any) -> LogIX:
    run.watch(model)
    for _ in LogIXScheduler(run, save="grad", **schedule):
        log_all(run, model, size)
    run.finalize()
    return run


def scored(run: LogIX, model: nn.Module, **options: Any) -> Tensor:
    found = run.compute_influence_all(queried(run, model), run.build_log_dataloader(), **options)
    assert found["src_ids"] == ["a", "b", "c", "d"]
    assert found["tgt_ids"] == [str(i) for i in range(N)]
    assert isinstance(found["influence"], Tensor)
    return found["influence"]
