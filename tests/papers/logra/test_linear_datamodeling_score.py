"""The datamodeling score of what makes the outputs is 1, that of noise 0; shares add up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from common.errors import InputError
from papers.logra.experiments.linear_datamodeling_score import datamodeling_scores
from papers.logra.experiments.subset_retraining import half_subsets, read_retrained
from papers.logra.measures.rank_correlation import pearson, spearman
from tests.papers.logra.runs import metrics_of, opened, settings_of


def masks(count: int = 100, samples: int = 60) -> torch.Tensor:
    chosen = half_subsets(count, samples)
    return torch.zeros(count, samples, dtype=torch.bool).scatter_(1, chosen, True)


def test_the_datamodel_itself_has_score_one() -> None:
    weights = torch.randn(5, 60, dtype=torch.float64)
    outputs = torch.exp(masks().double() @ weights.T)  # ranks see no monotone map
    assert datamodeling_scores(weights, masks(), outputs) == pytest.approx(torch.ones(5))
    assert datamodeling_scores(-weights, masks(), outputs) == pytest.approx(-torch.ones(5))


def test_random_scores_have_score_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    weights, noise = torch.randn(2, 400, 60, generator=generator)
    found = datamodeling_scores(noise, masks(), masks().float() @ weights.T)
    assert abs(float(found.mean())) < 0.02  # 400 queries, each about 0.1 wide


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_is_scipys_with_ties_too(levels: int) -> None:
    a, b = torch.randint(levels, (2, 30, 4)).double()
    for column in range(4):
        expected = spearmanr(a[:, column], b[:, column]).statistic
        assert float(spearman(a, b)[column]) == pytest.approx(expected)
        expected = pearsonr(a[:, column], b[:, column]).statistic
        assert float(pearson(a, b)[column]) == pytest.approx(expected)


def test_subsets_are_different_halves_and_always_the_same() -> None:
    chosen = half_subsets(20, 33)
    assert chosen.shape == (20, 16)
    assert all(len(row.unique()) == 16 for row in chosen)
    assert len(chosen.unique(dim=0)) == 20
    assert chosen.equal(half_subsets(20, 33))
    assert half_subsets(40, 33)[:20].equal(chosen)


def test_shares_together_are_one_runs_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"subsets": 6, "retrainings": 2}
    found = []
    for shares in (1, 3):
        folder = tmp_path / str(shares)
        folder.mkdir()
        monkeypatch.chdir(folder)
        for seed in range(shares):
            metrics_of("subset_retraining", "half", seed, shares=shares, **few)
        runs = [
            Path(f"results/smoke/logra/subset_retraining/images/half/seed{s}")
            for s in range(shares)
        ]
        found.append(read_retrained(runs))
    assert found[0].masks.equal(found[1].masks)
    assert found[0].margins.shape == (6, 2, 48)
    assert found[0].margins == pytest.approx(found[1].margins, abs=1e-4)
    assert found[0].losses == pytest.approx(found[1].losses, abs=1e-4)


def test_a_share_beyond_the_last_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--seed 1: allowed: 0 to 0"):
        metrics_of("subset_retraining", "half", seed=1)


def test_scores_say_which_models_must_be_retrained_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match="subset_retraining --case images --arm half --seed 0 --scale smoke"
    ):
        metrics_of("datamodeling", "ekfac")


def test_a_run_scores_models_that_another_retrained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics_of("subset_retraining", "half", subsets=40, retrainings=5)
    ekfac, random = (metrics_of("datamodeling", arm) for arm in ("ekfac", "random"))
    assert ekfac["lds"] > 0.15
    assert abs(random["lds"]) < 0.1
    assert random["same_class_share"] < 0.3 < ekfac["same_class_share"]
    sweep = metrics_of("sensitivity", "pca")
    assert sweep["lds_rank_4"] == pytest.approx(sweep["lds_damping_0.1"])
    assert 0 < sweep["trace_share_rank_2"] < sweep["trace_share_rank_4"] <= 1


def test_the_record_names_the_retrained_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics_of("subset_retraining", "half")
    with opened("datamodeling", "random", settings_of("datamodeling", "random")) as run:
        assert [path.name for path in run.needed("retrained")] == ["seed0"]
