"""Facts of the domain adaptation experiment: its paths, its distance, its sets, its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.tasks.batches import Split
from common.tasks.networks import mlp
from papers.betty.experiments.domain_adaptation import body, program, squared_distance
from papers.betty.hypergradient import hypergradient
from papers.betty.tasks.domains import DomainData, for_perceptrons, load_domains
from tests.papers.betty.runs import metrics_after_a_stop, metrics_of, opened, settings_of

NAME = "domain_adaptation"


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_data() -> DomainData:
    """Sets of three classes."""
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        return Split(
            torch.randn(count, 4, generator=draw), torch.randint(0, 3, (count,), generator=draw)
        )

    return for_perceptrons(split(20), split(10), split(10), classes=3, hidden=64)


def test_the_distance_leaves_out_the_last_layer() -> None:
    torch.manual_seed(0)
    network = mlp(4, 5, 6, 3)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other[-1].weight += 1
        other[-1].bias += 1
        assert squared_distance(network, other) == 0
        other[0].weight += 2
        assert squared_distance(network, other).item() == pytest.approx(4 * 4 * 5)
    assert len(body(network)) == 4


def test_both_networks_start_alike_so_the_first_pull_is_zero() -> None:
    engine = program(settings_of(NAME, "rwt"), random_data(), 0)
    finetune: Any = engine.problem("finetune")
    batch = finetune.get_batch()
    pulled = finetune.training_step(batch)
    finetune.proximal = 0.0
    assert torch.equal(pulled, finetune.training_step(batch))


def test_the_hypergradient_has_two_paths() -> None:
    engine = program(settings_of(NAME, "rwt"), random_data(), 0)
    assert engine.graph.leaves == ["pretrain"]
    assert sorted(engine.graph.paths("reweight")) == [
        ["reweight", "finetune", "pretrain", "reweight"],
        ["reweight", "pretrain", "reweight"],
    ]
    two = program(settings_of(NAME, "baseline"), random_data(), 0)
    assert two.graph.paths("finetune") == []
    assert two.graph.l2u["pretrain"] == ["finetune"]


@pytest.mark.usefixtures("_double")
def test_the_hypergradient_is_the_sum_over_both_paths() -> None:
    strength = 0.3
    settings = settings_of(NAME, "rwt", proximal=strength, lr=1e-12, alpha=1e-4)
    engine = program(settings, random_data(), 0)
    pretrain, finetune, reweight = (
        engine.problem(name) for name in ("pretrain", "finetune", "reweight")
    )
    with torch.no_grad():
        for part in finetune.parameters():
            part += 0.1 * torch.randn_like(part)
    engine.train()
    engine.train_step()
    batch, params = reweight.get_batch(), reweight.trainable_parameters()
    found = hypergradient(reweight, reweight.training_step(batch), params)

    w, v = body(pretrain.module), body(finetune.module)
    by_v = torch.autograd.grad(reweight.training_step(batch), v)
    # Of lambda |v - w|^2: the direct path gives 2 lambda (w - v), the other 2 lambda times by_v.
    paths = [
        [2 * strength * (b - a).detach() for a, b in zip(v, w, strict=True)],
        [2 * strength * part for part in by_v],
    ]
    gradient = torch.autograd.grad(pretrain.training_step(pretrain.cur_batch), w, create_graph=True)
    totals = [
        torch.autograd.grad(
            sum((g * part).sum() for g, part in zip(gradient, path, strict=True)),
            params,
            retain_graph=True,
        )
        for path in paths
    ]
    for direct, climbed, given in zip(*totals, found, strict=True):
        assert given is not None
        assert direct.abs().max() > 1e-6
        assert climbed.abs().max() > 1e-6
        assert torch.allclose(given, -(direct + climbed), rtol=1e-3, atol=1e-9)


def test_good_source_samples_get_the_weight(tmp_path: Path) -> None:
    """0.99 apart with seeds 0 to 8; after half the iterations not yet with one of them."""
    found = metrics_of(NAME, settings_of(NAME, "rwt", "laptop", iterations=400), tmp_path)
    assert found["weight_good"] > found["weight_bad"] + 0.5


def test_the_third_level_costs_memory(tmp_path: Path) -> None:
    found = {
        arm: metrics_of(NAME, settings_of(NAME, arm), tmp_path / arm)["memory_bytes"]
        for arm in ("target_only", "baseline", "rwt")
    }
    assert found["target_only"] < found["baseline"] < found["rwt"]


def test_digits_are_split_and_corrupted_as_asked(tmp_path: Path) -> None:
    settings = settings_of(NAME, "rwt", corrupted=0.25)
    with opened(NAME, settings, tmp_path) as run:
        data = load_domains(settings, run)
    assert isinstance(data.source, Split)
    assert isinstance(data.target, Split)
    assert np.bincount(data.target.y).tolist() == [4] * 10
    assert len(data.source.x) + len(data.target.x) + len(data.test.x) == 1797
    assert data.corrupted is not None
    assert int(data.corrupted.sum()) == 200
    # Digits are bright on dark, so an inverted one is bright on the whole.
    brightness = data.source.x.mean(dim=1)
    assert brightness[data.corrupted].min() > brightness[~data.corrupted].max()


def test_a_stopped_run_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"device": "cpu", "global_batch_size": 64, "save_every": 3}
    settings = settings_of(NAME, "rwt", core=core)
    whole = metrics_of(NAME, settings, tmp_path / "whole")
    assert metrics_after_a_stop(NAME, settings, tmp_path / "cut", monkeypatch) == whole
    assert metrics_of(NAME, settings, tmp_path / "again") == whole


def test_office_domains_are_split_by_class(data_root: Path, tmp_path: Path) -> None:
    settings = settings_of(NAME, "rwt", "paper", "webcam_dslr", data_root=str(data_root))
    with opened(NAME, settings, tmp_path) as run:
        data = load_domains(settings, run)
    assert isinstance(data.source, Split)
    assert isinstance(data.target, Split)
    assert data.source.x.shape == (295, 800)
    assert np.bincount(data.target.y).tolist() == [3] * 10
    assert len(data.test.y) == 157 - 30
    assert data.corrupted is None


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("main", {"source": "dslr", "target": "dslr"}, "both 'dslr'"),
        ("main", {"source": "Art"}, "no domain 'Art'; allowed: amazon, Caltech10, dslr, webcam"),
        ("home_cl_ar", {"target": "dslr"}, "no domain 'dslr'; allowed: Art, Clipart, Product"),
        ("home_cl_ar", {"crop": 300}, "300 must be at most resize, 256"),
    ],
)
def test_domains_are_two_of_the_set(case: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings_of(NAME, "rwt", "paper", case, **change)


@pytest.mark.parametrize("change", [{"source_size": 1757}, {"target_per_class": 174}])
def test_a_split_that_leaves_nothing_is_refused(change: dict[str, int], tmp_path: Path) -> None:
    settings = settings_of(NAME, "rwt", **change)
    with opened(NAME, settings, tmp_path) as run, pytest.raises(InputError, match="allowed below"):
        load_domains(settings, run)
