"""Storing in float32 changes nothing, in fewer bits as little as these can."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from papers.logra.curvature.layout import Block, Layout
from papers.logra.experiments.store_precision import differences
from papers.logra.log_store import LogStore
from papers.logra.methods.attribution import InfluenceSettings, LoggedTrainingSet
from papers.logra.tasks.networks import Mlp
from papers.logra.tasks.samples import Samples
from tests.papers.logra.runs import metrics_of


def test_equal_scores_do_not_differ() -> None:
    exact = torch.randn(4, 50)
    assert differences(exact, exact) == {
        "largest_error": 0,
        "mean_error": 0,
        "mean_rank_correlation": pytest.approx(1),
        "worst_rank_correlation": pytest.approx(1),
        "top_10_overlap": 1,
    }


def test_errors_are_relative_to_each_querys_scores() -> None:
    exact = torch.randn(2, 50) * torch.tensor([[1.0], [1000.0]])
    size = exact.square().mean(1, keepdim=True).sqrt()
    found = differences(exact + torch.tensor([[0.1], [-0.3]]) * size, exact)
    assert found["largest_error"] == pytest.approx(0.3)
    assert found["mean_error"] == pytest.approx(0.2)
    # The same to all scores of a query changes no rank.
    assert found["worst_rank_correlation"] == pytest.approx(1)
    assert found["top_10_overlap"] == 1


def test_the_overlap_is_of_the_ten_highest_alone() -> None:
    exact = torch.arange(40.0).flip(0).repeat(2, 1)
    found = exact.clone()
    found[0, 10:] = found[0, 10:].flip(0)  # below the list
    found[1, [9, 10]] = found[1, [10, 9]]  # the last one leaves it
    both = differences(found, exact)
    assert both["top_10_overlap"] == pytest.approx((1 + 0.9) / 2)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) with n = 40 and sums of 8990 and 2.
    assert both["worst_rank_correlation"] == pytest.approx(1 - 6 * 8990 / 63960)
    assert both["mean_rank_correlation"] == pytest.approx(1 - 6 * 4496 / 63960)


def test_a_log_that_a_killed_run_left_is_made_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, folder = Mlp((5, 4, 3)), tmp_path / "log"
    train = Samples(torch.randn(6, 5), torch.arange(6) % 3)
    old = LogStore.create(folder / "log", Layout([Block("h", 2, 3)]), identity={}, rows_per_chunk=2)
    old.append(["old"] * 4, torch.zeros(4, 6))
    old.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    for _ in range(2):  # and one that was done
        logged = LoggedTrainingSet(InfluenceSettings(rank=2), model, train, 0, folder)
        assert logged.run.build_log_dataset().store.ids == ["0", "1", "2", "3", "4", "5"]


def test_fewer_bits_take_less_room_and_move_scores_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics_of("subset_retraining", "half")
    exact, half, byte = (
        metrics_of("precision", "int8", dtype=dtype) for dtype in ("float32", "bfloat16", "int8")
    )
    assert exact["largest_error"] == 0
    assert 0 < half["mean_error"] < byte["mean_error"] < 0.05
    assert byte["stored_bytes"] < half["stored_bytes"] < exact["stored_bytes"]
    # 192 rows of three layers with 4 x 4 numbers each: all but the numbers is the same.
    assert exact["stored_bytes"] - half["stored_bytes"] == pytest.approx(192 * 48 * 2, abs=64)
    assert byte["lds"] == pytest.approx(exact["lds"], abs=0.05)
