"""Biases count as one more input that is 1, where they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from papers.logra import LogIX, LogIXScheduler, LoRAConfig
from papers.logra.scoring.influence import flatten_log
from papers.logra.session.configs import Config, read_config
from tests.papers.logra.logged_network import N, data, log_all, loss, network, queried
from tests.papers.logra.one_at_a_time import autograd_gradients


def gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """(n, width) of autograd, biases in the last column of each layer."""
    rows = []
    layers = {name: model.get_submodule(name) for name in ("0", "2", "4")}
    for place in range(len(inputs)):
        target = targets[place : place + 1]
        found = autograd_gradients(
            model, layers, lambda x, y=target: loss(model, x, y), inputs[place : place + 1], True
        )
        rows.append(torch.cat([part.flatten(1) for part in found.values()], 1))
    return torch.cat(rows)


def logged(run: LogIX, model: nn.Module, **schedule: Any) -> LogIX:
    run.watch(model, bias=True)
    for _ in LogIXScheduler(run, save="grad", **schedule):
        log_all(run, model)
    run.finalize()
    return run


def test_raw_influence_is_a_dense_solve_of_whole_gradients(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    assert [tuple(block[1:]) for block in run.layout.blocks] == [(5, 7), (4, 6), (3, 5)]
    train, query = gradients(model, *data()), gradients(model, *data(4, seed=2))
    torch.testing.assert_close(flatten_log(queried(run, model), run.layout), query)
    expected = torch.zeros(4, N).double()
    for columns in run.layout.slices.values():
        part = train[:, columns]
        moment = part.T @ part / N
        damped = moment + 0.1 * moment.trace() / len(moment) * torch.eye(len(moment)).double()
        expected += query[:, columns] @ torch.linalg.solve(damped, part.T)
    torch.testing.assert_close(run.compute_influence_all()["influence"], expected)


@pytest.mark.parametrize("hessian", ["raw", "kfac", "ekfac"])
def test_projections_of_full_rank_change_no_score(
    new_run: Callable[..., LogIX], hessian: str
) -> None:
    model, found = network(), []
    for lora in ("none", "pca"):
        run = new_run(lora)
        run.set_lora_config(LoRAConfig(rank=7))
        logged(run, model, lora=lora, hessian=hessian)
        queried(run, model)
        found.append(run.compute_influence_all()["influence"])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_random_projections_are_of_both(new_run: Callable[..., LogIX]) -> None:
    model, run = network(), new_run()
    run.set_lora_config(LoRAConfig(rank=2))
    logged(run, model, lora="random", hessian="raw")
    found, whole = queried(run, model)[1], gradients(model, *data(4, seed=2))
    start = 0
    for name, shape in (("0", (5, 7)), ("2", (4, 6)), ("4", (3, 5))):
        size = shape[0] * shape[1]
        block = whole[:, start : start + size].unflatten(1, shape)
        start += size
        assert run.projections is not None
        inner, out = (matrix.double() for matrix in run.projections[name])
        torch.testing.assert_close(found[name]["grad"], out @ block @ inner.T)


def test_ekfac_is_kronfluences_which_counts_biases(
    new_run: Callable[..., LogIX], tmp_path: Path
) -> None:
    pytest.importorskip("kronfluence")
    from papers.logra.benchmarks.peers import Kronfluence, Samples, silent

    model = network(torch.float32)
    inputs, targets = data(dtype=torch.float32)
    with silent():
        peer = Kronfluence(model, tmp_path / "kronfluence", 4, 6)
        peer.log(Samples(inputs, targets))
        expected = peer.score(Samples(*data(4, seed=2, dtype=torch.float32)))
    run = new_run()
    run.watch(model, bias=True)
    for _ in LogIXScheduler(run, hessian="ekfac", save="grad"):
        with run(data_id=range(N)):
            loss(model, inputs, targets).backward()
    run.finalize()
    with run(data_id=["a", "b", "c", "d"]):
        loss(model, *data(4, seed=2, dtype=torch.float32)).backward()
    found = run.compute_influence_all()["influence"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, check_dtype=False)


def test_a_configuration_says_it_for_trainers_too(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"bias: true\nroot_dir: {tmp_path}\n")
    assert not Config().bias
    assert read_config(tmp_path / "config.yaml").bias
    run = LogIX("project", tmp_path / "config.yaml")
    run.watch(network())
    assert [block.inner for block in run.layout.blocks] == [7, 6, 5]
    run.watch(network(), bias=False)
    assert [block.inner for block in run.layout.blocks] == [6, 5, 4]
