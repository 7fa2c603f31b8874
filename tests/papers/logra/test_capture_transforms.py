"""Checkpointing, compilation, mixed precision and data parallelism do not change gradients."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from common.errors import InputError
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.projections import Projections, random_projections
from papers.logra.gradients.watching import watched


class Block(nn.Module):
    """A residual layer of sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Blocks(nn.Module):
    """A first layer, then blocks that may be checkpointed."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.blocks = nn.Linear(3, 4), nn.ModuleList([Block(), Block()])
        self.run = run or (lambda block, x: block(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = self.run(block, x)
        return x


def data() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 5, 3)


MASK = torch.ones(4, 5).tril().bool()
EVERYTHING = {
    "forward": ["mean", "covariance"],
    "backward": ["covariance"],
    "grad": ["covariance"],
}


def everything(
    model: nn.Module,
    *,
    like: torch.dtype = torch.float64,
    projected: bool = False,
    loss_scale: float = 1.0,
    autocast: bool = False,
) -> tuple[dict[str, Tensor], Statistics]:
    """Gradients and statistics of one batch."""
    layers = watched(model)
    projections = random_projections(layers, 3, seed=0, bias=True) if projected else None
    if projections is not None:
        projections = Projections(
            {name: [p.to(like) for p in projections[name]] for name in layers}
        )
    statistics = Statistics(EVERYTHING)
    capture = Capture(model, layers, projections, bias=True, statistics=statistics)
    with capture.batch(MASK, loss_scale) as batch:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(data().to(like)).float().pow(3).sum() if autocast else None
        if loss is None:
            loss = model(data().to(like)).pow(3).sum()
        (loss * loss_scale).backward()
    return batch.gradients, statistics


def assert_same(model: nn.Module, projected: bool) -> None:
    """A model's gradients and statistics are those of plain :class:`Blocks`."""
    gradients, statistics = everything(model, projected=projected)
    expected, of_expected = everything(Blocks().double(), projected=projected)
    assert list(gradients) == list(expected)
    for name, found in gradients.items():
        torch.testing.assert_close(found, expected[name])
    for kind in ("forward", "backward", "grad"):
        assert statistics.counts(kind) == of_expected.counts(kind)
        of_kind = of_expected.covariance(kind)
        assert set(of_kind) == set(expected)
        for name, found in statistics.covariance(kind).items():
            torch.testing.assert_close(found, of_kind[name])


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool, projected: bool) -> None:
    model = Blocks(lambda block, x: checkpoint(block, x, use_reentrant=reentrant)).double()
    assert_same(model, projected)


def test_nested_checkpoints() -> None:
    def run(block: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(
            lambda y: checkpoint(block, y, use_reentrant=False), x, use_reentrant=False
        )

    assert_same(Blocks(run).double(), projected=True)


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_a_reentrant_checkpoint_whose_input_requires_no_gradient_is_refused() -> None:
    model = Blocks(lambda block, x: checkpoint(block, x, use_reentrant=True))
    layers = {name: module for name, module in watched(model).items() if name != "first"}
    with (
        pytest.raises(InputError, match=r"layer blocks.0.up ran without gradients.*reentrant"),
        Capture(model, layers).batch(),
    ):
        model(data())


@pytest.mark.parametrize("compiled_before", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_models(compiled_before: bool, in_place: bool) -> None:
    def plain() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)).double()

    model: Any = plain()
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    if compiled_before:
        # Code that was compiled without hooks does not look for them again.
        model(data().double()).sum().backward()
        model.zero_grad()
    found, statistics = everything(model, projected=True)
    expected, of_expected = everything(plain(), projected=True)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])
        assert statistics.counts("forward")[name] == of_expected.counts("forward")[name]
    assert model(data().double()).requires_grad


@pytest.mark.parametrize("projected", [False, True])
def test_autocast_is_as_exact_as_its_type(projected: bool) -> None:
    gradients, statistics = everything(
        Blocks(), like=torch.float32, projected=projected, autocast=True
    )
    expected, of_expected = everything(Blocks().double(), projected=projected)
    for name, found in gradients.items():
        assert found.dtype == torch.float32
        assert (found - expected[name]).norm() < 0.05 * expected[name].norm()
        exact, half = (s.covariance("forward")[name] for s in (of_expected, statistics))
        assert (half - exact).norm() < 0.02 * exact.norm()


