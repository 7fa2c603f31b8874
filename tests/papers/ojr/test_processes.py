"""Two processes that share a batch regularise as one does."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from papers.ojr.orthogonality import BlockRegularizer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)]
    return nn.Sequential(*layers, nn.Linear(6, 3)).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    return x, torch.arange(8) % 3


def gradients(net: nn.Module, blocks: list[str], x: Tensor, y: Tensor) -> list[Tensor]:
    """Of loss and penalty of two of three blocks, the same two in each process."""
    with BlockRegularizer(
        net,
        blocks,
        weight=0.5,
        sampled=2,
        generator=torch.Generator().manual_seed(3),
        estimator="exact",
    ) as regularizer:
        loss = nn.functional.cross_entropy(net(x), y)
        (loss + regularizer.penalty()).backward()  # type: ignore[no-untyped-call]
    return [weight.grad for weight in net.parameters() if weight.grad is not None]


def _half(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    x, y = (part[rank::2] for part in data())
    parallel = DistributedDataParallel(network())
    torch.save(gradients(parallel, ["module.0", "module.1", "module.2"], x, y), folder / f"{rank}")
    distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one_on_the_whole_batch(tmp_path: Path) -> None:
    multiprocessing.start_processes(_half, (tmp_path,), nprocs=2, start_method="fork")
    expected = gradients(network(), ["0", "1", "2"], *data())
    assert len(expected) == 8
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}"), expected)
