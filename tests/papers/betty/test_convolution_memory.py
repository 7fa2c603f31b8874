"""Convolutions on a CPU write where they may: docs/known_faults.md says which ones do not."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from common import ROOT
from papers.betty.tasks.cell_network import CellNetwork
from papers.betty.tasks.search_space import all_candidates

LIBRARY = "libc_malloc_debug.so.0"
#: Every freed block is checked; oneDNN takes the code for AVX2 where the processor has more too.
WATCHED = {
    "LD_PRELOAD": LIBRARY,
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def watched(*what: str) -> subprocess.CompletedProcess[str]:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        pytest.skip(f"needs glibc's {LIBRARY} (2.34 or later)")
    return subprocess.run(
        (sys.executable, "-m", "tests.papers.betty.memory_program", *what),
        cwd=ROOT, env=os.environ | WATCHED, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_byte_too_many_is_seen() -> None:
    done = watched("overrun")
    assert done.returncode == -signal.SIGABRT
    assert "invalid pointer" in done.stderr


def test_small_convolutions_write_no_byte_too_many() -> None:
    done = watched("core", "cells")
    assert (done.returncode, done.stdout) == (0, "core\ncells\n"), done.stderr


@pytest.mark.parametrize("colours", [1, 3])
def test_cells_compute_row_by_row_on_a_cpu_whatever_the_images_layout(colours: int) -> None:
    network = CellNetwork(all_candidates(1), 3, 4, colours, affine=False)
    outputs: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous()
            module.register_forward_hook(lambda *given: outputs.append(given[2]))
    mixture = torch.full((2, 2, 8), 1 / 8)
    as_stored = torch.randn(5, 8, 8, colours).permute(0, 3, 1, 2)
    row_major = as_stored.clone(memory_format=torch.contiguous_format)
    found = [network(images, mixture).main for images in (as_stored, row_major)]
    assert len(outputs) > 60
    assert all(output.is_contiguous() for output in outputs)
    assert torch.equal(*found)
