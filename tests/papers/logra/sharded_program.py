"""Captures a sharded and a plain network's gradients on two processes; run by torchrun."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from papers.logra.capture import Capture
from papers.logra.projections import random_projections
from papers.logra.watching import watched


def network() -> nn.Sequential:
    """The same in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def main() -> None:
    """Fail unless both are equal, twice, and the sharded network still trains as the plain one."""
    distributed.init_process_group("gloo")
    plain, sharded = network(), network()
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in (*sharded[::2], sharded):
        fully_shard(layer, mesh=mesh)
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
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
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
