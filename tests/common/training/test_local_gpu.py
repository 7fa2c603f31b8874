"""A run takes a GPU that is its own, before CUDA is asked for any, or says that there is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import InputError
from common.experiments.schema import RunKey
from common.experiments.settings import Settings
from common.runs.record import read_record
from common.runs.run import Run
from common.training.local_gpu import claimed_device, claimed_gpu


class Nothing(Settings):
    """A program without settings."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str | None]:
    """A machine with two GPUs; what was visible at each question that initialises CUDA."""
    found: list[str | None] = []

    def answer(value: Any) -> Callable[..., Any]:
        def ask(*_: Any) -> Any:
            found.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
            return value

        return ask

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # NVML counts them
    monkeypatch.setattr(torch.cuda, "is_available", answer(True))
    monkeypatch.setattr(torch.cuda, "get_device_name", answer("a GPU"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", answer(7))
    locked = partial(claimed_gpu, locks=tmp_path / "locks")
    monkeypatch.setattr("common.training.local_gpu.claimed_gpu", locked)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def opened(folder: Path) -> Run:
    key = RunKey("test", "study", "case", "arm", 0, "smoke")
    return Run(key, "train", Nothing(), folder / "out", folder / "work")


def test_a_run_holds_its_gpu_to_its_end_and_notes_the_memory(
    asked: list[str | None], tmp_path: Path
) -> None:
    with opened(tmp_path / "first") as first:
        assert first.hold(claimed_device("auto", first)).type == "cuda"
        del os.environ["CUDA_VISIBLE_DEVICES"]  # as another process beside it has it
        with opened(tmp_path / "second") as second:
            assert second.hold(claimed_device("cuda", second)).type == "cuda"
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
            made = read_record(second.finish({"loss": 1.0})).provenance
        assert (made.device, made.peak_gpu_bytes) == ("a GPU", 7)
        assert asked == ["0", "0", "1", "1", "1"]
        os.environ["CUDA_VISIBLE_DEVICES"] = "taken back by the claim"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_run_on_the_cpu_claims_nothing_and_asks_nothing(
    asked: list[str | None], tmp_path: Path
) -> None:
    with opened(tmp_path) as run:
        assert run.hold(claimed_device("cpu", run)).type == "cpu"
        assert run.device == "cpu"
        assert run.measure_gpu() == 0
    assert asked == []
    assert not (tmp_path / "locks").exists()


def test_a_gpu_that_is_not_there_is_refused_and_the_claim_given_back(
    asked: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with opened(tmp_path) as run:
        with pytest.raises(InputError, match=r"schedule\.gpu: true: there is no GPU here"):
            run.hold(claimed_device("cuda", run, "schedule.gpu: true"))
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
        assert run.hold(claimed_device("auto", run)).type == "cpu"
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_run_that_fails_gives_its_gpu_back(asked: list[str | None], tmp_path: Path) -> None:
    run = opened(tmp_path)

    def fail() -> None:
        with run:
            run.hold(claimed_device("auto", run))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
