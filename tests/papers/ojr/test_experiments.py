"""Facts of the experiments: equal means, resume, attacks, and the README's code."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from common.errors import InputError
from common.experiments.schema import load_paper
from common.training.checkpoint import Checkpoint
from papers.ojr.experiments.operations import OperationSettings, run_operations
from papers.ojr.methods.regularisation import Regularisation, prepare
from papers.ojr.methods.robustness import (
    attack_accuracy_pct,
    noise_accuracy_pct,
    sign_accuracy_pct,
)
from papers.ojr.methods.training import Trained, TrainingSettings, Trial
from papers.ojr.tasks.images import ImageSettings, Part, load_images
from papers.ojr.tasks.networks import BlockNetwork, Perceptron, build_network
from tests.papers.pages import run as run_page
from tests.papers.runs import PaperRuns

RUNS = PaperRuns("ojr")


def network() -> BlockNetwork:
    torch.manual_seed(0)
    settings = Perceptron(kind="perceptron", activation="tanh", depth=3, width=8)
    return build_network(settings, (1, 2, 3), 4)


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_every_method_has_as_many_trials_and_the_same_network_gain_and_schedule(scale: str) -> None:
    study = load_paper(RUNS.folder).experiments["search"]
    for case in study.cases:
        given = [
            RUNS.settings("search", arm, scale, case)  # type: ignore[arg-type]
            for name, arm in study.runs(scale)  # type: ignore[arg-type]
            if name == case
        ]
        alike = {
            (len(s.trials), s.steps, s.network, s.regularisation.gain, s.batch_size) for s in given
        }
        assert len(alike) <= 1


def test_what_is_searched_is_what_is_trained() -> None:
    """Each run of the head-to-head has a search of the same network by the same method."""
    paper = load_paper(RUNS.folder)
    # How many images are looked at is no part of a training.
    shared = set(TrainingSettings.model_fields) - {"observed"}
    runs = [
        (name, case, arm)
        for name in ("networks", "convolutions")
        for case, arm in paper.experiments[name].runs("paper")
        if case in paper.experiments["search"].cases
    ]
    assert {case for _, case, _ in runs} == set(paper.experiments["search"].cases)
    for name, case, arm in runs:
        if "trial" in paper.settings(name, case, arm, "paper"):
            continue  # a control with a step of its own
        searched = RUNS.settings("search", arm, "paper", case)
        trained = RUNS.settings(name, arm, "paper", case)
        assert searched.model_dump(include=shared) == trained.model_dump(include=shared)


def test_parts_share_no_image_and_are_the_seed_s(tmp_path: Path) -> None:
    def split(seed: int, folder: str) -> list[Part]:
        settings = RUNS.settings("networks", "none", "smoke", "tanh_20")
        with RUNS.opened("networks", settings, tmp_path / folder, seed) as run:
            return list(load_images(ImageSettings(), run))

    first, again, other = split(0, "a"), split(0, "b"), split(1, "c")
    rows = torch.cat([part.x for part in first])
    assert [len(part.x) for part in first] == [1047, 300, 450]
    assert len({tuple(row) for row in rows.flatten(1).tolist()}) == len(rows)
    assert all(torch.equal(one.x, two.x) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0].x, other[0].x)


@pytest.mark.parametrize("method", ["so", "srip", "frobenius", "ojr_layers", "ojr_whole"])
def test_a_penalty_reaches_the_layers_and_vanishes_with_its_weight(method: str) -> None:
    net, x = network(), torch.randn(5, 1, 2, 3)
    settings = Regularisation(method=method)  # type: ignore[arg-type]
    for weight in (0.0, 1.0):
        net.zero_grad()
        penalty = prepare(net, settings, weight, torch.Generator().manual_seed(0))
        assert penalty is not None
        net(x)
        penalty(x).backward()  # type: ignore[no-untyped-call]
        for layer in net.weighted:
            assert layer.weight.grad is not None
            assert bool(layer.weight.grad.any()) == bool(weight)


@pytest.mark.parametrize(
    "settings",
    [
        Regularisation(method="none", start="orthogonal", gain=2.0),
        Regularisation(method="orthogonal_weights", gain=2.0),
    ],
)
def test_starts_and_constraints_have_the_gain_of_the_penalties(settings: Regularisation) -> None:
    net = network()
    assert prepare(net, settings, 0.0, torch.Generator()) is None
    for layer in net.weighted:
        values = torch.linalg.svdvals(layer.weight.detach())
        torch.testing.assert_close(values, torch.full_like(values, 2**0.5))


@pytest.mark.parametrize("method", ["so", "ojr_layers", "ojr_whole"])
def test_a_start_goes_with_a_penalty(method: str) -> None:
    net, x = network(), torch.randn(5, 1, 2, 3)
    settings = Regularisation(method=method, start="orthogonal")  # type: ignore[arg-type]
    penalty = prepare(net, settings, 1.0, torch.Generator().manual_seed(0))
    assert penalty is not None
    for layer in net.weighted:
        values = torch.linalg.svdvals(layer.weight.detach())
        torch.testing.assert_close(values, torch.ones_like(values))
    net(x)
    if method == "so":
        assert penalty(x).item() < 1e-10  # it asks for no more
    else:
        assert penalty(x).item() > 1e-3  # for tanh is no isometry


@pytest.mark.parametrize("method", ["orthogonal_weights", "spectral_norm"])
def test_a_start_is_refused_where_nothing_would_be_left_of_it(method: str) -> None:
    settings = Regularisation(method=method, start="orthogonal")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"start 'orthogonal': of method {method}"):
        prepare(network(), settings, 1.0, torch.Generator())


def test_a_start_needs_a_gain() -> None:
    settings = Regularisation(method="ojr_whole", start="orthogonal", gain=None)
    with pytest.raises(InputError, match=r"gain null: .* start 'orthogonal'; allowed: a number"):
        prepare(network(), settings, 1.0, torch.Generator())


@pytest.mark.parametrize("arm", ["frobenius", "residual"])
def test_operations_of_one_vector_do_not_grow_with_the_outputs(tmp_path: Path, arm: str) -> None:
    settings = RUNS.settings("operations", arm, "smoke", "classes_10")
    found = {}
    for classes in (10, 500):
        grown = settings.model_copy(update={"classes": classes})
        with RUNS.opened("operations", grown, tmp_path / f"{classes}", 0) as run:
            found[classes] = run_operations(grown, run)
    # What the head itself has more, a plain step has too.
    assert found[500]["over_plain"] < found[10]["over_plain"]
    assert found[500]["step_gflop"] < 1.4 * found[10]["step_gflop"]


def test_operations_of_a_plain_step_are_those_by_hand(tmp_path: Path) -> None:
    settings = OperationSettings.model_validate(
        {
            "network": {"kind": "perceptron", "activation": "tanh", "depth": 1, "width": 8},
            "regularisation": {"method": "none"},
            "classes": 3,
            "side": 4,
            "batch_size": 5,
        }
    )
    with RUNS.opened("operations", settings, tmp_path, 0) as run:
        found = run_operations(settings, run)
    # Forward and by weights for both layers, by inputs for the second alone; times and plus.
    expected = 2 * 5 * (2 * 16 * 8 + 3 * 8 * 3)
    assert found["plain_gflop"] * 1e9 == pytest.approx(expected)
    assert found["over_plain"] == 1


def test_attacks_stay_in_their_ball_and_longer_ones_hurt_more() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 6)
    net = nn.Linear(6, 4)
    part = Part(x, net(x).argmax(1))
    assert attack_accuracy_pct(net, part, 0.0, 5) == 100
    falls = [attack_accuracy_pct(net, part, size, 5) for size in (0.1, 0.5, 2.0)]
    assert falls == sorted(falls, reverse=True)
    # Of a linear network no class that is ahead by more than the margin is lost.
    weights = net.weight.detach()
    scores = net(x).detach()
    best = scores.topk(2).values
    largest = (weights[:, None] - weights[None]).norm(dim=2).max()
    safe = 100 * ((best[:, 0] - best[:, 1]) > 0.5 * largest).float().mean().item()
    assert attack_accuracy_pct(net, part, 0.5, 5) >= safe > 0
    assert noise_accuracy_pct(net, part, 0.0, 0) == 100


@pytest.mark.parametrize("size", [0.02, 0.1, 0.4])
def test_a_sign_step_loses_what_its_closed_form_says(size: float) -> None:
    """Of two classes and a linear network: margins below size times an l1 norm."""
    torch.manual_seed(1)
    x = torch.randn(300, 6)
    net = nn.Linear(6, 2)
    scores = net(x).detach()
    margins = (scores[:, 0] - scores[:, 1]).abs()
    lost = size * (net.weight[0] - net.weight[1]).detach().abs().sum()
    kept = 100 * (margins > lost).float().mean().item()
    assert 0 < kept < 100
    assert sign_accuracy_pct(net, Part(x, scores.argmax(1)), size) == pytest.approx(kept)


@pytest.mark.parametrize(("method", "augment"), [("none", True), ("ojr_layers", False)])
def test_a_killed_training_goes_on_to_the_same_bits(
    method: str, augment: bool, tmp_path: Path
) -> None:
    """With the step size and the penalty's weight on their way down and random crops."""
    settings = RUNS.settings(
        "networks",
        method,
        "smoke",
        "tanh_20",
        steps=8,
        observe_every=4,
        augment=augment,
        lr_drops=[5],
        annealing=[(2, 0.5), (7, 0.0)],
    )
    part = Part(torch.randn(96, 1, 2, 3), torch.arange(96) % 4)

    def trained(folder: str, stop: int | None) -> Trained:
        done = [0]

        def tick(count: int) -> None:
            done[0] += count
            if done[0] == stop:
                raise KeyboardInterrupt

        with RUNS.opened("networks", settings, tmp_path / folder) as run:
            checkpoint = Checkpoint(run, "training", seconds=0)
            return Trained(settings, Trial(weight=1.0), part, part, 0, checkpoint, tick)

    whole = trained("whole", None)
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", 6)
    again = trained("stopped", None)
    assert again.history == whole.history
    assert [row["step"] for row in whole.history] == [0, 4, 8]
    for one, two in zip(whole.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("arm", ["ojr_layers", "frobenius", "spectral_norm"])
def test_what_waits_for_a_gpu_trains_where_it_is_made_small(arm: str, tmp_path: Path) -> None:
    """Normalisation, dropout and crops of WRN-28-10's settings, with width, depth and data cut."""
    settings = RUNS.settings(
        "convolutions",
        arm,
        "paper",
        "cifar10_wrn",
        device="cpu",
        network={"kind": "wide_residual", "depth": 10, "factor": 1},
        images={"name": "digits", "train": 64, "validation": 0, "test": 20},
        batch_size=32,
        steps=4,
        lr_drops=[2],
        annealing=[(3, 0.0)],
        observe_every=4,
        attack_steps=1,
    )
    metrics = RUNS.metrics("convolutions", settings, tmp_path)
    assert pd.read_csv(tmp_path / "out" / "history.csv")["loss"].iloc[-1] < 5
    assert 0 < metrics["rms_singular_value"] <= metrics["largest_singular_value"]


def test_the_readme_s_code_brings_a_deep_network_to_train() -> None:
    names = run_page("papers/ojr/README.md")
    assert names["share"] > 0.8
    assert names["values"].mean() > 0.01
