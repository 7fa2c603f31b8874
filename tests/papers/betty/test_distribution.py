"""Facts of several processes: what is averaged, how often, who takes which batches, what is spread.

One launch of two processes runs every program of :mod:`tests.papers.betty.distributed_program`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.state import PartialState
from torch import Tensor
from torch.autograd.functional import hessian
from torch.func import grad, jacrev

from common.errors import InputError
from papers.betty import Config, Engine, EngineConfig
from tests.papers.betty.distributed_program import (
    BATCH,
    CONFIGS,
    EXACT,
    ITERATIONS,
    LOWER_RATE,
    ROWS,
    SHARDABLE,
    UNROLL,
    UPPER_RATE,
    first_batch,
    lower_cost,
    module,
    program,
    ran,
    samples,
    upper_cost,
)
from tests.papers.two_processes import both, run_two_processes

Batch = tuple[Tensor, ...]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    return run_two_processes("tests.papers.betty.distributed_program", folder)


# Hypergradients by explicit matrices.


def cost(kind: Callable[..., Tensor], w: Tensor, u: Tensor, batch: Batch) -> Tensor:
    """A cost as a function of flat parameters."""
    return kind(lambda x: x @ w.view(2, 3).T, lambda x: x @ u.view(2, 3).T, batch)


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)


def round_of(rows: Batch, number: int, together: bool) -> list[Batch]:
    """The batches of both processes in a step; ``together``, one process has both as one."""
    start = number * 2 * BATCH % ROWS
    bounds = [(start, 2 * BATCH)] if together else [(start + k * BATCH, BATCH) for k in (0, 1)]
    return [tuple(part[at : at + size] for part in rows) for at, size in bounds]


def matrices(w: Tensor, u: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """H (6, 6) and the mixed derivative (6 lower, 6 upper) of the lower cost."""
    own = hessian(lambda v: cost(lower_cost, v, u, batch), w)
    return own, jacrev(lambda v: grad(lambda x: cost(lower_cost, x, v, batch))(w))(u)  # type: ignore[return-value]


def product(
    method: str, trajectory: list[Tensor], u: Tensor, batches: list[Batch], v: Tensor
) -> Tensor:
    """``v`` by the best-response Jacobian, from one process's batches of an inner loop."""
    if method == "itd":
        jacobian = torch.zeros(6, 6, dtype=v.dtype)
        for w, batch in zip(trajectory, batches, strict=False):
            own, mixed = matrices(w, u, batch)
            jacobian = jacobian - LOWER_RATE * (own @ jacobian + mixed)
        return jacobian.T @ v
    own, mixed = matrices(trajectory[-1], u, batches[-1])
    if method == "cg":
        v = torch.linalg.solve(own + 0.5 * torch.eye(6, dtype=v.dtype), v)
    if method == "neumann":
        step = torch.eye(6, dtype=v.dtype) - 0.3 * own
        v = 0.3 * (v + step @ v + step @ step @ v)
    return -mixed.T @ v


