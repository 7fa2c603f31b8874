"""Facts of the architecture search: data, roll-back, found cells, every option, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import InputError
from common.tasks.batches import Split
from common.tasks.cifar10_images import normalised_colours
from common.training import Core
from papers.betty import Config, IterativeProblem
from papers.betty.experiments.architecture_search import load_halves, search_program
from papers.betty.tasks.cell_training import HalvedData, training_program
from papers.betty.tasks.search_space import CONNECTIONS, drawn
from tests.papers.betty.programs import engine, problem
from tests.papers.betty.runs import metrics_after_a_stop, metrics_of, opened, settings_of

NAME = "architecture_search"
#: A small network on a few images.
TINY: dict[str, Any] = {"channels": 2, "depth": 3, "batch_size": 24}
CPU = {"device": "cpu", "precision": "fp32", "global_batch_size": 24}


def random_images(side: int = 32, count: int = 96) -> HalvedData:
    """Colour images, of the size of CIFAR-10's if not said otherwise, with random labels."""
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        x = torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)
        return Split(x, torch.randint(0, 10, (count,), generator=draw))

    return HalvedData(split(count), split(count), split(8), normalised_colours, augmented=True)


def test_images_are_turned_and_in_one_set_alone(tmp_path: Path) -> None:
    from common.data.images import digits

    settings = settings_of(NAME, "step1")
    with opened(NAME, settings, tmp_path) as run:
        data = load_halves(settings, run)
    splits = (data.weights, data.architecture, data.test)
    assert [len(split.y) for split in splits] == [600, 600, 597]
    pixels = torch.cat([split.x for split in splits]).squeeze(1).numpy()
    turned = [{np.rot90(image, k).tobytes() for k in range(4)} for image in pixels]
    upright = {image.tobytes() for image in digits().pixels}
    assert all(each & upright for each in turned)
    shares = np.mean([image.tobytes() in upright for image in pixels])
    assert 0.15 < shares < 0.35
    assert float(data.normalised(data.test.x).max()) == 1.0


@pytest.mark.parametrize("unroll_steps", [1, 3])
def test_each_loop_leaves_one_step_of_the_weights(unroll_steps: int, tmp_path: Path) -> None:
    """The others are taken back, with the schedule."""
    search = {"unroll_steps": unroll_steps, "epochs": 2}
    settings = settings_of(NAME, "step1", "paper", nodes=1, search={**TINY, **search}, core=CPU)
    with opened(NAME, settings, tmp_path) as run:
        core = Core(settings.core, run)
        program = search_program(settings, random_images(8, 48), core)
        program.run()
        core.finish()
    network, architecture = program.problem("network"), program.problem("architecture")
    loops = 2 * (48 // 24)
    assert (network.count, architecture.count) == (unroll_steps * loops, loops)
    assert network.scheduler.last_epoch == loops
    assert network.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_finished_cells_train_with_every_published_option(tmp_path: Path) -> None:
    """Cutout, second head, drop path, clipping: the settings of scale paper, in small."""
    published = settings_of(NAME, "step1", "paper").training
    stage = published.model_copy(update={**TINY, "batch_size": 48, "epochs": 2})
    assert (stage.cutout, stage.auxiliary_weight, stage.drop_path) == (16, 0.4, 0.2)
    settings = settings_of(NAME, "random", "paper", core=CPU)
    with opened(NAME, settings, tmp_path) as run:
        core = Core(settings.core, run)
        program = training_program(drawn(2, np.random.default_rng(0)), stage, random_images(), core)
        classifier = program.problem("classifier")
        seen: list[Tensor] = []
        classifier.module.auxiliary.register_forward_hook(lambda *given: seen.append(given[2]))
        first = [parameter.detach().clone() for parameter in classifier.parameters()]
        program.run()
        core.finish()
    assert classifier.module.drop_path == 0.2
    assert len(seen) == classifier.count == 2 * (2 * 96 // 48)
    pairs = zip(first, classifier.parameters(), strict=True)
    assert all(not torch.equal(before, after) for before, after in pairs)
    assert classifier.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_training_images_are_changed_and_others_are_not() -> None:
    torch.manual_seed(0)
    data = random_images()
    changed = data.transform(16)(data.test.x)
    assert ((changed == 0).sum((1, 2, 3)) >= 3 * 8 * 8).all()
    assert (data.normalised(data.test.x) == 0).float().mean() < 0.01
    still = data._replace(augmented=False)
    assert torch.equal(still.transform()(data.test.x), data.normalised(data.test.x))


def test_the_second_head_is_refused_on_digits() -> None:
    with pytest.raises(InputError, match=r"auxiliary_weight 0\.4: the second head needs"):
        settings_of(NAME, "step1", training={"auxiliary_weight": 0.4})


def test_fewer_cells_than_three_are_refused() -> None:
    with pytest.raises(InputError, match=r"search\.depth"):
        settings_of(NAME, "step1", search={"depth": 2})


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


@pytest.mark.parametrize("arm", ["step3", "random"])
def test_a_stopped_run_ends_as_one_that_was_not(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two loops of search and four steps of training a cell, stopped in each."""
    core, large = {**CPU, "save_every": 1}, {"batch_size": 50}
    settings = settings_of(
        NAME, arm, test=1597, core=core, search=large, training=large, random_cells=2
    )
    whole = metrics_of(NAME, settings, tmp_path / "whole")
    for saves in (1, 6):
        folder = tmp_path / str(saves)
        assert metrics_after_a_stop(NAME, settings, folder, monkeypatch, saves) == whole
    cells = json.loads((tmp_path / "whole" / "out" / "cells.json").read_text())
    assert len(cells) == (2 if arm == "random" else 1)
    names = {name for cell in cells for w in cell.values() for node in w for _, (name,) in node}
    assert names <= set(CONNECTIONS)
