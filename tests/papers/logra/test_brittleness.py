"""What is removed is what scores highest, and curves of flipped images only rise."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.training.checkpoint import Checkpoint
from papers.logra.experiments.brittleness import flipped_shares, losses_of_whole, without_best
from papers.logra.experiments.subset_retraining import RETRAINING_SEED, half_subsets
from papers.logra.tasks import image_task
from papers.logra.tasks.image_task import ImageTask
from papers.logra.tasks.samples import compute_logits, losses
from tests.papers.logra.runs import metrics_of, opened, settings_of


def test_the_highest_scores_are_removed() -> None:
    scores = torch.tensor([[3.0, -1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    assert without_best(scores, 2).tolist() == [[1, 3], [0, 1]]


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(0, 10_000))
def test_a_curve_never_falls(removals: int, images: int, retrainings: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(removals, images, retrainings, generator=generator) < 0.6
    shares = flipped_shares(correct).tolist()
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


def test_an_image_is_flipped_if_most_of_its_models_are_wrong() -> None:
    correct = torch.tensor([[[1, 1, 0], [1, 0, 0]], [[0, 0, 1], [1, 1, 1]]]).bool()
    assert flipped_shares(correct).tolist() == [0.5, 1.0]


def test_removing_valuable_images_hurts_more_than_removing_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.8 to 7.8 times the loss, with seeds 0 to 5."""
    monkeypatch.chdir(tmp_path)
    named, random = (metrics_of("brittleness", arm) for arm in ("logra_random", "random"))
    assert named["loss_0"] == random["loss_0"]  # the same images and models
    assert named["loss_10"] > 1.3 * random["loss_10"]


def test_models_of_the_whole_set_judge_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of("brittleness", "random")
    with opened("brittleness", "random", settings) as run:
        task = ImageTask(settings, run)
    tested = task.images.test.take(slice(3))
    found = losses_of_whole(task, tested, retrainings=2, seed=1)
    # Runs of other seeds retrain other models: as many as there are images and repetitions.
    model = task.model(RETRAINING_SEED + 1 * 3 * 2 + 1)
    torch.testing.assert_close(found[1], losses(compute_logits(model, tested), tested.y))
    assert not found[0].allclose(found[1])


class Killed(BaseException):
    """In place of a signal that ends the process."""


def test_a_killed_retraining_goes_on_for_its_own_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of("brittleness", "random", models_at_once=1)
    retrain, calls = ImageTask._retrained, []

    def killed_second(*args: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        return retrain(*args)

    with opened("brittleness", "random", settings) as run:
        task = ImageTask(settings, run)
        first, second = (task.images.test.take(slice(at, at + 3)) for at in (0, 3))
        models = half_subsets(2, len(task.images.train.x)), (5, 6)
        whole = [task.retrained_logits(*models, images) for images in (first, second)]
        monkeypatch.setattr(image_task, "Checkpoint", partial(Checkpoint, seconds=0))
        monkeypatch.setattr(ImageTask, "_retrained", killed_second)
        with pytest.raises(Killed):
            task.retrained_logits(*models, first)
        assert torch.equal(task.retrained_logits(*models, second), whole[1])
        assert torch.equal(task.retrained_logits(*models, first), whole[0])
    assert len(calls) == 2 + 2 + 1


def test_more_images_than_are_always_right_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="images_tested 48; allowed: at most"):
        metrics_of("brittleness", "random", images_tested=48)


def test_removals_must_rise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="ascending"):
        metrics_of("brittleness", "random", removals=[10, 5])
