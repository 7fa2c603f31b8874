"""Passes of every combination are those that its statistics take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import InputError
from papers.logra import LogIX, LogIXScheduler, LoRAConfig


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LogIX:
    monkeypatch.chdir(tmp_path)
    found = LogIX("project")
    torch.manual_seed(0)
    found.watch(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)))
    return found


def one_pass(run: LogIX) -> None:
    with run(data_id=range(6)):
        model = run._model().model
        model(torch.linspace(-1, 1, 30).view(6, 5)).square().sum().backward()


@pytest.mark.parametrize("lora", ["none", "random", "pca"])
@pytest.mark.parametrize("hessian", ["none", "raw", "kfac", "ekfac"])
@pytest.mark.parametrize("save", ["none", "grad"])
def test_passes(run: LogIX, lora: Any, hessian: Any, save: Any) -> None:
    run.set_lora_config(LoRAConfig(rank=2))
    scheduler = LogIXScheduler(run, lora=lora, hessian=hessian, save=save)
    passes, saving = [], []
    for number in scheduler:
        passes.append(number)
        saving.append(run.saving)
        one_pass(run)
    run.finalize()
    assert len(scheduler) == len(passes) == 1 + (lora == "pca") + (hessian == "ekfac")
    assert passes == list(range(len(scheduler)))
    assert saving == [False] * (len(passes) - 1) + [save == "grad"]
    assert [(b.out, b.inner) for b in run.layout.blocks] == (
        [(4, 5), (3, 4)] if lora == "none" else [(2, 2), (2, 2)]
    )
    # Statistics are of projected gradients, each sample once, and as many as the Hessian needs.
    run.statistics.check(run.layout)
    kinds = {"none": (), "raw": ("grad",), "kfac": ("forward", "backward")}
    for kind in kinds.get(hessian, ("forward", "backward", "grad")):
        assert set(run.statistics.counts(kind).values()) == {6.0}
    one_pass(run)
    found = run.compute_self_influence(hessian=hessian)["influence"]
    assert isinstance(found, torch.Tensor)
    assert found.shape == (6,)
    assert (found > 0).all()
    assert (Path("logix/project/log").exists()) == (save == "grad")


def test_projections_are_drawn_as_the_scheduler_says(run: LogIX) -> None:
    for config, lora, init in (
        ("orthonormal", "random", "orthonormal"),
        ("pca", "random", "random"),
        ("random", "pca", "pca"),
    ):
        run.set_lora_config(LoRAConfig(rank=2, init=config))  # type: ignore[arg-type]
        for _ in LogIXScheduler(run, lora=lora):  # type: ignore[arg-type]
            one_pass(run)
        assert run.get_lora_config() == LoRAConfig(rank=2, init=init)  # type: ignore[arg-type]
        run.projections = None
        run.watch(run._model().model)
        run.clear()


def test_who_saves_already_saves_in_the_last_pass_alone(run: LogIX) -> None:
    run.save(True)
    saving = []
    for _ in LogIXScheduler(run, hessian="ekfac"):
        saving.append(run.saving)
        one_pass(run)
    assert saving == [False, True]


@pytest.mark.parametrize("option", ["lora", "hessian", "save"])
def test_other_values_are_refused(run: LogIX, option: str) -> None:
    with pytest.raises(InputError, match=f"{option} 'all'; allowed: none, "):
        LogIXScheduler(run, **{option: "all"})  # type: ignore[arg-type]
