"""A batch is logged whole or not at all, and leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common.errors import InputError
from papers.logra import LogIX, LogIXScheduler, LoRAConfig
from papers.logra.scoring.influence import flatten_log
from tests.papers.logra.logged_network import (
    N,
    batches,
    data,
    log_all,
    loss,
    network,
    queried,
)
from tests.papers.logra.one_at_a_time import autograd_gradients


def test_defect_7_after_a_batch_nothing_is_gathered(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"forward": ["covariance"], "backward": ["covariance"], "grad": ["covariance"]})
    log_all(run, model)
    before = run.statistics.revision
    loss(model, *data()).backward()
    assert run.statistics.revision == before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_defect_8_a_log_keeps_what_it_holds(new_run: Callable[..., LogIX]) -> None:
    """Upstream's was emptied by the next batch."""
    run, model = new_run(), network()
    run.watch(model)
    first = queried(run, model)
    held = flatten_log(first, run.layout).clone()
    log_all(run, model)
    assert torch.equal(flatten_log(first, run.layout), held)
    assert run.get_log()[0] == ["18", "19", "20"]
    copied = run.get_log(copy=True)[1]
    assert isinstance(copied, dict)
    copied["0"]["grad"].zero_()
    assert run.get_log()[1]["0"]["grad"].any()  # type: ignore[index, call-overload]


def test_defect_12_variance_is_a_plugin_and_only_gradients_are_saved(
    new_run: Callable[..., LogIX],
) -> None:
    """Upstream's variance raised and summed without a square; two of its four ``save`` raised."""
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"grad": ["mean", "variance"]})
    rows = []
    for ids, inputs, targets in batches():
        with run(data_id=ids):
            loss(model, inputs, targets).backward()
        rows.append(run.get_log()[1]["0"]["grad"].flatten(1))  # type: ignore[index, call-overload]
    every = torch.cat(rows)
    torch.testing.assert_close(run.statistics.variance("grad")["0"], every.var(0, correction=0))
    with pytest.raises(InputError, match="save 'forward'; allowed: none, grad"):
        LogIXScheduler(run, save="forward")  # type: ignore[arg-type]


def test_defect_20_the_scale_of_a_loss_is_divided_out(new_run: Callable[..., LogIX]) -> None:
    """Upstream's gradients kept a GradScaler's scale, and 1 / n of a mean over n samples."""
    run, model = new_run(), network()
    run.watch(model)
    inputs, targets = data(4, seed=2)
    expected = flatten_log(queried(run, model), run.layout)
    for scale, reduction in ((1024.0, "sum"), (0.25, "mean")):
        with run(data_id=range(4), loss_scale=scale):
            value = cross_entropy(model(inputs), targets, reduction=reduction)
            (value * 1024 if reduction == "sum" else value).backward()
        torch.testing.assert_close(flatten_log(run.get_log(), run.layout), expected)


def test_a_pass_of_kfac_gathers_without_gradients(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"forward": ["covariance"], "backward": ["covariance"]})
    log_all(run, model)
    assert run.get_log()[1] == {"0": {}, "2": {}, "4": {}}
    with pytest.raises(InputError, match="a log without the gradient of layer 0"):
        run.compute_self_influence()


def test_start_and_end_are_a_with_block(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    expected = queried(run, model)
    with pytest.raises(InputError, match="end without start"):
        run.end()
    run.start(["a", "b", "c", "d"])
    with pytest.raises(InputError, match="a batch within a batch"):
        run.start(["e"])
    with pytest.raises(InputError, match="no log"):
        run.get_log()
    inputs, targets = data(4, seed=2)
    loss(model, inputs, targets).backward()
    run.end(save=True)
    assert run.get_log()[0] == expected[0]
    assert torch.equal(flatten_log(run.get_log(), run.layout), flatten_log(expected, run.layout))
    run.start(["e"])
    run.clear()
    assert all(parameter.requires_grad for parameter in model.parameters())
    run.finalize()
    assert len(run.build_log_dataset()) == 4


def test_a_block_that_fails_stores_nothing_and_leaves_the_model(
    new_run: Callable[..., LogIX],
) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.save(True)
    with pytest.raises(RuntimeError, match="scalar"), run(data_id=["a"]):
        model(data(1)[0]).backward()
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(InputError, match="no log; allowed: after a batch"):
        run.get_log()
    assert not Path("logix").exists()
    log_all(run, model)
    run.finalize()
    assert len(run.build_log_dataset()) == N


def test_ids_are_one_for_each_sample(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"forward": ["covariance"], "grad": ["covariance"]})
    log_all(run, model)
    revision = run.statistics.revision
    with pytest.raises(InputError, match="2 data_id for a batch of 3"), run(data_id=["a", "b"]):
        loss(model, *data(3)).backward()
    assert run.statistics.revision == revision
    assert run.statistics.covariance("forward")  # no part of the batch is in it
    for bad in ("abc", b"abc"):
        with pytest.raises(InputError, match=r"data_id .*allowed: a list"), run(data_id=bad):
            pass
    with pytest.raises(InputError, match="a batch without data_id"), run:
        pass


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_stops_the_batch_alone(
    new_run: Callable[..., LogIX], value: float
) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"grad": ["log", "covariance"]})
    run.save(True)
    inputs, targets = data()
    inputs[2, 0] = value
    message = r"layer 0: gradient of sample 2 is nan; allowed: finite numbers$"
    with pytest.raises(InputError, match=message), run(data_id=range(N)):
        loss(model, inputs, targets).backward()
    log_all(run, model)
    run.finalize()
    assert len(run.build_log_dataset()) == N
    assert set(run.statistics.counts("grad").values()) == {N}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_defect_13_models_of_half_precision_are_projected(
    new_run: Callable[..., LogIX], dtype: torch.dtype
) -> None:
    """Upstream's added layers stayed float32, which the model's outputs did not fit."""
    inputs, targets = data(4)
    rows = []
    for project, kind in (("exact", torch.float64), ("half", dtype)):
        run, model = new_run(project), network(dtype).to(kind)
        run.watch(model)
        run.add_lora(lora_config=LoRAConfig(rank=3))
        with run(data_id=range(4)):
            loss(model, inputs.to(dtype).to(kind), targets).backward()
        rows.append(flatten_log(run.get_log(), run.layout).double())
    exact, half = rows
    assert 0 < float((half - exact).norm() / exact.norm()) < 0.03


