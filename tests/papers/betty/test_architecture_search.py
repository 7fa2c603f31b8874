"""Facts of the architecture search: cells and their derivation, roll-back, reproducibility."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from common.config import RunKey
from common.run import Run
from papers.betty import Config, IterativeProblem
from papers.betty.architecture_search import (
    CONNECTIONS,
    OPERATIONS,
    ArchitectureSearchSettings,
    CellNetwork,
    Data,
    Split,
    derived,
    edges,
    load,
    program,
    run_architecture_search,
)
from tests.papers.betty.programs import engine, problem

SMALL: dict[str, Any] = {
    "width": 8,
    "cells": 2,
    "architecture_steps": 6,
    "architecture_lr": 3e-2,
    "retrain_steps": 20,
    "random_cells": 2,
    "core": {"device": "cpu", "precision": "fp32", "global_batch_size": 64},
}


def settings_of(**other: Any) -> ArchitectureSearchSettings:
    """Settings of a small search."""
    return ArchitectureSearchSettings.model_validate({**SMALL, **other})


def run_in(folder: Path, settings: ArchitectureSearchSettings, seed: int = 0) -> Run:
    """A run that writes to ``folder``."""
    key = RunKey("betty", "architecture_search", "test", seed, "smoke")
    return Run(key, "architecture_search", settings, folder / "out", folder / "work")


def metrics_of(settings: ArchitectureSearchSettings, folder: Path) -> dict[str, float]:
    """Metrics of a run but for its time."""
    with run_in(folder, settings) as run:
        found = run_architecture_search(settings, run)
    return {name: value for name, value in found.items() if name != "train_s"}


def test_each_node_reads_the_input_and_all_nodes_before_it() -> None:
    assert edges(3) == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]


def test_a_mixture_of_one_candidate_is_the_finished_cell() -> None:
    torch.manual_seed(0)
    names = ["relu", "identity", "tanh"]
    mixed = CellNetwork(8, 2, 2, [list(OPERATIONS)] * 3)
    finished = CellNetwork(8, 2, 2, [[name] for name in names])
    finished.stem, finished.head = mixed.stem, mixed.head
    for ours, theirs in zip(finished.cells, mixed.cells, strict=True):
        for edge, name in enumerate(names):
            place = list(OPERATIONS).index(name)
            ours.operations[edge][0] = theirs.operations[edge][place]
    one_hot = torch.eye(4)[[list(OPERATIONS).index(name) for name in names]]
    x = torch.randn(5, 64)
    assert_close(mixed(x, one_hot), finished(x))


def test_a_cell_of_identities_is_the_sum_over_its_paths() -> None:
    """Two nodes: x and x + x; their mean is 3/2 x."""
    cell = CellNetwork(8, 1, 2, [["identity"]] * 3).cells[0]
    x = torch.randn(4, 8)
    assert_close(cell(x, torch.ones(3, 1)), 1.5 * x)
    assert not cell(x, torch.zeros(3, 1)).any()


def test_a_derived_cell_has_no_zero_even_where_zero_is_the_strongest() -> None:
    mixture = torch.tensor([[0.7, 0.1, 0.2, 0.0], [0.4, 0.3, 0.1, 0.2], [0.9, 0.0, 0.04, 0.06]])
    assert derived(mixture) == ("relu", "identity", "tanh")
    assert "zero" not in CONNECTIONS
    assert set(CONNECTIONS) | {"zero"} == set(OPERATIONS)


def test_images_are_turned_and_in_one_set_alone(tmp_path: Path) -> None:
    from common.data.images import digits

    settings = settings_of()
    with run_in(tmp_path, settings) as run:
        data = load(settings, run)
    assert [len(part.y) for part in data] == [600, 600, 597]
    pixels = torch.cat([part.x for part in data]).reshape(-1, 8, 8).numpy()
    turned = [{np.rot90(image, k).tobytes() for k in range(4)} for image in pixels]
    upright = {(image / 16).astype(np.float32).tobytes() for image in digits().pixels}
    assert all(each & upright for each in turned)
    shares = np.mean([image.tobytes() in upright for image in pixels])
    assert 0.15 < shares < 0.35


def test_each_loop_leaves_one_step_of_the_weights() -> None:
    """The others are taken back, with the schedule; steps of warm-up stay."""
    torch.manual_seed(0)
    settings = settings_of(unroll_steps=3, warmup_steps=6, architecture_steps=4)
    pixels = torch.rand(128, 64)
    half = (pixels, torch.randint(10, (128,)))
    search = program(settings, Data(Split(*half), Split(*half), Split(*half)), 0)
    search.run()
    network, architecture = search.problem("network"), search.problem("architecture")
    assert (network.count, architecture.count) == (6 + 3 * 4, 4)
    assert network.scheduler.last_epoch == 6 + 4
    assert network.optimizer.param_groups[0]["lr"] == pytest.approx(settings.last_lr)


def test_warm_up_must_be_whole_loops() -> None:
    with pytest.raises(ValidationError, match="warmup_steps 5: must be a multiple"):
        settings_of(unroll_steps=3, warmup_steps=5)


@pytest.mark.parametrize("warmup", [0, 4])
def test_roll_back_keeps_the_steps_of_warm_up(warmup: int) -> None:
    """w falls by 1/10 a step; of every loop of two steps one stays."""
    one = torch.ones(1, dtype=torch.float64)
    lower = problem(
        "lower",
        one,
        lambda w, u: w.sum() * u.sum(),
        ("upper",),
        Config(unroll_steps=2, warmup_steps=warmup),
        lambda params: torch.optim.SGD(params, lr=0.1),
    )
    upper = problem("upper", one, lambda u, w: (u * w).sum(), ("lower",))
    edges_of: dict[str, Any] = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}
    engine([lower, upper], **edges_of, roll_back=True, train_iters=10).run()
    loops = (10 - warmup) / 2
    assert float(lower.module.w.detach()) == pytest.approx(1 - 0.1 * (warmup + loops))


def test_recorded_steps_can_be_rolled_back() -> None:
    """The step that is repeated is no part of a record: it is a plain one with the new upper."""
    one = torch.ones(1, dtype=torch.float64)
    lower = problem(
        "lower",
        one,
        lambda w, u: (w * u).sum(),
        ("upper",),
        Config(type="itd", unroll_steps=2),
        lambda params: torch.optim.SGD(params, lr=0.1),
        IterativeProblem,
    )
    upper = problem(
        "upper",
        one,
        lambda u, w: w.sum() + 0 * u.sum(),
        ("lower",),
        None,
        lambda params: torch.optim.SGD(params, lr=1.0),
    )
    edges_of: dict[str, Any] = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}
    engine([lower, upper], **edges_of, roll_back=True, train_iters=2).run()
    # dw/du = -0.2 over two steps, so u = 1.2; then one step of it from w = 1.
    assert float(upper.module.w.detach()) == pytest.approx(1.2)
    assert float(lower.module.w.detach()) == pytest.approx(1 - 0.1 * 1.2)


@pytest.mark.parametrize("unroll_steps", [1, 3])
def test_a_search_finds_a_connected_cell_and_the_same_seed_the_same(
    unroll_steps: int, tmp_path: Path
) -> None:
    settings = settings_of(unroll_steps=unroll_steps)
    first, second = (metrics_of(settings, tmp_path / str(k)) for k in range(2))
    assert first == second
    assert 0 < first["zero_weight"] < 1
    with run_in(tmp_path, settings) as run:
        run_architecture_search(settings, run)
        cells = json.loads(run.path("cells.json").read_text())
    assert len(cells["cells"]) == 3
    assert all(name in CONNECTIONS for cell in cells["cells"] for name in cell)
    assert cells["accuracies_pct"][0] == first["accuracy_pct"]
