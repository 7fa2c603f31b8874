"""Long loops that were killed go on, and end where ones that were not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from papers.logra.tasks import classifier_training
from papers.logra.tasks.classifier_training import TrainingSettings, train
from papers.logra.tasks.resumable import compute_parts
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
    assert not (run.work / "states" / "training").exists()


def test_parts_that_were_done_are_not_done_again(run: Run) -> None:
    made: list[int] = []

    def part(place: int, killed: int) -> torch.Tensor:
        if place == killed:
            raise Killed
        made.append(place)
        return torch.full((2,), float(place))

    def loop(killed: int = -1) -> list[torch.Tensor]:
        parts = [lambda p=place: part(p, killed) for place in range(4)]  # type: ignore[misc]
        return compute_parts(parts, Checkpoint(run, "loop", seconds=0))

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