def test_the_scale_of_a_grad_scaler_is_divided_out() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    model = Blocks().double()
    found, _ = everything(model, loss_scale=float(scaler.scale(torch.ones(()))))
    expected, _ = everything(model)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def _capture_and_train(rank: int) -> dict[str, Any]:
    """What one process of two gathers of its half of the data."""
    plain = Blocks().double()
    # Buffers are what a wrapped model sends around before each synchronised forward pass.
    plain.register_buffer("steps", torch.zeros(1))
    model = DistributedDataParallel(plain, find_unused_parameters=True)
    layers = watched(model)
    statistics = Statistics(EVERYTHING)
    capture = Capture(model, layers, bias=True, statistics=statistics)
    part = slice(2 * rank, 2 * rank + 2)
    for _ in range(2):
        with capture.batch(MASK[part]) as batch:
            model(data().double()[part]).pow(3).sum().backward()
    # Shards differ in length: a batch waits for no other process.
    for _ in range(3 * rank):
        with Capture(model, layers).batch():
            model(data().double()[part]).pow(3).sum().backward()
    statistics.all_reduce()
    statistics.all_reduce()
    model(data().double()[part]).sum().backward()
    return {
        "gradients": batch.gradients,
        "covariance": {k: statistics.covariance(k) for k in EVERYTHING},
        "counts": {k: statistics.counts(k) for k in EVERYTHING},
        "trained": [p.grad is not None for p in plain.parameters()],
    }


def _sum_where_one_has_no_data(rank: int) -> list[Any]:
    """Moments of one process of two; only the second has forward rows."""
    statistics = Statistics({"forward": ["mean"], "grad": ["mean"]})
    if rank:
        statistics.add("forward", "it", torch.ones(1, 2, 3))
    statistics.all_reduce()
    found = [statistics.mean("forward")["it"].tolist(), statistics.counts("forward")]
    # What came later is summed later, and what is summed takes no more rows.
    statistics.add("grad", "it", torch.full((1, 1), float(rank)))
    statistics.all_reduce()
    with pytest.raises(InputError, match="it are summed over processes; allowed: to add before"):
        statistics.add("forward", "it", torch.ones(1, 2, 3))
    return [*found, statistics.mean("grad")["it"].tolist()]


def _sum_other_shapes(rank: int) -> str:
    """The refusal of rows of two widths."""
    statistics = Statistics({"forward": ["mean"]})
    statistics.add("forward", "it", torch.ones(1, 2, 3 + rank))
    with pytest.raises(InputError) as refused:
        statistics.all_reduce()
    return str(refused.value)


def _one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2
    )
    works = (_capture_and_train, _sum_where_one_has_no_data, _sum_other_shapes)
    torch.save({work.__name__: work(rank) for work in works}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes() -> list[dict[str, Any]]:
    """What each of two processes found, by the name of what it did."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_one_of_two, (Path(folder),), nprocs=2)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in (0, 1)]


def test_two_processes_are_one(processes: list[dict[str, Any]]) -> None:
    expected, statistics = everything(Blocks().double())
    ranks = [found["_capture_and_train"] for found in processes]
    for name, gradient in expected.items():
        together = torch.cat([rank["gradients"][name] for rank in ranks])
        torch.testing.assert_close(together, gradient)
    for rank in ranks:
        assert all(rank["trained"])
        for kind in ("forward", "backward", "grad"):
            counts = {name: 2 * n for name, n in statistics.counts(kind).items()}
            assert rank["counts"][kind] == counts
            for name, found in statistics.covariance(kind).items():
                torch.testing.assert_close(rank["covariance"][kind][name], found)


def test_a_process_without_data_takes_part(processes: list[dict[str, Any]]) -> None:
    for found in processes:
        moments = [[1.0, 1.0, 1.0], {"it": 2.0}, [0.5]]
        assert found["_sum_where_one_has_no_data"] == moments


def test_processes_with_rows_of_two_widths_are_refused(processes: list[dict[str, Any]]) -> None:
    for found in processes:
        assert "it of shapes (3,) and (4,) in two processes" in found["_sum_other_shapes"]
