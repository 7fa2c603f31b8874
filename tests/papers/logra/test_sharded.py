"""A model that FSDP2 shards over processes gives gradients, logs and scores of a whole one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common import ROOT
from papers.logra import LogIX
from tests.papers.logra.sharded_program import SCHEDULES, log_and_score, network, score


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What two processes said, in whose folder we are then."""
    folder = tmp_path_factory.mktemp("sharded")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        (*launch, "-m", "tests.papers.logra.sharded_program"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with chdir(folder):
        yield done.stdout


def test_a_sharded_model_gives_the_gradients_of_a_whole_one_and_trains_on(said: str) -> None:
    assert said.count("equal") == 2


@pytest.mark.parametrize(("lora", "hessian"), SCHEDULES)
def test_scores_of_a_sharded_model_are_those_of_a_whole_one(
    said: str, lora: str, hessian: str, tmp_path: Path
) -> None:
    with chdir(tmp_path):
        expected = log_and_score(network(), slice(None), lora, hessian)
    later = LogIX(f"{lora} {hessian}")
    later.watch(network())
    later.initialize_from_log()
    # The store of the sharded model is one of the whole model: it has its digest.
    for found in (
        *(torch.load(f"{lora} {hessian} {rank}.pt", weights_only=True) for rank in (0, 1)),
        score(later, later._model().model),
    ):
        assert found["tgt_ids"] == expected["tgt_ids"]
        assert isinstance(found["influence"], Tensor)
        torch.testing.assert_close(
            found["influence"],
            expected["influence"],
            rtol=1e-5,
            atol=1e-5 * float(expected["influence"].abs().max()),
        )
