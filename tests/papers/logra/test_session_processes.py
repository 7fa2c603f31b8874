"""Two processes log and score as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from common.errors import InputError
from papers.logra import LoggingConfig, LogIX, LogIXScheduler
from tests.papers.logra.logged_network import (
    N,
    batches,
    data,
    logged,
    loss,
    network,
    queried,
    scored,
)


def _log_share(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    run, model = LogIX("project", logging_config=LoggingConfig(log_dtype="float64")), network()
    run.watch(model)
    for _ in LogIXScheduler(run, lora="pca", hessian="ekfac", save="grad"):
        for number, (ids, inputs, targets) in enumerate(batches()):
            if number % 2 == rank:
                with run(data_id=ids):
                    loss(model, inputs, targets).backward()
    run.finalize()
    found = run.compute_influence_all(queried(run, model))
    shared = run.compute_influence_all(queried(run, model), split_rows=True)
    assert found["tgt_ids"] == shared["tgt_ids"]
    torch.testing.assert_close(found["influence"], shared["influence"])
    torch.save((found["tgt_ids"], found["influence"]), folder / f"{rank}.pt")
    again = LogIX("project", logging_config=run.config.logging)
    again.projections = run.projections
    again.watch(model)
    with pytest.raises(InputError, match="rows of an earlier run"), again(list("abcd"), save=True):
        loss(model, *data(4)).backward()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one_each_all_rows_or_its_share(
    tmp_path: Path, new_run: Callable[..., LogIX]
) -> None:
    model = network()
    expected = scored(logged(new_run("one"), model, lora="pca", hessian="ekfac"), model)
    multiprocessing.spawn(_log_share, (tmp_path,), nprocs=2)
    for rank in (0, 1):
        ids, found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        order = sorted(range(N), key=lambda place: int(ids[place]))
        assert sorted(ids, key=int) == [str(i) for i in range(N)]
        torch.testing.assert_close(found[:, order], expected, rtol=1e-4, atol=1e-4)
