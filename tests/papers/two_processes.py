"""A program in two gloo processes, and what both of them found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.testing import assert_close

from common import ROOT

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def run_two_processes(module: str, folder: Path) -> list[dict[str, Any]]:
    """What the program ``module``, which is given ``folder``, leaves there as ``<rank>.pt``."""
    done = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, module, str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def both(found: list[dict[str, Any]], part: str, name: str) -> Any:
    """What both processes found alike, to the bit."""
    first, second = (each[part][name] for each in found)
    assert_close(first, second, rtol=0, atol=0)
    return first
