"""Facts of experiments that torchrun starts: the same run as one process, or one line why not."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common import ROOT
from common.errors import InputError
from common.runs.programs import Programs
from common.runs.record import read_record
from common.tasks.batches import Batches
from common.training import CoreSettings
from papers.betty.distribution.data_shares import take_share
from papers.betty.tasks.training import choose_strategy
from tests.papers.betty.runs import FOLDER, metrics_of, opened, settings_of

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
CORE = {"device": "cpu", "strategy": "ddp", "global_batch_size": 64}


def in_two(
    experiment: str, arm: str, folder: Path, **changes: Any
) -> subprocess.CompletedProcess[str]:
    """An arm at smoke scale, run by two processes in ``folder``."""
    given = {"core": CORE, **changes}
    sets = [
        part for name, value in given.items() for part in ("--set", f"{name}={json.dumps(value)}")
    ]
    where = ["--out", str(folder / "out"), "--work", str(folder / "work")]
    command = [str(FOLDER / "train.py"), experiment, "--arm", arm, "--scale", "smoke"]
    return subprocess.run(
        [sys.executable, "-m", *TORCHRUN, *command, *where, *sets],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def history(folder: Path) -> list[dict[str, float]]:
    """Rows of validation that a run left."""
    with (folder / "out" / "history.csv").open(encoding="utf8") as stream:
        return [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(stream)]


@pytest.mark.parametrize(
    ("arm", "tolerance"),
    [
        ("baseline", 1e-3),
        # The mean of two hypergradients: one sample more or less of 600 is right, and what falls
        # on a border differs between processors.
        ("darts", 1.0),
    ],
)
def test_two_processes_train_as_one_does(arm: str, tolerance: float, tmp_path: Path) -> None:
    experiment = "meta_weight_net"
    changes = {"iterations": 30, "validate_every": 10}
    done = in_two(experiment, arm, tmp_path / "two", **changes)
    assert done.returncode == 0, done.stderr
    found = read_record(tmp_path / "two" / "out" / "record.json").metrics
    one = metrics_of(experiment, settings_of(experiment, arm, **changes), tmp_path / "one")
    assert found["accuracy_pct"] == pytest.approx(one["accuracy_pct"], abs=tolerance)
    rows, expected = history(tmp_path / "two"), history(tmp_path / "one")
    assert [row["iteration"] for row in rows] == [10, 20, 30]
    for row, other in zip(rows, expected, strict=True):
        assert row["accuracy_pct"] == pytest.approx(other["accuracy_pct"], abs=tolerance)


def of_two(strategy: Any) -> Any:
    """What a program asks of the core in the first of two processes."""
    settings = CoreSettings(strategy=strategy, global_batch_size=2)
    return SimpleNamespace(world_size=2, device=torch.device("cpu"), settings=settings)


def test_programs_say_in_one_line_what_several_processes_cannot() -> None:
    assert choose_strategy(of_two("ddp")) == "accelerate"
    with pytest.raises(InputError, match="started 2 processes; allowed: one, for the batches of"):
        choose_strategy(of_two("ddp"), divisible=False)
    with pytest.raises(InputError, match=r"core\.strategy fsdp: allowed here: ddp"):
        choose_strategy(of_two("fsdp"))


@pytest.mark.parametrize(("experiment", "arm"), [("regression_hpo", "cg"), ("implicit_maml", "cg")])
def test_programs_whose_batches_are_not_divided_say_so(
    experiment: str, arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Programs(FOLDER)[experiment]
    module = sys.modules[program.run.__module__]
    monkeypatch.setattr(module, "Core", lambda *_: of_two("ddp"))
    settings = settings_of(experiment, arm)
    with (
        opened(experiment, settings, tmp_path) as run,
        pytest.raises(InputError, match="started 2 processes; allowed: one"),
    ):
        program.run(settings, run)


def test_processes_share_every_batch_and_go_on_alike() -> None:
    rows = torch.arange(10)
    whole = [batch for (batch,) in Batches(rows, size=4, seed=1)]
    shares = [Batches(rows, size=4, seed=1).divided(rank, 2) for rank in range(2)]
    halves = zip(*shares, strict=True)
    assert [torch.cat([a, b]).tolist() for (a,), (b,) in halves] == [b.tolist() for b in whole]
    assert shares[0].state_dict() == shares[1].state_dict() == {"epoch": 1, "taken": 0}
    first_of_three: Any = SimpleNamespace(rank=0, world_size=3)
    said = "problem 'lower': batches of 10 samples: must be a multiple of the 3 processes"
    with pytest.raises(InputError, match=said):
        take_share(Batches(rows, size=12, seed=1), first_of_three, "lower")
