"""Facts of the measures: what is kept, what two processes send and when, what does not pile up."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.testing import assert_close

from common import ROOT
from common.errors import InputError
from common.experiments.settings import validated
from papers.betty.hypergradient.adaptation import record
from papers.sama import SAMA, Adaptation
from papers.sama.experiments.meta_gradient_cost import MetaGradientCost, cost_of_process
from papers.sama.measures.processes import run_in_processes
from tests.papers.sama.cost_program import cost_settings


@cache
def alone(name: str, **options: Any) -> dict[str, float]:
    return cost_of_process(torch.device("cpu"), cost_settings(name, **options), 0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    path = tmp_path_factory.mktemp("processes") / "found.pt"
    done = subprocess.run(
        [sys.executable, "-m", "tests.papers.sama.cost_program", str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = torch.load(path, weights_only=True)
    return found


def test_sama_keeps_one_pass_and_a_graph_of_the_gradient_is_more() -> None:
    sama = alone("sama")["saved_bytes"]
    assert sama == alone("sama_na")["saved_bytes"]
    assert alone("plain")["saved_bytes"] < sama < alone("neumann")["saved_bytes"]
    assert alone("neumann")["saved_bytes"] == alone("cg")["saved_bytes"]


def test_unrolled_steps_are_kept_and_those_of_sama_are_not() -> None:
    assert alone("sama", unroll_steps=4)["saved_bytes"] == alone("sama")["saved_bytes"]
    assert alone("itd", unroll_steps=4)["saved_bytes"] > 3 * alone("itd")["saved_bytes"]


def test_each_of_two_processes_keeps_half(two: list[dict[str, Any]]) -> None:
    for each in (found["cost"] for found in two):
        assert each["saved_bytes"] / alone("sama")["saved_bytes"] == pytest.approx(0.5, abs=0.06)


def test_the_meta_gradient_is_all_that_is_sent(two: list[dict[str, Any]]) -> None:
    for each in (found["sama"] for found in two):
        assert each["counts"]["collectives"] > 1  # buckets
        assert each["counts"]["sent_bytes"] == each["counts"]["meta_bytes"]
    for each in (found["naive"] for found in two):
        counts = each["counts"]
        assert counts["sent_bytes"] == 3 * counts["base_bytes"] + 2 * counts["meta_bytes"]


def test_nothing_is_sent_before_the_last_of_three_backward_passes(
    two: list[dict[str, Any]],
) -> None:
    for each in (found["sama"] for found in two):
        (events,) = each["events"]
        passes = [start for what, start, _ in events if what == "backward"]
        assert len(passes) == len([what for what, _, _ in events if what == "forward"]) == 3
        sent = [start for what, start, _ in events if what == "sent"]
        assert len(sent) > 1
        assert min(sent) > passes[-1]


def test_a_run_that_cannot_be_divided_or_is_given_twice_over_is_refused() -> None:
    for changes, message in (
        ({"processes": 3}, "must divide global_batch_size"),
        ({"network": {"kind": "encoder", "width": 10, "depth": 1, "heads": 4}}, "divide width"),
        (
            {"network": {"kind": "mlp", "width": 8, "depth": 1, "fused_attention": True}},
            "of kind encoder only",
        ),
    ):
        raw = cost_settings("sama").model_dump() | changes
        with pytest.raises(InputError, match=message):
            validated(MetaGradientCost, raw, "x")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="processes 2: 1 GPUs are visible"):
        run_in_processes(cost_of_process, 2, True)


def test_a_thousand_meta_steps_leave_nothing_behind() -> None:
    torch.manual_seed(0)
    base, meta = nn.Linear(4, 1), nn.Linear(4, 1)
    optimizer = torch.optim.Adam(base.parameters(), lr=1e-3)
    above = torch.optim.Adam(meta.parameters(), lr=1e-3)
    adaptation = Adaptation(optimizer)
    sama = SAMA(base, meta, adaptation)
    x, y = torch.randn(8, 4), torch.randn(8, 1)

    def base_cost() -> Tensor:
        cost: Tensor = (meta(x).exp() * (base(x) - y).square()).mean()
        return cost

    def steps(count: int) -> None:
        for _ in range(count):
            base_cost().backward(inputs=list(base.parameters()))  # type: ignore[no-untyped-call]
            adaptation.clip_grad_norm_(1.0)
            optimizer.step()
            optimizer.zero_grad()
            above.zero_grad()
            if adaptation.flat:
                continue  # after the first step there is no meta step
            sama.backward(lambda: mse_loss(base(x), y), base_cost)
            above.step()

    def alive() -> tuple[int, int]:
        gc.collect()
        objects = gc.get_objects()
        return len(objects), sum(type(each) in (Tensor, nn.Parameter) for each in objects)

    steps(20)
    before, resident = alive(), _resident_bytes()
    steps(1000)
    objects, tensors = alive()
    assert tensors == before[1]
    assert objects - before[0] < 100  # a leak of one a step would be ten times that
    assert _resident_bytes() - resident < 4 * 2**20


def _resident_bytes() -> int:
    """Memory of this process; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
        (torch.optim.AdamW, {}),
        (torch.optim.NAdam, {}),
        (torch.optim.RAdam, {}),
        (torch.optim.Adamax, {}),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.9}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Adadelta, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_a_large_weight_in_parts_has_the_product_of_a_whole_one(
    kind: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    # A convolution's in another order of memory too.
    weights = [
        torch.randn(3).double().requires_grad_(),
        torch.randn(6, 4).double().requires_grad_(),
        torch.randn(2, 3, 4, 5).double().to(memory_format=torch.channels_last).requires_grad_(),
    ]
    optimizer = kind(weights, lr=0.1, **options)
    adaptation = Adaptation(optimizer)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    vector = [torch.randn_like(weight).detach() for weight in weights]
    given = list(vector)
    whole = adaptation(vector)
    assert [id(part) for part in vector] == [id(part) for part in given]
    monkeypatch.setattr(record, "PIECE_ON_CPU", 7)
    parts = adaptation(vector, consume=True)
    assert vector == []
    assert_close(parts, whole, rtol=1e-12, atol=0)
