"""No sample is stored twice unseen, and no weights change unseen."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import InputError
from papers.logra import LogIX, LogIXScheduler
from papers.logra.log_store import LogStore
from tests.papers.logra.logged_network import (
    N,
    batches,
    data,
    log_all,
    logged,
    loss,
    network,
    queried,
    scored,
)

AGAIN = r"project/log: holds '0' from an earlier pass of this run, and would hold it twice; allowed"


@pytest.mark.parametrize("finalizes", [True, False])
@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(("lora", "hessian"), [("none", "raw"), ("random", "none")])
def test_the_logging_cell_run_again_is_refused_and_changes_nothing(
    new_run: Callable[..., LogIX], finalizes: bool, resume: bool, lora: Any, hessian: Any
) -> None:
    new_run()
    model, run = network(), LogIX("project", resume=resume)
    run.watch(model)

    def cell() -> None:
        for _ in LogIXScheduler(run, lora=lora, hessian=hessian, save="grad"):
            for ids, inputs, targets in batches():
                if not run.has_logged(ids):
                    with run(data_id=ids):
                        loss(model, inputs, targets).backward()
        if finalizes:
            run.finalize()

    cell()
    with pytest.raises(InputError, match=AGAIN):
        cell()
    run.folder.close()
    assert LogStore.open("logix/project/log").ids == [str(place) for place in range(N)]
    if lora == "none" and hessian == "raw":
        assert run.statistics.counts("grad") == dict.fromkeys(("0", "2", "4"), float(N))


def test_other_samples_may_follow_and_equal_ids_within_a_pass(
    new_run: Callable[..., LogIX],
) -> None:
    model, (inputs, targets) = network(), data()
    run = logged(new_run(), model, hessian="raw")
    run.save(True)
    for _ in range(2):  # of a text that stands twice in the data
        with run(data_id=["new", "new"]):
            loss(model, inputs[:2], targets[:2]).backward()
    run.finalize()
    dataset = run.build_log_dataset()
    assert [dataset[place][0] for place in range(N, N + 4)] == ["new"] * 4
    run.save(True)
    with pytest.raises(InputError, match="holds 'new' from an earlier pass"), run(["x", "new"]):
        raise AssertionError
    run.save(False)
    with pytest.raises(InputError, match="holds '3' from"), run(["3"], save=True):
        raise AssertionError


def test_a_run_of_two_parts_goes_on_in_its_second(new_run: Callable[..., LogIX]) -> None:
    """Rows of the second part that were stored before a kill are not those of the first one."""
    new_run()
    model = network()

    def log(run: LogIX, stop: int, asks: bool = True) -> None:
        run.watch(model)
        done = 0
        for part in ("first", "second"):
            run.setup({"grad": ["log", "covariance"]})
            run.save(True)
            for ids, inputs, targets in batches(3):
                if done == stop:
                    run.folder.close()
                    return
                done += 1
                names = [f"{part} {name}" for name in ids]
                if not (asks and run.has_logged(names)):
                    with run(data_id=names):
                        loss(model, inputs, targets).backward()
            run.finalize()

    log(LogIX("project", resume=True), 10)
    log(LogIX("project", resume=True), 100, asks=False)
    expected = [f"{part} {place}" for part in ("first", "second") for place in range(N)]
    assert LogStore.open("logix/project/log").ids == expected


def without_version(parameter: Tensor) -> None:
    before = parameter._version
    parameter.data.copy_(parameter.data + 1)
    assert parameter._version == before


def in_place(parameter: Tensor) -> None:
    with torch.no_grad():
        parameter += 1


def one_bit(parameter: Tensor) -> None:
    parameter.data.view(torch.int64)[0, 0] ^= 1


@pytest.mark.parametrize("change", [without_version, in_place, one_bit])
def test_changed_weights_are_noticed_wherever_the_log_is_read(
    new_run: Callable[..., LogIX], change: Callable[[Tensor], None]
) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    loader, store = run.build_log_dataloader(), run.folder.open()
    scored(run, model)
    before = model[2].weight.detach().clone()
    change(model[2].weight)
    query = queried(run, model)
    message = "rows of another run: identity 'model'"
    for read in (
        run.build_log_dataset,
        lambda: run.compute_influence_all(query),
        lambda: run.compute_influence_all(query, loader),
        lambda: run.influence.compute_influence_all(query, loader),
        lambda: run.influence.compute_influence_all(query, store),
        lambda: run.top_influences(query, loader),
        lambda: run.top_influences(query),
    ):
        with pytest.raises(InputError, match=message):
            read()
    model[2].weight.data.copy_(before)
    scored(run, model)
    # Logs of batches are scored as they are.
    inputs, targets = data(3)
    with run(data_id=["x", "y", "z"]):
        loss(model, inputs, targets).backward()
    assert isinstance(run.compute_influence(query, run.get_log())["influence"], Tensor)


def test_a_run_whose_log_another_one_replaced_neither_reads_nor_extends_it(
    new_run: Callable[..., LogIX],
) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    shutil.rmtree("logix/project")
    logged(new_run(), model, hessian="raw")
    message = "project/log: rows of another run, which began its log in place of this one's"
    with pytest.raises(InputError, match=message):
        scored(run, model)
    with pytest.raises(InputError, match=message), run(["new"], save=True):
        raise AssertionError
    assert len(LogStore.open("logix/project/log")) == N


def test_a_run_that_does_not_know_the_model_scores_what_is_stored(
    new_run: Callable[..., LogIX],
) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    query, expected = queried(run, model), scored(run, model)
    later = new_run()
    later.initialize_from_log()
    assert torch.equal(later.compute_influence_all(query)["influence"], expected)  # type: ignore[arg-type]


def test_statistics_of_other_weights_are_told_of(
    new_run: Callable[..., LogIX], caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    run = new_run()
    run.watch(model)
    for _ in LogIXScheduler(run, lora="random", hessian="raw"):  # nothing is stored
        log_all(run, model)
    run.finalize()
    told = "project: statistics were gathered with other weights"
    for change, times in ((0.0, 0), (1.0, 1)):
        model[0].weight.data.add_(change)
        later = new_run()
        later.watch(model)
        with caplog.at_level(logging.WARNING):
            later.initialize_from_log()
        assert caplog.text.count(told) == times
    (run.folder.path / "state" / "identity.json").write_text("{")
    with pytest.raises(InputError, match=r"identity.json: not a model's identity"):
        later.initialize_from_log()
    (run.folder.path / "state" / "identity.json").unlink()
    later.initialize_from_log()  # of a run from before


def test_log_all_of_one_run_twice_without_saving_gathers_on(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    for _ in range(2):
        run.setup({"grad": ["covariance"]})
        log_all(run, model)
    assert set(run.statistics.counts("grad").values()) == {2.0 * N}
