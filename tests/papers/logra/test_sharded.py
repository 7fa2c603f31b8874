"""A model that FSDP2 shards over processes gives the gradients of a whole one."""

from __future__ import annotations

import subprocess
import sys

from common import ROOT


def test_a_sharded_model_gives_the_gradients_of_a_whole_one_and_trains_on() -> None:
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        (*launch, "-m", "tests.papers.logra.sharded_program"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("equal") == 2
