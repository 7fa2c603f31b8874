"""Scores of a run are those of the formula, whatever its batches, chunks and projections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.logra import LogIX, LogIXScheduler, LoRAConfig
from tests.papers.logra.logged_network import (
    BATCH,
    N,
    data,
    log_all,
    logged,
    loss,
    network,
    scored,
)
from tests.papers.logra.one_at_a_time import autograd_gradients


def test_raw_influence_of_a_run_is_a_dense_solve(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    layers = {name: module for name, module in model.named_modules() if name in ("0", "2", "4")}

    def gradients(inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        places = torch.arange(len(inputs))
        return autograd_gradients(
            model, layers, lambda at: loss(model, inputs[at], targets[at]), places
        )

    rows = [gradients(*data()), gradients(*data(4, seed=2))]
    expected = torch.zeros(4, N, dtype=torch.float64)
    for name in layers:
        train, query = (part[name].flatten(1) for part in rows)
        h = train.T @ train / N
        h += 0.1 * h.trace() / len(h) * torch.eye(len(h))
        expected += query @ torch.linalg.solve(h, train.T)
    torch.testing.assert_close(scored(run, model), expected)


@pytest.mark.parametrize("hessian", ["raw", "kfac", "ekfac"])
def test_scores_do_not_depend_on_batches_and_chunks(
    new_run: Callable[..., LogIX], hessian: str
) -> None:
    model, found = network(), []
    for size, chunk in ((1, None), (6, None), (N, None), (6, 200)):
        run = new_run(f"{size} {chunk}", flush_threshold=chunk)
        found.append(scored(logged(run, model, size, hessian=hessian), model, mode="cosine"))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_ekfac_influence_is_that_of_kronfluence(
    new_run: Callable[..., LogIX], tmp_path: Path
) -> None:
    pytest.importorskip("kronfluence")
    from papers.logra.benchmarks.peers import Kronfluence, Samples, silent

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))
    inputs, targets = data(dtype=torch.float32)
    with silent():
        peer = Kronfluence(model, tmp_path / "kronfluence", 4, BATCH)
        peer.log(Samples(inputs, targets))
        expected = peer.score(Samples(*data(4, seed=2, dtype=torch.float32)))
    run = new_run()
    run.watch(model)
    for _ in LogIXScheduler(run, hessian="ekfac", save="grad"):
        with run(data_id=range(N)):
            loss(model, inputs, targets).backward()
    run.finalize()
    with run(data_id=["a", "b", "c", "d"]):
        loss(model, *data(4, seed=2, dtype=torch.float32)).backward()
    found = run.compute_influence_all()["influence"]
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("hessian", ["raw", "kfac", "ekfac"])
def test_projections_of_full_rank_change_no_score(
    new_run: Callable[..., LogIX], hessian: str
) -> None:
    """Orthonormal ones, as PCA's are; up to float32, which projections are drawn in."""
    model = network()
    expected = scored(logged(new_run("whole"), model, hessian=hessian), model)
    run = new_run("pca")
    run.set_lora_config(LoRAConfig(rank=6))
    found = scored(logged(run, model, lora="pca", hessian=hessian), model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, expected)


def test_random_projections_are_those_of_the_seed(new_run: Callable[..., LogIX]) -> None:
    model, found = network(), []
    for project, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = new_run(project)
        run.set_lora_config(LoRAConfig(rank=2, seed=seed))
        found.append(scored(logged(run, model, lora="random", hessian="raw"), model))
        assert run.layout.width == 12
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_projections_can_be_taken_from_another_run(new_run: Callable[..., LogIX]) -> None:
    model = network()
    first = new_run("first")
    first.set_lora_config(LoRAConfig(rank=2, seed=5))
    expected = scored(logged(first, model, lora="random", hessian="raw"), model)
    run = new_run("second")
    run.watch(model)
    run.add_lora(lora_path="logix/first")
    assert run.projections is not None
    assert first.projections is not None
    assert run.projections.digest == first.projections.digest
    run.add_lora(watch=False, clear=False, lora_config=LoRAConfig(rank=3))
    assert run.layout.width == first.layout.width
    run.watch(model)
    assert run.layout.width == 27
    assert scored(first, model).equal(expected)


def test_lora_restricts_what_is_watched_to_its_layers(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.add_lora(name_filter=["2"])
    assert [block.name for block in run.layout.blocks] == ["2"]
    with pytest.raises(InputError, match="no watched layer has a projection; allowed: some of 2"):
        run.watch(model, name_filter=["0"])


def test_defect_16_pca_without_covariances_is_an_error(new_run: Callable[..., LogIX]) -> None:
    """Upstream fell back to random projections."""
    run, model = new_run(), network()
    run.watch(model)
    with pytest.raises(InputError, match="no forward covariance was gathered"):
        run.add_lora(lora_config=LoRAConfig(init="pca"))
    run.setup({"forward": ["covariance"], "backward": ["covariance"]})
    run.watch(model, name_filter=["0"])
    log_all(run, model)
    with pytest.raises(InputError, match=r"no covariances of layers \['2'\]; gathered: 0"):
        run.add_lora(name_filter=["0", "2"])


def test_defect_17_scores_without_statistics_are_errors(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = logged(new_run(), model)
    with pytest.raises(InputError, match="covariance was gathered; gathered: nothing"):
        scored(run, model)
    assert scored(run, model, precondition=False).shape == (4, N)
