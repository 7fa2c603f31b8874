"""Facts of the Meta-Weight-Net experiment: its sets, its network, resume, what a step keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.experiments.schema import RunKey, load_paper
from common.experiments.settings import validated
from common.runs.record import read_record
from common.runs.run import Run
from common.tasks.batches import Batches
from common.tasks.networks import MetaWeightNet, ResNet32
from common.training import core as core_module
from common.training.saved_tensors import SavedTensors
from papers.betty.experiments.meta_weight_net import (
    MetaWeightNetSettings,
    load_imbalanced,
    meta_step_bytes,
    run_meta_weight_net,
)
from tests.papers.betty.runs import FOLDER

KEY = RunKey("betty", "meta_weight_net", "if50", "arm", 0, "smoke")


def settings_of(arm: str, **changes: Any) -> MetaWeightNetSettings:
    """Settings of an arm at smoke scale, changed."""
    raw = load_paper(FOLDER).settings("meta_weight_net", "if50", arm, "smoke", changes)
    return validated(MetaWeightNetSettings, raw, arm)


def run(settings: MetaWeightNetSettings, folder: Path) -> Mapping[str, float]:
    """Metrics of one run."""
    torch.set_num_threads(1)
    with Run(KEY, "meta_weight_net", settings, folder / "out", folder / "work") as opened:
        path = opened.finish(run_meta_weight_net(settings, opened))
    return read_record(path).metrics


def test_sets_are_disjoint_balanced_and_long_tailed(tmp_path: Path) -> None:
    settings = settings_of("nudge")
    with Run(KEY, "meta_weight_net", settings, tmp_path / "out", tmp_path / "work") as opened:
        data = load_imbalanced(settings, opened)
    sizes = sorted(np.bincount(data.train.y).tolist(), reverse=True)
    assert sizes[0] == 100
    assert sizes[-1] == 2
    assert sizes == [max(1, round(100 * 50 ** (-rank / 9))) for rank in range(10)]
    assert np.bincount(data.meta.y).tolist() == [10] * 10
    assert np.bincount(data.test.y).tolist() == [60] * 10


def test_resnet32_has_its_published_size_and_the_weight_net_stays_in_its_range() -> None:
    assert sum(p.numel() for p in ResNet32().parameters()) == pytest.approx(0.46e6, rel=0.02)
    assert ResNet32()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    weights = MetaWeightNet()(torch.linspace(0, 5, 7))
    assert weights.shape == (7,)
    assert ((weights > 0) & (weights < 1)).all()


@pytest.mark.parametrize("arm", ["nudge", "itd", "darts5"])
def test_a_stopped_run_ends_as_one_that_was_not(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"device": "cpu", "global_batch_size": 64, "save_every": 1}
    settings = settings_of(arm, iterations=20, validate_every=5, core=core)
    whole = run(settings, tmp_path / "whole")
    save, steps = core_module.Core.save, 0

    def stopping(self: Any) -> None:
        nonlocal steps
        save(self)
        steps += 1
        if steps == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(core_module.Core, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(settings, tmp_path / "stopped")
    resumed = run(settings, tmp_path / "stopped")
    for name in ("accuracy_pct", "best_accuracy_pct", "saved_bytes"):
        assert resumed[name] == whole[name]


def test_memory_grows_with_unrolled_steps_for_itd_alone(tmp_path: Path) -> None:
    found = {}
    with Run(KEY, "x", settings_of("itd"), tmp_path / "out", tmp_path / "work") as opened:
        for method in ("itd", "darts", "neumann"):
            for steps in (1, 5):
                settings = settings_of("itd", method=method, unroll_steps=steps)
                found[method, steps] = meta_step_bytes(settings, load_imbalanced(settings, opened))
    assert found["itd", 5] > 3 * found["itd", 1]
    assert found["darts", 5] == found["darts", 1]
    assert found["neumann", 5] == found["neumann", 1]
    assert found["darts", 1] < found["neumann", 1]


def test_saved_tensors_are_those_of_the_live_graphs() -> None:
    layer = nn.Linear(10, 10)
    x = torch.randn(100, 10)
    with SavedTensors().watched() as saved:
        for _ in range(3):
            layer(x).tanh().sum().backward()
        once = saved.peak_bytes
        kept = [layer(x).tanh() for _ in range(3)]
    assert once == 2 * 100 * 10 * 4  # the input and tanh's output, freed by each backward pass
    assert saved.peak_bytes == (1 + 3) * 100 * 10 * 4  # the input is shared
    assert len(kept) == 3


def test_batches_go_on_where_they_were_saved() -> None:
    rows = torch.arange(10)

    def drawn(batches: Batches, count: int) -> list[list[int]]:
        found = []
        while len(found) < count:
            for (batch,) in batches:
                found.append(batch.tolist())
                if len(found) == count:
                    break
        return found

    whole = drawn(Batches(rows, size=3, seed=1), 8)
    first = Batches(rows, size=3, seed=1)
    start = drawn(first, 5)
    rest = Batches(rows, size=3, seed=1)
    rest.load_state_dict(first.state_dict())
    assert start + drawn(rest, 3) == whole
    assert len({*whole[0], *whole[1], *whole[2]}) == 9
