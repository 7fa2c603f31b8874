"""Programs written for LogIX find the names and arguments that they use."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from common import ROOT
from common.errors import InputError
from papers import logra
from papers.logra import LogIX, LogIXScheduler, LoRAConfig
from papers.logra.scoring.influence import Influence
from tests.papers.logra.logged_network import (
    batches,
    data,
    log_all,
    logged,
    loss,
    network,
    queried,
    scored,
)


def test_a_log_may_be_read_within_its_block(new_run: Callable[..., LogIX]) -> None:
    """As the published example scores a training batch."""
    model, (inputs, targets) = network(), data(4, seed=2)
    run = logged(new_run(), model, hessian="raw")
    query = queried(run, model)
    expected = scored(run, model)
    for ids, x, y in batches():
        with run(data_id=ids):
            loss(model, x, y).backward()
            found = run.get_log()
            score = run.influence.compute_influence(query, found)["influence"]
            assert run.get_log() is found
        assert run.get_log() is found
        columns = [int(name) for name in ids]
        torch.testing.assert_close(score, expected[:, columns], rtol=1e-10, atol=1e-10)
    run.start(["a", "b", "c", "d"])
    loss(model, inputs, targets).backward()
    first = run.get_log()
    run.end()
    torch.testing.assert_close(first[1], query[1])


def test_a_log_read_within_its_block_is_stored_and_counted_once(
    new_run: Callable[..., LogIX],
) -> None:
    model = network()
    expected = scored(logged(new_run("after"), model, hessian="raw"), model)
    run = new_run("within")
    run.watch(model)
    for _ in LogIXScheduler(run, hessian="raw", save="grad"):
        for ids, x, y in batches():
            with run(data_id=ids):
                loss(model, x, y).backward()
                run.get_log()
    run.finalize()
    assert torch.equal(scored(run, model), expected)


def test_what_would_be_missed_after_get_log_is_refused(new_run: Callable[..., LogIX]) -> None:
    run, model, (inputs, targets) = new_run(), network(), data(4, seed=2)
    run.watch(model)
    with pytest.raises(InputError, match="no log; allowed"), run(["a", "b", "c", "d"]):
        run.get_log()
    with run(["a", "b", "c", "d"]):
        loss(model, inputs, targets).backward()
        run.get_log()
        with pytest.raises(InputError, match=r"get_log\(\) has ended; allowed: get_log\(\) last"):
            model(inputs)
    loss(model, inputs, targets).backward()  # outside it runs
    run.start(["a", "b", "c", "d"])
    loss(model, inputs, targets).backward()
    run.get_log()
    with pytest.raises(InputError, match=r"end\(save=True\) after get_log"):
        run.end(save=True)
    queried(run, model)


def test_names_of_logix_utils_are_there() -> None:
    utils: Any = importlib.import_module("papers.logra.utils")
    assert utils is logra.utils  # type: ignore[attr-defined]
    assert utils.merge_logs is logra.merge_logs
    assert utils.DataIDGenerator is logra.DataIDGenerator
    assert (utils.get_rank(), utils.get_world_size()) == (0, 1)
    assert utils.get_logger().name == "logra"
    with pytest.raises(AttributeError, match="nothing"):
        _ = utils.nothing
    program = "from papers.logra.utils import *; from papers.logra.utils import merge_logs"
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize(
    ("given", "init", "meant"),
    [(True, "random", "random"), (True, "pca", "pca"), (False, "random", "none")],
)
def test_lora_may_be_a_boolean(
    new_run: Callable[..., LogIX], given: bool, init: Any, meant: Any
) -> None:
    model, found = network(), []
    for project, lora in (("boolean", given), ("name", meant)):
        run = new_run(project)
        run.set_lora_config(LoRAConfig(init=init, rank=2))
        found.append(scored(logged(run, model, lora=lora, hessian="raw"), model))
    assert torch.equal(*found)
    with pytest.raises(InputError, match="lora 1; allowed: none, random, pca"):
        LogIXScheduler(new_run(), lora=1)  # type: ignore[arg-type]


def test_scores_are_saved_over_queries(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    loader, (inputs, targets) = run.build_log_dataloader(), data(6, seed=3)
    with pytest.raises(InputError, match="no scores were saved"):
        run.influence.get_influence_scores()
    parts: list[Tensor] = []
    for place in range(0, 6, 2):
        with run(data_id=[str(place), str(place + 1)]):
            loss(model, inputs[place : place + 2], targets[place : place + 2]).backward()
        result = run.influence.compute_influence_all(run.get_log(), loader, save=True)
        assert isinstance(result["influence"], Tensor)
        parts.append(result["influence"])
    run.compute_influence_all()  # of which nothing was said
    found = run.influence.get_influence_scores()
    assert found["src_ids"] == [str(place) for place in range(6)]
    assert torch.equal(found["influence"], torch.cat(parts))  # type: ignore[arg-type]
    run.compute_influence_all(influence_groups=["2"], save=True)
    with pytest.raises(InputError, match="saved scores of different groups"):
        run.influence.get_influence_scores()


def test_saved_scores_of_groups_are_by_group(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    for _ in range(2):
        scored_groups = run.compute_influence_all(
            queried(run, model), influence_groups=["2"], save=True
        )["influence"]
    found = run.influence.get_influence_scores()["influence"]
    assert isinstance(found, dict)
    assert isinstance(scored_groups, dict)
    assert {name: part.shape for name, part in found.items()} == {"2": (8, 21), "total": (8, 21)}
    assert torch.equal(found["2"][4:], scored_groups["2"])


def test_the_best_explanations_are_the_first_of_all(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    expected = scored(run, model)
    found = run.top_influences(k=5)
    values, places = expected.sort(dim=1, descending=True)
    torch.testing.assert_close(found["influence"], values[:, :5])
    assert torch.equal(found["positions"], places[:, :5])
    assert found["tgt_ids"] == [[str(place) for place in row] for row in places[:, :5].tolist()]
    loader = run.build_log_dataloader()
    again = run.top_influences(run.get_log(), loader, 5, "cosine", relative_damping=1.0)
    direct = Influence(run.layout, run.statistics).top_influences(
        run.get_log(), loader, 5, "cosine", relative_damping=1.0
    )
    assert torch.equal(again["influence"], direct["influence"])
    assert len(run.top_influences()["tgt_ids"][0]) == 10


def test_batches_without_ids_are_refused(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    for bad, message in (
        (None, "data_id None; allowed: a list, one id for each sample"),
        (7, "data_id 7; allowed: a list"),
        (torch.tensor(3), r"data_id tensor\(3\); allowed: a list"),
        ([], "data_id of no sample; allowed: batches of at least one"),
    ):
        for ask in (lambda bad=bad: run(data_id=bad).__enter__(), lambda bad=bad: run.start(bad)):
            with pytest.raises(InputError, match=message):
                ask()
    log_all(run, model)
