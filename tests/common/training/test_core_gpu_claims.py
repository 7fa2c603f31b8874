"""Facts of claims of local GPUs: one holder each, freed however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common import ROOT
from common.errors import InputError
from common.experiments.schema import RunKey
from common.runs.run import Run
from common.training import Core, CoreSettings
from common.training.local_gpu import claimed_gpu
from tests.common.training.core_program import ProgramSettings


def _hold(count: int, locks: Path, talk: Connection) -> None:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        with claimed_gpu(count, locks) as index:
            talk.send((index, os.environ["CUDA_VISIBLE_DEVICES"]))
            talk.recv()
    except InputError as error:
        talk.send(str(error))


def test_claims_take_different_gpus_and_free_them(tmp_path: Path) -> None:
    forked, holders = get_context("fork"), []

    def claim() -> Any:
        ours, theirs = forked.Pipe()
        process = forked.Process(target=_hold, args=(2, tmp_path / "locks", theirs))
        process.start()
        holders.append((process, ours))
        assert ours.poll(300)
        return ours.recv()

    assert claim() == ("0", "0")
    assert claim() == ("1", "1")
    assert "all 2 GPUs are taken; allowed:" in claim()
    holders[0][0].kill()
    holders[0][0].join()
    assert claim() == ("0", "0")
    holders[1][1].send("leave")
    holders[1][0].join()
    assert claim() == ("1", "1")
    for process, _ in holders:
        process.kill()
        process.join()


def test_a_claim_is_taken_back_and_a_given_gpu_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with claimed_gpu(1, tmp_path) as index:
        assert index == os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    for given in ("3", ""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with claimed_gpu(1, tmp_path / "none") as index:
            assert index == os.environ["CUDA_VISIBLE_DEVICES"] == given
    assert not (tmp_path / "none").exists()


class TwoGpus:
    """A machine with two GPUs, where CUDA sees what was visible at the first question to it."""

    def __init__(self, patch: pytest.MonkeyPatch, locks: Path) -> None:
        #: ``CUDA_VISIBLE_DEVICES`` at each question that initialises CUDA.
        self.asked: list[str | None] = []
        self.major, self.there = 9, 2
        cuda = {
            "current_device": lambda: self.ask(0),
            "get_device_properties": lambda _: self.ask(SimpleNamespace(major=self.major)),
            "get_device_name": lambda _: self.ask("a GPU"),
            "_check_bf16_tensor_supported": lambda _: self.ask(True),  # an emulation counts there
            "device_count": lambda: 2,  # by NVML
        }
        for name, function in cuda.items():
            patch.setattr(torch.cuda, name, function)
        patch.setattr(torch._C, "_cuda_getDeviceCount", lambda: self.ask(self.there))
        patch.setattr("common.training.core.claimed_gpu", partial(claimed_gpu, locks=locks))
        idle = SimpleNamespace(device=torch.device("cpu"), end_training=lambda: None)
        patch.setattr("common.training.core.Accelerator", lambda **_: self.ask(idle))
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def ask(self, answer: Any) -> Any:
        self.asked.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        return answer


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TwoGpus]:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    yield TwoGpus(monkeypatch, tmp_path / "locks")
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def new_core(tmp_path: Path) -> Iterator[Callable[..., Core]]:
    runs: list[Run] = []

    def make(**settings: Any) -> Core:
        core_settings = CoreSettings.model_validate({"global_batch_size": 8} | settings)
        full = ProgramSettings(core=core_settings)
        key = RunKey("test", "core", "case", "arm", 3, "smoke")
        run = Run(key, "core", full, tmp_path / f"out{len(runs)}", tmp_path / "work")
        runs.append(run.__enter__())
        return Core(core_settings, run)

    yield make
    for run in runs:
        run.__exit__(None, None, None)


@pytest.mark.parametrize("settings", [{}, {"device": "cuda"}, {"precision": "fp16"}])
def test_a_gpu_is_claimed_before_anything_initialises_cuda(
    settings: dict[str, Any], two_gpus: TwoGpus, new_core: Callable[..., Core]
) -> None:
    first = new_core(**settings)
    assert set(two_gpus.asked) == {"0"}
    del os.environ["CUDA_VISIBLE_DEVICES"]  # as another process beside it has it
    two_gpus.asked.clear()
    second = new_core(**settings)
    assert set(two_gpus.asked) == {"1"}
    for core in (second, first):
        os.environ["CUDA_VISIBLE_DEVICES"] = "taken back by the claim"
        core.finish()
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(("major", "precision"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_auto_is_bf16_where_the_gpu_computes_it_and_does_not_emulate_it(
    major: int, precision: str, two_gpus: TwoGpus, new_core: Callable[..., Core]
) -> None:
    two_gpus.major = major
    core = new_core()
    assert core.precision == core.run.precision == precision
    core.finish()


def test_a_run_on_the_cpu_claims_nothing_and_asks_nothing(
    two_gpus: TwoGpus, new_core: Callable[..., Core], tmp_path: Path
) -> None:
    core = new_core(device="cpu", precision="fp32")
    assert two_gpus.asked == [None]  # by the accelerator alone
    assert not (tmp_path / "locks").exists()
    core.finish()


@pytest.mark.parametrize("by_nvml", ["0", "1"])  # Lightning sets 1 for the whole process
def test_a_refused_run_gives_its_claim_back(
    by_nvml: str, two_gpus: TwoGpus, new_core: Callable[..., Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", by_nvml)
    two_gpus.there = 0  # NVML counts two, and the driver of CUDA none
    with pytest.raises(InputError, match="device cuda: no GPU is visible"):
        new_core(device="cuda")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    core = new_core()
    assert core.precision == "fp32"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    core.finish()


def test_importing_the_core_does_not_initialise_cuda() -> None:
    program = (
        "import sys, torch\n"
        "torch.cuda._device_count_nvml = lambda: 2\n"
        "torch._C._cuda_getDeviceCount = torch._C._cuda_init = lambda: sys.exit('initialised')\n"
        "import common.training, common.training.sharding\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