def expected(method: str, together: bool = False, fixed: str = "") -> dict[str, Tensor]:
    """Parameters after all iterations, by SGD along means over processes."""
    w, u = (module(seed).weight.detach().flatten() for seed in (0, 1))

    def batches_of(name: str, number: int) -> list[Batch]:
        if name == fixed:
            return [first_batch(name)] * (1 if together else 2)
        return round_of(samples(name), number, together)

    trajectory, loop = [w], []
    for iteration in range(ITERATIONS):
        loop.append(batches_of("lower", iteration))
        down = [grad(lambda x: cost(lower_cost, x, u, b))(w) for b in loop[-1]]  # noqa: B023
        w = w - LOWER_RATE * mean(down)
        trajectory.append(w)
        if len(loop) < UNROLL:
            continue
        steps, nudged = [], []
        for process, batch in enumerate(batches_of("upper", iteration // UNROLL)):
            direct = grad(lambda x: cost(upper_cost, w, x, batch))(u)  # noqa: B023
            v = grad(lambda x: cost(upper_cost, x, u, batch))(w)  # noqa: B023
            own = [each[process] for each in loop]
            steps.append(direct + product(method, trajectory, u, own, v))
            nudged.append(w - 0.01 * v / v.norm())
        u = u - UPPER_RATE * mean(steps)
        w = mean(nudged) if method == "nudge" else w
        trajectory, loop = [w], []
    return {"lower.weight": w.view(2, 3), "upper.weight": u.view(2, 3)}


@pytest.mark.parametrize("method", [*CONFIGS, "nudge"])
def test_upper_gradients_are_the_mean_of_the_processes_hypergradients(
    method: str, found: list[dict[str, Any]]
) -> None:
    parameters = both(found, "data_parallel", method)
    torch.testing.assert_close(parameters, expected(method), rtol=0, atol=1e-9)
    whole = expected(method, together=True)
    assert (parameters["upper.weight"] - whole["upper.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize(("method", "fixed"), EXACT)
def test_they_equal_the_whole_batch_where_one_factor_is_common(
    method: str, fixed: str, found: list[dict[str, Any]]
) -> None:
    """A product is linear in each factor: in the lower cost for darts, in the vector for others."""
    parameters = both(found, "data_parallel", f"{method} {fixed}")
    whole = expected(method, together=True, fixed=fixed)
    torch.testing.assert_close(parameters, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("program_", [*CONFIGS, "accumulation"])
def test_one_all_reduce_an_optimiser_step_and_none_in_hypergradients(
    program_: str, found: list[dict[str, Any]]
) -> None:
    counts = both(found, "data_parallel", f"{program_} counts")
    assert counts == {"steps": ITERATIONS + ITERATIONS // UNROLL, "outside": counts["steps"]}
    both(found, "data_parallel", program_)


def test_all_start_from_the_first_process(found: list[dict[str, Any]]) -> None:
    start = both(found, "start_and_data", "start")
    assert torch.equal(start["lower.weight"], module(0).weight)
    assert both(found, "start_and_data", "buffer").tolist() == [5]


def test_gradients_that_some_processes_lack_count_as_zero_there(
    found: list[dict[str, Any]],
) -> None:
    shared, in_one, in_none = both(found, "start_and_data", "grads")
    assert shared.tolist() == [1.5, 1.5]
    assert in_one.tolist() == [0.5, 0.5]
    assert in_none is None


def test_each_process_takes_every_second_batch(found: list[dict[str, Any]]) -> None:
    shares = [each["start_and_data"] for each in found]
    for epoch in range(2):
        plain, listed, unbatched, sampled = (
            [share[f"{name} {epoch}"] for share in shares]
            for name in ("plain", "list", "unbatched", "sampled")
        )
        assert plain == [[0, 1, 4, 5], [2, 3, 6, 7]]  # of five batches the last is left out
        assert listed == [[0, 2], [1, 3]]
        assert unbatched == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
        assert sampled == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]  # as DistributedSampler shares it
        first, second = (set(share[f"shuffled {epoch}"]) for share in shares)
        assert len(first | second) == 8
    assert shares[0]["shuffled 0"] != shares[0]["shuffled 1"]
    lengths = {name: both(found, "start_and_data", f"{name} length") for name in ("plain", "list")}
    assert lengths == {"plain": 2, "list": 2}
    assert "has 1 batches for 2 processes" in shares[0]["one batch"]


def test_all_stop_early_when_the_first_process_does(found: list[dict[str, Any]]) -> None:
    assert both(found, "start_and_data", "stopped at") == 8


def test_zero_equals_distributed(found: list[dict[str, Any]]) -> None:
    """AdamW in two groups, clipped, on a schedule; also stopped and resumed, and with roll-back."""
    plain = both(found, "zero", "distributed")
    for name in ("zero", "resumed"):
        torch.testing.assert_close(both(found, "zero", name), plain, rtol=0, atol=0)
    for kind in ("roll-back", "sama"):
        plain = both(found, "zero", f"distributed with {kind}")
        spread = both(found, "zero", f"zero with {kind}")
        torch.testing.assert_close(spread, plain, rtol=0, atol=0)


def test_zero_spreads_the_optimiser_state_as_its_peer_does(found: list[dict[str, Any]]) -> None:
    kept = [each["zero"]["kept"] for each in found]
    assert kept == [each["zero"]["kept by the peer"] for each in found]
    sizes = [sum(torch.Size(shape).numel() for shape in shapes) for shapes in kept]
    assert sizes == [9, 11] or sizes == [11, 9]  # of 20 parameters
    assert found[0]["zero"]["whole state"] == [0, 1, 2, 3]
    assert sum(each["zero"]["resumed keeps"] for each in found) == 4


@pytest.mark.parametrize("name", SHARDABLE)
def test_fsdp_equals_one_process_on_all_batches(name: str, found: list[dict[str, Any]]) -> None:
    config, settings = SHARDABLE[name]
    one = program(Config(**config), torch.optim.Adam, batch=2 * BATCH, strategy="cpu", **settings)
    torch.testing.assert_close(both(found, "fsdp", name), ran(one), rtol=0, atol=1e-9)


def test_fsdp_keeps_a_shard_and_gives_the_whole_state(found: list[dict[str, Any]]) -> None:
    assert both(found, "fsdp", "shard") == (1, 3)
    assert torch.equal(found[0]["fsdp"]["state"], module(0).weight)


@pytest.mark.parametrize("method", ["neumann", "cg", "itd"])
def test_fsdp_refuses_methods_that_differentiate_a_gradient(
    method: str, found: list[dict[str, Any]]
) -> None:
    said = f"problem 'lower': type '{method}' differentiates a gradient"
    for each in found:
        assert each["fsdp"][f"refused {method}"].startswith(said)


def test_accelerate_equals_distributed_in_two_processes(found: list[dict[str, Any]]) -> None:
    first, second = (each["accelerate"] for each in found)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, found[0]["data_parallel"]["darts"], rtol=0, atol=0)


def test_accelerate_runs_in_one_process() -> None:
    config = Config(unroll_steps=UNROLL)
    try:
        under_accelerate = ran(program(config, strategy="accelerate", train_iters=3))
    finally:
        PartialState._reset_state()
    plain = ran(program(config, strategy="cpu", train_iters=3))
    torch.testing.assert_close(under_accelerate, plain, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", ["default", "cpu", "gpu"])
def test_several_processes_need_a_strategy_that_joins_them(
    strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=f"'{strategy}': 2 processes were started; allowed: dist"):
        Engine([], EngineConfig(strategy=strategy))


@pytest.mark.parametrize("strategy", ["distributed", "zero", "fsdp"])
def test_strategies_of_several_processes_need_torchrun(strategy: Any) -> None:
    with pytest.raises(InputError, match=f"'{strategy}': start the program with torchrun"):
        Engine([], EngineConfig(strategy=strategy))


def test_unknown_strategies_backends_and_missing_gpus_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError, match="strategy='ddp': must be one of default, distributed"):
        EngineConfig(strategy="ddp")  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU is visible; allowed here: default, cpu"):
        Engine([], EngineConfig(strategy="gpu"))
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="backend 'nccl': allowed here: gloo"):
        Engine([], EngineConfig(strategy="distributed", backend="nccl"))
