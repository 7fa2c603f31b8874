"""Facts of data pruning: scores in closed form, who is kept, resumed runs, what is refused."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax
from torch.testing import assert_close

from common import ROOT
from common.errors import InputError
from common.experiments.schema import RunKey, load_paper
from common.runs.programs import Programs
from common.runs.record import read_record
from common.runs.run import Run
from common.tasks.networks import conv_net
from common.training import core as core_module
from papers.sama.methods.pruning import (
    ForgettingEvents,
    GumbelWeights,
    SlowHead,
    el2n,
    grand,
    grand_last_layer,
    kept_rows,
    margin,
)
from papers.sama.tasks.pruning_images import check_network
from tests.papers.arms import settings_in

FOLDER = ROOT / "papers" / "sama"
TIMES = ("search_s", "train_s")


def samples() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """A network in evaluation mode with unusual batch statistics, five pictures, their labels."""
    torch.manual_seed(0)
    network = conv_net(1, 3, 4, classes=3)
    network(torch.randn(20, 1, 6, 6) + 1)
    return network.eval(), torch.randn(5, 1, 6, 6), torch.tensor([0, 2, 1, 1, 0])


def test_grand_is_the_norm_of_each_sample_s_own_gradient() -> None:
    network, pictures, labels = samples()
    params = list(network.parameters())
    for row, score in enumerate(grand(network, pictures, labels)):
        loss = cross_entropy(network(pictures[row : row + 1]), labels[row : row + 1])
        grads = torch.autograd.grad(loss, params)
        assert_close(score, torch.cat([g.flatten() for g in grads]).norm())


def test_grand_of_the_last_layer_is_its_part_of_that_norm() -> None:
    network, pictures, labels = samples()
    features = network[:-1](pictures)
    logits = network[-1](features)
    for row, score in enumerate(grand_last_layer(features, logits, labels)):
        loss = cross_entropy(network(pictures[row : row + 1]), labels[row : row + 1])
        grads = torch.autograd.grad(loss, list(network[-1].parameters()))
        assert_close(score, torch.cat([g.flatten() for g in grads]).norm())


def test_el2n_and_margin_of_known_chances() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    lengths = [np.sqrt(0.25 + 0.09 + 0.04), np.sqrt(0.81 + 0.01 + 0.64)]
    assert el2n(logits, torch.tensor([0, 0])).tolist() == pytest.approx(lengths)
    assert margin(logits).tolist() == pytest.approx([-0.2, -0.7])


def test_a_sample_is_forgotten_when_it_was_right_and_is_wrong() -> None:
    events, rows = ForgettingEvents(4), torch.tensor([3, 0, 1])
    for right in ([True, False, True], [False, False, True], [True, False, True], [False] * 3):
        events.see(rows, torch.tensor(right))
    # Row 3 twice, row 1 once; rows 0 and 2 never were right.
    assert events.scores.tolist() == [3, 1, 3, 2]


def test_the_slow_head_is_a_running_mean_and_its_uncertainty_a_cross_entropy() -> None:
    torch.manual_seed(0)
    head = nn.Linear(3, 4)
    slow, first = SlowHead(head, 0.9), copy.deepcopy(head.weight)
    with torch.no_grad():
        head.weight.add_(1)
    slow.follow()
    slow.follow()
    assert_close(slow.module.weight, first + (1 - 0.9**2))
    features = torch.randn(2, 3)
    logits, followed = head(features), slow.module(features)
    wanted = -(softmax(followed, 1) * logits.log_softmax(1)).sum(1)
    assert_close(slow.uncertainty(features, logits), wanted.detach())


def test_gumbel_weights_are_drawn_as_the_soft_ones_say_and_have_their_derivative() -> None:
    torch.manual_seed(0)
    weights = GumbelWeights(2, 8)
    seen = torch.tensor([[0.3, 1.0]]).expand(4000, 2)
    drawn = weights(seen, weights.draw(4000, seen.device))
    assert set(drawn.tolist()) == {0.0, 1.0}
    chance = float(weights(seen)[0].detach())
    assert float(drawn.detach().mean()) == pytest.approx(chance, abs=0.03)
    noise = weights.draw(3, seen.device)
    bias = list(weights.parameters())[-1]
    (slope,) = torch.autograd.grad(weights(seen[:3], noise).sum(), bias)
    soft = softmax((weights.layers(seen[:3]) + noise) / weights.temperature, 1)[:, 0]
    assert_close(slope[0], (soft * (1 - soft)).sum() / weights.temperature)


def test_the_highest_scores_stay_and_ties_are_drawn() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.tensor([1.0, 5.0, 3.0, 4.0, 2.0])
    assert kept_rows(scores, 40, draw).tolist() == [1, 2, 3]
    assert kept_rows(scores, 0, draw).tolist() == [0, 1, 2, 3, 4]
    kept = torch.cat([kept_rows(torch.zeros(10), 50, draw) for _ in range(300)])
    counts = torch.bincount(kept, minlength=10)
    assert counts.min() > 110
    assert counts.max() < 190


def smoke(experiment: str, arm: str, **changes: Any) -> Any:
    """Settings of digits at smoke scale, changed."""
    return settings_in(FOLDER, experiment, arm, "smoke", "digits_noisy", **changes)


def key_of(experiment: str, arm: str) -> RunKey:
    return RunKey("sama", experiment, "digits_noisy", arm, 0, "smoke")


def made(experiment: str, arm: str, **changes: Any) -> Mapping[str, float]:
    """Metrics of one run below the present folder, times aside."""
    torch.set_num_threads(1)
    paper, key = load_paper(FOLDER), key_of(experiment, arm)
    program = Programs(FOLDER)[paper.experiments[experiment].program]
    settings = smoke(experiment, arm, **changes)
    out, needs = Path("results") / key.folder, paper.needed(key)
    with Run(key, experiment, settings, out, Path("work"), needs) as run:
        found = read_record(run.finish(program.run(settings, run))).metrics
    return {name: value for name, value in found.items() if name not in TIMES}


def stop_at(save_count: int, patch: pytest.MonkeyPatch) -> None:
    """Kill the next run after that many resume states."""
    save, saves = core_module.Core.save, 0

    def stopping(core: core_module.Core) -> None:
        nonlocal saves
        save(core)
        saves += 1
        if saves == save_count:
            raise KeyboardInterrupt

    patch.setattr(core_module.Core, "save", stopping)


def scores_of(arm: str) -> str:
    return (Path("results") / key_of("pruning_scores", arm).folder / "scores.csv").read_text()


@pytest.mark.parametrize("arm", ["sama", "forgetting"])
def test_a_search_that_was_killed_scores_as_one_that_was_not(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    often = {"core": {"device": "cpu", "global_batch_size": 100, "save_every": 7}, "steps": 24}
    made("pruning_scores", arm, **often)
    wanted = scores_of(arm)
    shutil.rmtree("results")
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            made("pruning_scores", arm, **often)
    made("pruning_scores", arm, **often)
    assert scores_of(arm) == wanted


def test_training_that_was_killed_in_its_second_network_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    often = {"core": {"device": "cpu", "global_batch_size": 100, "save_every": 7}, "repeats": 2}
    wanted = made("pruned_training", "random", **often)
    with monkeypatch.context() as patch:
        stop_at(4, patch)
        with pytest.raises(KeyboardInterrupt):
            made("pruned_training", "random", **often)
    assert made("pruned_training", "random", **often) == wanted


def test_training_keeps_what_the_search_of_its_seed_scored_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is needed first"):
        made("pruned_training", "grand")
    search = made("pruning_scores", "grand", steps=40)
    # Wrong labels have large gradients, so GraNd keeps them.
    assert search["wrong_among_highest_fifth_pct"] > 60
    assert search["wrong_among_lowest_fifth_pct"] < 5
    kept = made("pruned_training", "grand", pruned_pct=[60], steps=60)
    anyone = made("pruned_training", "random", pruned_pct=[60], steps=60)
    assert kept["accuracy_pruned_60_pct"] < anyone["accuracy_pruned_60_pct"] - 10


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pruned_pct": [20, 100]}, "pruned_pct 100: allowed: 0 to 99"),
        ({"pruned_pct": [20, 20]}, "each share once"),
        ({"keep": "all"}, r"allowed where all is kept: \[0\]"),
        ({"train_images": 1797}, "train_images 1797: digits have no test set"),
        ({"batch_size": 1001}, "batch_size 1001: allowed: at most 1000"),
        ({"network": "conv"}, "network 'conv': allowed for digits: mlp"),
        ({"augment": True}, "augment: allowed for digits: false"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    changes: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told):
        made("pruned_training", "random", **changes)


def test_other_settings_are_refused() -> None:
    with pytest.raises(InputError, match="resnet18"):
        check_network(smoke("pruned_training", "random", data="mnist", network="resnet18"))
    with pytest.raises(InputError, match="checkpoints"):
        smoke("pruning_scores", "sama", checkpoints=0)
