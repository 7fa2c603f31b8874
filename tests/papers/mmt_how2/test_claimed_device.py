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
from common.training.local_gpu import claimed_gpu
from papers.mmt_how2.methods.claimed_device import claimed_device
from papers.mmt_how2.translation.training_settings import Schedule
from tests.papers.mmt_how2.runs import opened, settings_of

CPU = Schedule(epochs=1, batch_size=1)
GPU = CPU.model_copy(update={"gpu": True})


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


def test_a_gpu_is_held_for_a_run_of_which_one_schedule_asks_for_it(
    asked: list[str | None], tmp_path: Path
) -> None:
    with opened(
        "splits", "corpus", "sizes", settings_of("splits", "corpus", "sizes"), tmp_path
    ) as run:
        with claimed_device([CPU, GPU], run) as device:
            assert device.type == "cuda"
            del os.environ["CUDA_VISIBLE_DEVICES"]  # as another process beside it has it
            with claimed_device([GPU], run):
                pass
            os.environ["CUDA_VISIBLE_DEVICES"] = "taken back by the claim"
        assert asked == ["0", "0", "1", "1", "1", "taken back by the claim"]
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
        assert (run.device, run.precision, run.peak_gpu_bytes) == ("a GPU", "float32", 7)


def test_a_run_on_the_cpu_claims_nothing_and_asks_nothing(
    asked: list[str | None], tmp_path: Path
) -> None:
    with opened(
        "splits", "corpus", "sizes", settings_of("splits", "corpus", "sizes"), tmp_path
    ) as run:
        with claimed_device([CPU], run) as device:
            assert device.type == "cpu"
        assert (run.device, run.precision) == ("cpu", "float32")
    assert asked == []
    assert not (tmp_path / "locks").exists()


def test_a_gpu_that_is_not_there_is_refused_and_the_claim_given_back(
    asked: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        opened(
            "splits", "corpus", "sizes", settings_of("splits", "corpus", "sizes"), tmp_path
        ) as run,
        pytest.raises(InputError, match=r"schedule\.gpu: true; there is no GPU here"),
        claimed_device([GPU], run),
    ):
        pass
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
