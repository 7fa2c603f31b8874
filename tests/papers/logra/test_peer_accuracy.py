"""Libraries are compared on equal terms: the same models, the same numbers kept of a sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from papers.logra.benchmarks.peer_accuracy import DigitsTask, kept, retrained_margins, task_at
from papers.logra.methods.attribution import InfluenceSettings, LoggedTrainingSet
from papers.logra.tasks.samples import compute_logits, margins


@pytest.fixture(scope="module")
def task() -> DigitsTask:
    return task_at("smoke")


@pytest.mark.parametrize("rank", [4, 16])
def test_trak_keeps_as_many_numbers_as_logra(task: DigitsTask, rank: int, tmp_path: Path) -> None:
    settings = InfluenceSettings(rank=rank)
    logged = LoggedTrainingSet(settings, task.model(0), task.train, 0, tmp_path / "log")
    assert logged.run.layout.width == kept(task, rank)


def test_models_have_weights_alone_and_learn(task: DigitsTask) -> None:
    model = task.model(0)
    assert [name for name, _ in model.named_parameters() if "bias" in name] == []
    right = compute_logits(model, task.queries).argmax(1) == task.queries.y
    assert right.float().mean() > 0.6


def test_margins_are_meant_over_the_models_of_a_subset(task: DigitsTask) -> None:
    subsets = torch.arange(192).view(2, 96)
    found = retrained_margins(task, subsets, 2)
    models = [task.model(1_000_002 + again, subsets[1]) for again in range(2)]
    own = [margins(compute_logits(model, task.queries), task.queries.y) for model in models]
    torch.testing.assert_close(found[1], (own[0] + own[1]) / 2)
