"""Facts of several processes: what is sent when, whose mean comes out, and D of spread states.

One launch of two processes runs every part of :mod:`tests.papers.sama.distributed_program`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from common.errors import InputError
from papers.betty.hypergradient.adaptation.clipping import NormClip, ValueClip
from papers.sama import Adaptation
from tests.papers.sama.distributed_program import ALPHA, network
from tests.papers.two_processes import both, run_two_processes

#: Parameters, in bytes.
BASE, META = (8 * sum(p.numel() for p in network(seed).parameters()) for seed in (0, 1))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    return run_two_processes("tests.papers.sama.distributed_program", folder)


def mean(lists: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(alike).mean(0) for alike in zip(*lists, strict=True)]


def test_equal_batches_give_the_gradient_of_one_process(found: list[dict[str, Any]]) -> None:
    wanted = both(found, "data_parallel", "alone")[0]
    assert_close(both(found, "data_parallel", "equal"), wanted, rtol=1e-9, atol=1e-12)


def test_different_batches_give_the_mean_of_each_process_own(found: list[dict[str, Any]]) -> None:
    alone = both(found, "data_parallel", "alone")
    assert_close(both(found, "data_parallel", "own"), mean(alone), rtol=1e-9, atol=1e-12)
    assert (alone[0][0] - alone[1][0]).abs().max() > 1e-3


def test_a_meta_step_sends_the_meta_gradient_once_and_nothing_else(
    found: list[dict[str, Any]],
) -> None:
    assert both(found, "data_parallel", "traffic") == ({"allreduce_": 1}, META)
    assert both(found, "data_parallel", "base grads") == []


def test_three_ordinary_backward_passes_send_everything_each_time(
    found: list[dict[str, Any]],
) -> None:
    """The naive way: the base network's gradients in each pass too."""
    assert both(found, "data_parallel", "naive traffic") == ({"allreduce_": 6}, 3 * (BASE + META))


def test_the_nudge_sends_the_weights_once_and_leaves_them_equal(
    found: list[dict[str, Any]],
) -> None:
    assert both(found, "data_parallel", "nudge traffic") == ({"allreduce_": 2}, BASE + META)
    wanted = mean(both(found, "data_parallel", "nudged alone"))
    assert_close(both(found, "data_parallel", "nudged"), wanted, rtol=1e-9, atol=1e-12)


def test_gradients_are_sent_while_others_are_computed(found: list[dict[str, Any]]) -> None:
    """In the last of three passes a bucket is sent before the first layer has its gradient."""
    for each in found:
        events = each["overlap"]["events"]
        assert events[:3] == ["computed", "computed", "sent"]
        assert sorted(events[3:])[:1] == ["computed"]


def test_an_optimiser_that_is_spread_has_the_d_of_a_whole_one(found: list[dict[str, Any]]) -> None:
    """Upstream has zeros where another process keeps the state."""
    whole, spread = (both(found, "zero", f"D {name}") for name in ("whole", "spread"))
    assert_close(spread, whole, rtol=1e-9, atol=0)
    assert min(float(part.abs().min()) for part in spread) > 0
    assert_close(both(found, "zero", "spread"), both(found, "zero", "whole"), rtol=1e-9, atol=0)
    shares = [set(each["zero"]["share"]) for each in found]
    assert shares[0] & shares[1] == set()
    assert both(found, "zero", "D whole traffic") == ({}, 0)
    calls, sent = both(found, "zero", "D spread traffic")
    assert calls == {"_allgather_base_": 1}
    assert BASE / 2 <= sent < BASE


@pytest.mark.parametrize("name", ["restored", "nudged"])
def test_sharded_weights_give_the_gradient_of_one_process_on_all_batches(
    name: str, found: list[dict[str, Any]]
) -> None:
    """The vector is averaged before it is scaled, and so is everyone's."""
    wanted = both(found, "fsdp", f"{name} alone")
    assert_close(both(found, "fsdp", name), wanted, rtol=1e-9, atol=1e-12)
    weights = both(found, "fsdp", f"{name} weights alone")
    assert_close(both(found, "fsdp", f"{name} weights"), weights, rtol=1e-9, atol=1e-12)
    moved = torch.cat([part.flatten() for part in both(found, "fsdp", f"{name} moved")])
    assert float(moved.norm()) == pytest.approx(ALPHA if name == "nudged" else 0.0)
    assert both(found, "fsdp", f"{name} base grads") == []


def test_each_shard_has_its_own_d(found: list[dict[str, Any]]) -> None:
    shapes = [each["fsdp"]["shards"] for each in found]
    assert [each["fsdp"]["D"] for each in found] == shapes
    assert shapes[0] != shapes[1]  # five rows


def test_what_the_meta_cost_alone_reads_is_averaged_too(found: list[dict[str, Any]]) -> None:
    grads = both(found, "unused", "found")
    assert_close(grads[0], both(found, "unused", "wanted"), rtol=1e-12, atol=0)
    assert all("meta parameter module.own" in each["unused"]["refused"] for each in found)


def test_what_is_not_element_wise_is_refused_where_the_state_is_spread() -> None:
    params = [torch.ones(2, 2, requires_grad=True)]
    with pytest.raises(InputError, match="not element-wise"):
        Adaptation(torch.optim.Adafactor(params), group=object())


def test_clips_that_are_not_active_change_nothing() -> None:
    vector, grads = [torch.ones(3)], [torch.full((3,), 0.1)]
    for clip in (NormClip(torch.tensor(0.2), 1.0), ValueClip(0.2)):
        assert_close(clip.product(vector, grads, grads), vector)
