"""Long loops that were killed go on, and end where ones that were not end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import InputError
from common.runs.run import Run
from common.training import local_gpu
from papers.logra.tasks import classifier_training, devices
from papers.logra.tasks.checkpoints import Checkpoint, resumable
from papers.logra.tasks.classifier_training import TrainingSettings, train
from papers.logra.tasks.devices import take_device
from papers.logra.tasks.samples import Samples
from tests.papers.logra.runs import opened, settings_of

SETTINGS = TrainingSettings(lr=0.1, weight_decay=1e-2, batch_size=8, epochs=3, augment=True)


class Killed(BaseException):
    """In place of a signal that ends the process."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return opened("spectrum", "head", settings_of("spectrum", "head"))


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(2 * 36, 3))


def data() -> Samples:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 1, 8, 8, generator=generator)
    return Samples(x, torch.randint(3, (20,), generator=generator))


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_killed_training_ends_in_the_same_bits(
    run: Run, optimiser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"optimiser": optimiser})
    whole = train(network(), data(), settings, 5)
    rate, steps = classifier_training.rate_at, []

    def killing(step: int, *rest: Any) -> float:
        steps.append(step)
        if step == 4 and steps.count(4) == 1:
            raise Killed
        return rate(step, *rest)

    monkeypatch.setattr(classifier_training, "rate_at", killing)
    with run:
        with pytest.raises(Killed):
            train(network(), data(), settings, 5, Checkpoint(run, "training", seconds=0))
        resumed = train(network(), data(), settings, 5, Checkpoint(run, "training", seconds=0))
    assert steps == [0, 1, 2, 3, 4, 4, 5]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert not (run.work / "training").exists()


def test_parts_that_were_done_are_not_done_again(run: Run) -> None:
    made: list[int] = []

    def part(place: int, killed: int) -> torch.Tensor:
        if place == killed:
            raise Killed
        made.append(place)
        return torch.full((2,), float(place))

    def loop(killed: int = -1) -> list[torch.Tensor]:
        parts = [lambda p=place: part(p, killed) for place in range(4)]  # type: ignore[misc]
        return resumable(parts, Checkpoint(run, "loop", seconds=0))

    with run:
        with pytest.raises(Killed):
            loop(killed=2)
        found = loop()
    assert made == [0, 1, 2, 3]
    assert torch.stack(found).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_short_loops_write_nothing(run: Run) -> None:
    with run:
        train(network(), data(), SETTINGS, 5, Checkpoint(run, "training"))
        assert not run.work.exists()


def test_a_gpu_is_claimed_by_the_shared_means(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "visible_gpus", lambda: 2)
    monkeypatch.setattr(
        devices, "claimed_gpu", lambda count: local_gpu.claimed_gpu(count, tmp_path / "locks")
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    with local_gpu.claimed_gpu(2, tmp_path / "locks"):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # another process's, which has the first one
        assert take_device("auto", run) == torch.device("cuda")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        devices._claims.close()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert take_device("cpu", run) == torch.device("cpu")


def test_no_gpu_is_an_error_where_one_is_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device cuda: there is no GPU"):
        take_device("cuda", run)
