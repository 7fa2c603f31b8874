"""What a run keeps is what it logged, once each, and no other run's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common import ROOT
from common.errors import InputError
from papers.logra import LoggingConfig, LogIX, LogIXScheduler, LoRAConfig, merge_logs
from papers.logra.scoring.influence import flatten_log
from papers.logra.session.log_folder import LogFolder
from tests.papers.logra.logged_network import (
    N,
    data,
    log_all,
    logged,
    loss,
    network,
    queried,
    scored,
)


@pytest.mark.parametrize("hessian", ["raw", "ekfac"])
def test_defect_6_finalize_twice_is_finalize_once(
    new_run: Callable[..., LogIX], hessian: str
) -> None:
    """Upstream divided statistics by their counts each time, also between EKFAC's passes."""
    model = network()
    once = scored(logged(new_run("once"), model, hessian=hessian), model)
    run = new_run("often")
    run.watch(model)
    for _ in LogIXScheduler(run, hessian=hessian, save="grad"):  # type: ignore[arg-type]
        log_all(run, model)
        run.finalize()
        run.finalize()
    assert torch.equal(scored(run, model), once)


def test_defect_9_equal_ids_stay_different_rows(new_run: Callable[..., LogIX]) -> None:
    """Upstream dropped every row whose id it had seen."""
    run, model = new_run(), network()
    run.watch(model)
    run.save(True)
    inputs, targets = data()
    with run(data_id=["same"] * N):
        loss(model, inputs, targets).backward()
    run.finalize()
    found = run.compute_influence_all(queried(run, model), hessian="none")
    assert found["tgt_ids"] == ["same"] * N
    assert isinstance(found["influence"], Tensor)
    assert len(found["influence"].unique()) == 4 * N


def test_defect_10_an_earlier_runs_log_is_not_mixed_in(new_run: Callable[..., LogIX]) -> None:
    """Upstream loaded the chunks of both."""
    model = network()
    logged(new_run(), model, hessian="raw")
    run = new_run()
    run.watch(model)
    run.save(True)
    with pytest.raises(InputError, match=r"project/log: holds the log of an earlier run; allowed"):
        log_all(run, model)
    run.initialize_from_log()
    assert scored(run, model).shape == (4, N)


def test_rows_of_another_model_or_projection_are_refused(new_run: Callable[..., LogIX]) -> None:
    model = network()
    logged(new_run(), model, hessian="raw")
    run = new_run()
    run.watch(model)
    run.initialize_from_log()
    run.build_log_dataset()
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(InputError, match="rows of another run: identity 'model'"):
        run.build_log_dataset()
    other = new_run()
    other.watch(nn.Linear(6, 3).double())
    with pytest.raises(InputError, match="layer 0; allowed: "):
        other.initialize_from_log()


LATER = """
import torch
from papers import logra
from tests.papers.logra.logged_network import network, scored
run = logra.LogIX("project")
model = network()
run.watch(model)
run.initialize_from_log()
torch.save(scored(run, model), "later.pt")
"""


@pytest.mark.slow
def test_defect_11_another_process_gets_the_same_scores(new_run: Callable[..., LogIX]) -> None:
    """Upstream could not unpickle its own state."""
    model = network()
    run = new_run()
    run.set_lora_config(LoRAConfig(rank=3))
    expected = scored(logged(run, model, lora="random", hessian="ekfac"), model)
    subprocess.run([sys.executable, "-c", LATER], check=True, env={"PYTHONPATH": str(ROOT)})
    found = torch.load("later.pt", weights_only=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_defect_12_every_log_dtype_can_be_saved(new_run: Callable[..., LogIX], dtype: Any) -> None:
    """Upstream handed bfloat16 to numpy."""
    model = network()
    expected = scored(logged(new_run("exact"), model, hessian="raw"), model)
    run = LogIX(dtype, logging_config=LoggingConfig(log_dtype=dtype, flush_threshold=200))
    found = scored(logged(run, model, hessian="raw"), model)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.02
    assert len(list(Path("logix", dtype, "log").glob("*/*.safetensors"))) > 3


def test_defect_21_each_call_builds_the_loader_it_asks_for(new_run: Callable[..., LogIX]) -> None:
    """Upstream gave the first one again, whatever the arguments."""
    model = network()
    run = logged(new_run(), model, hessian="raw")
    first, second = run.build_log_dataloader(), run.build_log_dataloader(7, flatten=True)
    assert [len(ids) for ids, _ in first] == [16, 5]
    assert [len(ids) for ids, _ in second] == [7, 7, 7]
    nested = merge_logs(first)
    flat = merge_logs(second)
    assert nested[0] == flat[0]
    assert torch.equal(flatten_log(nested, run.layout), flatten_log(flat, run.layout))
    assert run.build_log_dataset(flatten=True)[3][1].shape == (run.layout.width,)
    name, row = run.build_log_dataset()[3]
    assert (name, row["2"]["grad"].shape) == ("3", (4, 5))  # type: ignore[call-overload]


def test_queries_after_finalize_and_eval_are_only_looked_at(
    new_run: Callable[..., LogIX],
) -> None:
    """As the documented program does, without another setup."""
    model = network()
    run = logged(new_run(), model, hessian="raw")
    revision, first = run.statistics.revision, scored(run, model)
    assert torch.equal(scored(run, model), first)
    assert run.statistics.revision == revision
    assert len(run.build_log_dataset()) == N
    run.setup({"grad": ["log", "covariance"]})
    run.eval()
    queried(run, model)
    assert run.statistics.revision == revision


def test_leftovers_of_an_earlier_projection_do_not_stay(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = new_run()
    run.watch(model)
    run.add_lora(lora_config=LoRAConfig(rank=2))
    run.finalize()
    assert LogFolder(Path("logix/project")).has_projections
    again = new_run()
    again.watch(model)
    again.finalize()
    again.initialize_from_log()
    assert again.projections is None
