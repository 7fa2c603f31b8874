"""Captures and logs gradients of a sharded network on two processes; run by torchrun."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from papers.logra import LogIX, LogIXScheduler, LoRAConfig
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.projections import random_projections
from papers.logra.gradients.watching import watched
from papers.logra.scoring.influence import Scores

#: Ways of projecting and Hessians.
SCHEDULES = [("none", "raw"), ("pca", "ekfac"), ("random", "kfac")]


def network() -> nn.Sequential:
    """The same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def data() -> tuple[Tensor, Tensor]:
    """Samples, the same in every process."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def sharded_network() -> nn.Sequential:
    """:func:`network`, each process with its shard."""
    sharded = network()
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in (*sharded[::2], sharded):
        fully_shard(layer, mesh=mesh)
    return sharded


def log_and_score(model: nn.Module, share: slice, lora: Any, hessian: Any) -> Scores:
    """Log a share of the samples in two batches, and score all that is stored for three queries."""
    run = LogIX(f"{lora} {hessian}")
    run.set_lora_config(LoRAConfig(rank=3))
    run.watch(model)
    x, y = data()
    for _ in LogIXScheduler(run, lora, hessian, save="grad"):
        for part in torch.arange(8)[share].chunk(2):
            with run(data_id=part):
                functional.cross_entropy(model(x[part]), y[part], reduction="sum").backward()
    run.finalize()
    return score(run, model)


def score(run: LogIX, model: nn.Module) -> Scores:
    """All that is stored for three queries."""
    x, y = data()
    with run(data_id=["a", "b", "c"]):
        functional.cross_entropy(model(x[:3] + 0.1), y[:3], reduction="sum").backward()
    return run.compute_influence_all()


def main() -> None:
    """Fail unless both are equal, twice, and the sharded network still trains as the plain one.

    Then scores of the sharded one are written into the working folder.
    """
    distributed.init_process_group("gloo")
    plain, sharded = network(), sharded_network()
    x, y = data()
    mine = slice(4 * distributed.get_rank(), 4 * distributed.get_rank() + 4)
    projections = random_projections(watched(plain), rank=3, seed=0)

    def captured(model: nn.Module) -> Tensor:
        capture = Capture(model, watched(model), projections)
        with capture.batch() as batch:
            functional.cross_entropy(model(x[mine]), y[mine], reduction="sum").backward()
        return batch.matrix

    for _ in range(2):
        torch.testing.assert_close(captured(sharded), captured(plain))
    for model in (plain, sharded):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for ours, theirs in zip(sharded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.full_tensor(), theirs.detach())  # type: ignore[attr-defined]
    print("equal", flush=True)
    sharded = sharded_network()
    for lora, hessian in SCHEDULES:
        found = log_and_score(sharded, mine, lora, hessian)
        torch.save(found, f"{lora} {hessian} {distributed.get_rank()}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
