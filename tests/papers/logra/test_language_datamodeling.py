"""Retrained language models: shares add up, a model is its subset's, scores find who matters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import InputError
from papers.logra.experiments.subset_retraining import RETRAINING_SEED, half_subsets, read_retrained
from papers.logra.tasks.language_models import measured
from papers.logra.tasks.language_task import LanguageTask
from tests.papers.logra.runs import metrics_of, opened, settings_of


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shares_of(count: int) -> list[Path]:
    return [
        Path(f"results/smoke/logra/language_retraining/topics/half/seed{s}") for s in range(count)
    ]


def test_shares_together_are_one_runs_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for shares in (1, 2):
        (folder / str(shares)).mkdir()
        monkeypatch.chdir(folder / str(shares))
        for seed in range(shares):
            metrics_of("language_retraining", "half", seed, subsets=4, shares=shares)
        found.append(read_retrained(shares_of(shares)))
    assert found[0].masks.equal(found[1].masks)
    assert found[0].losses.shape == (4, 1, 8)
    assert found[0].losses.equal(found[1].losses)
    assert found[0].margins.equal(found[1].margins)


def test_outputs_are_those_of_a_model_trained_on_the_subset() -> None:
    metrics_of("language_retraining", "half", subsets=3, retrainings=2)
    retrained = read_retrained(shares_of(1))
    settings = settings_of("language_retraining", "half")
    with opened("language_retraining", "half", settings, seed=1) as run:
        task = LanguageTask(settings, run)
        subset = half_subsets(3, 48)[2]
        model = task.model(RETRAINING_SEED + 2 * 2 + 1, subset)
        losses, margins = measured(model, task.corpus.queries)
    assert retrained.masks[2].nonzero().flatten().equal(subset)
    assert torch.allclose(retrained.losses[2, 1], losses, atol=1e-4)
    assert torch.allclose(retrained.margins[2, 1], margins, atol=1e-4)


def test_a_share_beyond_the_last_is_an_error() -> None:
    with pytest.raises(InputError, match="--seed 1: allowed: 0 to 0"):
        metrics_of("language_retraining", "half", seed=1)


def test_scores_say_which_models_must_be_retrained_first() -> None:
    with pytest.raises(InputError, match="language_retraining --case topics --arm half --seed 0"):
        metrics_of("language_datamodeling", "ekfac")


def test_influence_predicts_retrained_models_and_random_scores_do_not() -> None:
    task = {
        "corpus": {"length": 24, "train": 96, "queries": 16, "topics": 8, "query_topics": 8},
        "training": {"epochs": 8},
    }
    metrics_of("language_retraining", "half", subsets=16, **task)
    found = {arm: metrics_of("language_datamodeling", arm, **task) for arm in ("ekfac", "random")}
    # 0.24 to 0.41 apart with models of four seeds.
    assert found["ekfac"]["lds_by_loss"] > 0.1 + abs(found["random"]["lds_by_loss"])
    # Loss and margin of a sequence are close to each other's negative.
    assert found["ekfac"]["lds_by_margin"] == pytest.approx(found["ekfac"]["lds_by_loss"], abs=0.1)
    assert found["ekfac"]["perplexity"] == found["random"]["perplexity"]
