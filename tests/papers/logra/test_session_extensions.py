"""What a session offers beyond LogIX: flat logs, stores scored by parts, cheaper passes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from papers.logra import Config, LoggingConfig, LogIX, LogIXScheduler
from papers.logra.scoring.influence import Influence
from tests.papers.logra.logged_network import batches, log_all, logged, loss, network, queried


def test_settings_may_be_given_as_they_are(tmp_path: Path) -> None:
    run = LogIX("project", Config(root_dir=tmp_path, logging=LoggingConfig(log_dtype="float64")))
    logged(run, network(), hessian="empirical_fisher")
    assert (tmp_path / "project" / "log").is_dir()
    assert run.get_logging_config().stored == "float64"


def test_a_flat_log_has_layers_side_by_side(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    log_all(run, model)
    (ids, flat), (same, nested) = run.get_log(flatten=True), run.get_log()
    assert ids == same
    assert isinstance(flat, torch.Tensor)
    assert torch.equal(flat, run.layout.flatten({k: v["grad"] for k, v in nested.items()}))


def test_a_pass_for_eigenvalues_alone_rotates_rows_to_the_same_values(
    new_run: Callable[..., LogIX],
) -> None:
    model, found = network(), []
    for log in (True, False):
        run = new_run(f"log {log}")
        run.watch(model)
        for _ in LogIXScheduler(run, hessian="ekfac", log=log):
            log_all(run, model)
        if not log:
            assert run.get_log()[1] == {"0": {}, "2": {}, "4": {}}
            with pytest.raises(InputError, match="corrects eigenvalues alone"):
                run.get_log(flatten=True)
        run.eval()
        found.append(run.influence.precondition(queried(run, model))[1])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_self_influence_of_a_store_is_that_of_its_logs(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    logged(run, model, hessian="empirical_fisher")
    stored = run.compute_self_influence(run.build_log_dataloader())
    parts = []
    for ids, inputs, targets in batches():
        with run(data_id=ids):
            loss(model, inputs, targets).backward()
        parts.append(run.compute_self_influence(run.get_log())["influence"])
    assert stored["src_ids"] == [str(i) for i in range(21)]
    torch.testing.assert_close(stored["influence"], torch.cat(parts))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"build_log_dataloader\(\)"):
        run.compute_self_influence(torch.utils.data.DataLoader([1, 2]))  # type: ignore[arg-type]


def test_rows_at_once_change_no_score(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    logged(run, model, hessian="empirical_fisher")
    asked = queried(run, model)
    found = [
        run.compute_influence_all(asked, rows_at_once=rows, mode="relatif")["influence"]
        for rows in (None, 1, 5)
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_names_of_the_field_and_of_logix_mean_the_same(new_run: Callable[..., LogIX]) -> None:
    model, found = network(), []
    for hessian, mode in (("empirical_fisher", "relatif"), ("raw", "cosine")):
        run = logged(new_run(hessian), model, hessian=hessian)
        asked, store = queried(run, model), run.build_log_dataloader()
        influence = Influence(run.layout, run.statistics)
        found.append(
            influence.compute_influence_all(asked, store, mode=mode, hessian=hessian)["influence"]  # type: ignore[arg-type]
        )
    assert torch.equal(found[0], found[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("digests", [True, False])
def test_other_weights_are_refused_unless_they_are_not_read(
    new_run: Callable[..., LogIX], digests: bool
) -> None:
    run, model = new_run(digest_weights=digests), network()
    logged(run, model)
    asked = queried(run, model)
    with torch.no_grad():
        model[0].weight.add_(1)  # type: ignore[operator, union-attr]
    if digests:
        with pytest.raises(InputError, match="model"):
            run.compute_influence_all(asked, hessian="none")
    else:
        assert run.compute_influence_all(asked, hessian="none")["tgt_ids"]


def test_sums_may_be_float32(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(statistics_dtype="float32"), network()
    logged(run, model, hessian="empirical_fisher")
    assert {held.dtype for held in run.statistics.covariance("grad").values()} == {torch.float32}


def test_gradients_of_a_batch_go_with_it(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    kept = []
    for ids, inputs, targets in batches():
        with run(data_id=ids):
            loss(model, inputs, targets).backward()
        kept.append(weakref.ref(run.get_log(flatten=True)[1]))
    assert [ref() is None for ref in kept] == [True, True, True, False]
