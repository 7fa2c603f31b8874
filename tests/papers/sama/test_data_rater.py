"""Facts of the data rater: corruptions, what ratings do, what is counted, resumed runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common import ROOT
from common.errors import InputError
from common.experiments.schema import RunKey
from common.runs.run import Run
from common.training import core as core_module
from papers.sama.experiments.data_rater import run_data_rater
from papers.sama.methods.rating import CharacterModel, Rater, batch_weights
from papers.sama.tasks.rated_texts import CLEAN, CORRUPTIONS, SPACE, corrupt, load_texts
from tests.papers.arms import settings_in

FOLDER = ROOT / "papers" / "sama"


def smoke(arm: str, **changes: Any) -> Any:
    return settings_in(FOLDER, "data_rater", arm, "smoke", "generated", **changes)


def opened(settings: Any, folder: Path) -> Run:
    torch.set_num_threads(1)
    key = RunKey("sama", "data_rater", "generated", "rated", 0, "smoke")
    return Run(key, "data_rater", settings, folder / "out", folder / "work")


def metrics_of(settings: Any, folder: Path) -> dict[str, float]:
    """Metrics of one run, times aside."""
    with opened(settings, folder) as run:
        found = run_data_rater(settings, run)
        run.finish(found)
    return {name: value for name, value in found.items() if not name.endswith("_s")}


def test_a_corruption_keeps_the_characters_it_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = np.array([3, 1, SPACE, 2, 2, 5, SPACE, 4, 1, 7])
    assert sorted(corrupt(text, "characters", rng)) == sorted(text)
    assert corrupt(text, "repeated", rng).tolist() == [3, 1, SPACE, 2, 2] * 2
    words = {tuple(corrupt(text, "words", rng).tolist()) for _ in range(50)}
    assert len(words) == 6
    assert all(sorted(each) == sorted(text) for each in words)


def test_the_share_that_is_asked_for_is_corrupted_by_each_way_as_often(tmp_path: Path) -> None:
    settings = smoke("all", texts=40, corrupted=0.3)
    with opened(settings, tmp_path) as run:
        texts = load_texts(settings, run)
    counts = [int((texts.kinds == kind).sum()) for kind in (CLEAN, *range(len(CORRUPTIONS)))]
    assert counts == [28, 4, 4, 4]
    assert texts.train.shape == (40, 40)
    assert len(texts.held_out) == 64


def test_a_model_predicts_each_character_from_those_before_it() -> None:
    torch.manual_seed(0)
    model = CharacterModel(6, 3, 8)
    text = torch.randint(6, (1, 9))
    wanted = []
    for place in range(3, 9):
        seen = model.embed(text[:, place - 3 : place]).transpose(1, 2)
        logits = model.out(torch.relu(model.hidden(seen))[:, :, 0])
        wanted.append(torch.nn.functional.cross_entropy(logits, text[:, place]))
    torch.testing.assert_close(model.losses(text)[0], torch.stack(wanted).mean())


def test_all_texts_weigh_the_same_before_the_rater_has_learned() -> None:
    weights = batch_weights(Rater(6, 4)(torch.randint(6, (5, 9))))
    torch.testing.assert_close(weights, torch.full((5,), 0.2))


def test_what_search_and_training_read_is_counted(tmp_path: Path) -> None:
    """32 texts of 40 a batch; a meta step after every second of 6 reads three batches more."""
    found = metrics_of(smoke("rated"), tmp_path)
    assert found["search_tokens"] == 40 * (32 * 6 + 3 * 3 * 32 + 200)
    assert found["train_tokens"] == 40 * 32 * 20
    assert found["reached"] == 0
    early = metrics_of(smoke("all", goal_nats=9), tmp_path)
    assert early["train_tokens"] == early["total_tokens"] == 40 * 32 * 10
    assert early["reached"] == 1


def test_only_uncorrupted_texts_are_left_to_the_oracle(tmp_path: Path) -> None:
    assert metrics_of(smoke("oracle"), tmp_path)["clean_among_kept_pct"] == 100
    assert metrics_of(smoke("all"), tmp_path)["clean_among_kept_pct"] == 50


@pytest.mark.parametrize("saves", [1, 3])
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the search, and in the training."""
    often = {"core": {"device": "cpu", "global_batch_size": 32, "save_every": 5}}
    settings = smoke("rated", **often)
    wanted = metrics_of(settings, tmp_path)
    save, count = core_module.Core.save, 0

    def stopping(core: core_module.Core) -> None:
        nonlocal count
        save(core)
        count += 1
        if count == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(core_module.Core, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            metrics_of(settings, tmp_path)
    assert metrics_of(settings, tmp_path) == wanted


def test_a_context_as_long_as_the_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="context 40: allowed: below 40"):
        metrics_of(smoke("all", context=40), tmp_path)
