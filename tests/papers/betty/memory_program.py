"""Passes through small convolutions, for a test that watches the memory that they write to.

``python -m tests.papers.betty.memory_program WHAT...``, of ``overrun``, ``core``, ``cells``.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from common.experiments.schema import RunKey
from common.experiments.settings import Settings
from common.runs.run import Run
from common.training import Core, CoreSettings
from papers.betty.tasks.cell_network import CellNetwork
from papers.betty.tasks.search_space import all_candidates


def overrun() -> None:
    """Write one byte past a tensor."""
    block = torch.ones(5000, dtype=torch.uint8)
    ctypes.memset(block.data_ptr(), 1, 5001)


def core() -> None:
    """The smallest network whose channels-last form is known to fail, as the core prepares it."""
    with tempfile.TemporaryDirectory() as folder:
        key = RunKey("test", "memory", "only", "arm", 0, "smoke")
        run = Run(key, "memory", Settings(), Path(folder) / "out", Path(folder) / "work")
        with run:
            prepared = Core(CoreSettings(device="cpu", global_batch_size=64), run)
            model: nn.Module = nn.Conv2d(4, 2, 1, stride=2, bias=False)
            optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
            model, optimiser = prepared.prepare(model, optimiser)
            images = torch.randn(64, 4, 8, 8, requires_grad=True)
            for _ in range(300):
                prepared.backward(model(images).square().mean())
            prepared.finish()


def cells() -> None:
    """A small network of all candidates, on grey and colour images as NumPy's pictures are."""
    for colours in (1, 3):
        network = CellNetwork(all_candidates(1), 3, 4, colours, affine=False)
        mixture = torch.full((2, 2, 8), 1 / 8)
        for _ in range(8):
            images = torch.randn(50, 8, 8, colours).permute(0, 3, 1, 2)
            loss: Tensor = network(images, mixture).main.square().mean()
            loss.backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in sys.argv[1:]:
        {"overrun": overrun, "core": core, "cells": cells}[name]()
        print(name)
