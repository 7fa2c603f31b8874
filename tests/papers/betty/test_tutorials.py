"""The tutorials run, and end as they say."""

from __future__ import annotations

import logging

import pytest
import torch

from tests.papers.pages import run


def test_noise_is_penalised_more_than_useful_features() -> None:
    names = run("docs/betty/hpo.md")
    assert names["noise"] > 2 * names["useful"]


def test_wrong_labels_lose_their_weight() -> None:
    """0.22 to 0.28 apart, and 0.79 to 0.91 of the test set right, with seeds 0 to 5."""
    names = run("docs/betty/reweighting.md")
    learned = names["learned"]
    assert learned[names["right"]].mean() > learned[names["wrong"]].mean() + 0.1
    assert names["accuracy"] > 0.65


def test_three_levels_find_the_right_half_of_the_source() -> None:
    """0.76 to 0.91 of the weight lies there with seeds 0 to 5."""
    names = run("docs/betty/three_levels.md")
    assert names["good"] > 0.65
    assert names["engine"].graph.paths("weigh") == [["weigh", "finetune", "pretrain", "weigh"]]


def test_the_readmes_example_runs() -> None:
    names = run("papers/betty/README.md")
    assert names["engine"].global_step == 100
    assert names["penalty"].count == 20


def test_a_resumed_run_of_the_page_on_training_ends_as_the_whole_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    names = run("docs/betty/training.md")
    shown = capsys.readouterr().err
    whole, resumed, rolled = (names[name] for name in ("whole", "resumed", "rolled"))
    assert resumed.global_step == whole.global_step == 200
    for name in ("weights", "penalty"):
        ends = [engine.problem(name).module.values for engine in (whole, resumed, rolled)]
        assert torch.equal(ends[0], ends[1])
        assert not torch.equal(ends[0], ends[2])
    assert (whole.weights.count, whole.penalty.count) == (200, 20)
    assert whole.weights.finished == 49  # of four batches each; the 50th is not asked for
    assert names["patient"].global_step < 5000
    assert "INFO betty: weights at 40: loss 0." in shown
    accuracy = f"accuracy {names['last']['accuracy']:.4g}"
    assert f"INFO betty: validation at 200: loss {names['last']['loss']:.4g}, {accuracy}" in shown