def test_defect_13_convolutions_keep_dilation_and_groups(new_run: Callable[..., LogIX]) -> None:
    """Upstream's copies dropped both, and did not fit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, dilation=2, groups=2), nn.Flatten()).double()
    images = torch.randn(3, 4, 6, 6).double()
    run = new_run()
    run.watch(model)
    run.add_lora(lora_config=LoRAConfig(rank=3))
    with run(data_id=range(3)):
        model(images).square().sum().backward()
    found = flatten_log(run.get_log(), run.layout)
    whole = autograd_gradients(model, {"0": model[0]}, lambda x: model(x).square().sum(), images)[
        "0"
    ]
    assert run.projections is not None
    inner, out = (matrix.double() for matrix in run.projections["0"])
    torch.testing.assert_close(found, (out @ whole @ inner.T).flatten(1))


def test_activations_and_tensors_are_logged_where_asked(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"forward": ["log"], "backward": ["log"], "grad": ["log"]})
    inputs, targets = data(4)
    with run(data_id=range(4)):
        hidden = model[1](model[0](inputs))
        run.watch_activation({"hidden": hidden})
        loss(model[2:], hidden, targets).backward()
    ids, log = run.get_log()
    assert isinstance(log, dict)
    assert ids == ["0", "1", "2", "3"]
    assert torch.equal(log["0"]["forward"], inputs)
    assert torch.equal(log["hidden"]["forward"], log["2"]["forward"])
    for name in ("0", "2", "4"):
        e, a = log[name]["backward"], log[name]["forward"]
        torch.testing.assert_close(log[name]["grad"], e.unsqueeze(2) * a.unsqueeze(1))
    torch.testing.assert_close(log["hidden"]["backward"], log["2"]["backward"] @ model[2].weight)
    run.compute_self_influence(hessian="none")
    with pytest.raises(InputError, match="watch_activation outside of a batch"):
        run.watch_activation({"hidden": hidden})


def test_defect_16_without_a_mask_all_tokens_count(new_run: Callable[..., LogIX]) -> None:
    """Upstream divided their sum by the number of sequences."""
    run, model = new_run(), nn.Linear(3, 2).double()
    run.watch(nn.ModuleDict({"it": model}))
    run.setup({"forward": ["covariance"], "backward": ["covariance"]})
    tokens = torch.randn(2, 4, 3).double()
    with run(data_id=["a", "b"]):
        model(tokens).sum().backward()
    rows = tokens.flatten(0, 1)
    torch.testing.assert_close(run.statistics.covariance("forward")["it"], rows.T @ rows / 8)
    ones = torch.ones(2, 2).double()
    torch.testing.assert_close(run.statistics.covariance("backward")["it"], ones)


def test_a_mask_says_which_tokens_count(new_run: Callable[..., LogIX]) -> None:
    run = new_run()
    model = nn.Linear(3, 2).double()
    run.watch(nn.ModuleDict({"it": model}))
    run.setup({"forward": ["covariance"]})
    tokens = torch.randn(2, 4, 3).double()
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    with run(data_id=["a", "b"], mask=mask):
        model(tokens).sum().backward()
    counted = tokens[mask.bool()]
    torch.testing.assert_close(run.statistics.covariance("forward")["it"], counted.T @ counted / 3)
