"""Logging, scoring, memory and bytes beside other libraries, and how scoring grows.

Each comparison does the same work in the same process (:mod:`peers`): the gradients of a training
set are logged, with the Fisher, then queries are scored against all of them. A peer that is not
installed is left out. What a library does besides (TRAK's margins, EKFAC's whole gradients) is its
method and stands in the row's note.

Floors: logging needs a forward and a backward pass of every sample; scoring needs one matrix
product of queries and stored rows, 2 q n k floating point operations, and n k numbers from disk.
"""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.results.benchmarks import BenchmarkRow, compare, memory_row, one_thread
from papers.logra.benchmarks.peer_accuracy import accuracy
from papers.logra.benchmarks.peers import Make, Peer, peers, silent
from papers.logra.curvature.layout import Block, Layout
from papers.logra.curvature.moments import Statistics
from papers.logra.log_store import LogStore
from papers.logra.scoring.influence import Influence, Log
from papers.logra.session.scheduler import LogIXScheduler
from papers.logra.session.session import LogIX
from papers.logra.tasks.samples import Samples

PAPER = "logra"
CLASSES, BATCH, QUERIES, TRAK_NUMBERS = 10, 64, 64, 128
#: What a peer does that we do not, or the other way round.
NOTES = {
    "logix-ai": "the same method",
    "dattri": "the same method, uncompiled; on a CPU it keeps its log in memory",
    "kronfluence": "EKFAC: nothing is stored, whole gradients are made again for scores",
    "traker": "TRAK of one model: one projection of the whole gradient, to 128 numbers",
}
#: Peers that keep their log on disk.
ON_DISK = ("logix-ai", "traker")


class Shape(NamedTuple):
    """Sizes of a network, its data and its projections."""

    width: int
    samples: int
    rank: int
    tokens: int = 0  # of a sample; 0: a sample is one vector

    def __str__(self) -> str:
        tokens = f", {self.tokens} tokens" if self.tokens else ""
        return f"{self.samples:,} samples{tokens}, width {self.width}, rank {self.rank}"


SHAPES = {
    "smoke": (Shape(32, 96, 4), Shape(32, 64, 4, tokens=8)),
    "laptop": (Shape(512, 1024, 64), Shape(256, 1024, 32, tokens=64)),
    "paper": (Shape(512, 6144, 64), Shape(512, 512, 64, tokens=512)),
}
#: Many samples, beside the library of the same method alone: others take minutes for them. First
#: so many that H is formed, for they are no longer few beside a gradient's numbers; then a store as
#: one scores against, beside which the queries' own gradients cost little.
MANY = {
    "smoke": (Shape(16, 192, 4),),
    "laptop": (Shape(512, 3072, 64), Shape(512, 16384, 32)),
    "paper": (Shape(512, 65536, 32),),
}
#: Rows of a store, of queries and numbers of a row; while one grows, the others are the second.
ROWS = {"smoke": (200, 400), "laptop": (1_000, 10_000, 100_000), "paper": (1_000, 10_000, 100_000)}
ASKED = {"smoke": (1, 8), "laptop": (1, 16, 256), "paper": (1, 16, 256, 1024)}
NUMBERS = {"smoke": (64, 128), "laptop": (64, 256, 1024, 4096), "paper": (256, 1024, 4096, 16384)}
#: Sizes of the network whose gradients are logged.
WIDTHS = {
    "smoke": (16, 32),
    "laptop": (64, 128, 256, 512, 1024),
    "paper": (64, 128, 256, 512, 1024, 2048, 4096),
}


class Ours(Peer):
    """This package, used as its README says."""

    def __init__(self, model: nn.Module, folder: Path, rank: int, batch: int) -> None:
        super().__init__(model, folder, rank, batch)
        config = folder / "config.yaml"
        config.write_text(f"root_dir: {folder}\nlora: {{rank: {rank}}}\n")
        self._run = LogIX("ours", config)
        self._run.watch(self.model)

    def log(self, train: Samples) -> None:
        """One pass: projected gradients to disk, and their Fisher."""
        for _ in LogIXScheduler(self._run, lora="random", hessian="raw", save="grad"):
            for _log in self._logs(train):
                pass
        self._run.finalize()

    def score(self, queries: Samples) -> Tensor:
        """(queries, training samples)."""
        self._run.setup({"grad": ["log"]})
        self._run.eval()
        found = []
        for log in self._logs(queries):
            result = self._run.compute_influence_all(log)["influence"]
            assert isinstance(result, Tensor)
            found.append(result)
        return torch.cat(found)

    def _logs(self, samples: Samples) -> Iterator[Log]:
        for first, (x, y) in samples.batches(self.batch):
            with self._run(data_id=range(first, first + len(x))):
                torch.autograd.backward(functional.cross_entropy(self.model(x), y, reduction="sum"))
            yield self._run.get_log()


class MeanOfTokens(nn.Module):
    """(n, t, width) -> (n, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Mean over tokens."""
        return x.mean(1)


def network(shape: Shape) -> nn.Module:
    """Three linear layers without biases; tokens are meant before the last."""
    torch.manual_seed(0)
    middle = [MeanOfTokens()] if shape.tokens else []
    return nn.Sequential(
        nn.Linear(shape.width, shape.width, bias=False),
        nn.ReLU(),
        nn.Linear(shape.width, shape.width, bias=False),
        nn.ReLU(),
        *middle,
        nn.Linear(shape.width, CLASSES, bias=False),
    )


def samples(shape: Shape, count: int, seed: int) -> Samples:
    """Random inputs with random classes: the work does not depend on them."""
    draw = torch.Generator().manual_seed(seed)
    size = (count, shape.tokens, shape.width) if shape.tokens else (count, shape.width)
    return Samples(
        torch.randn(size, generator=draw), torch.randint(CLASSES, (count,), generator=draw)
    )


def others(shape: Shape) -> dict[str, Make]:
    """Peers that take the shape: dattri's and traker's set-up does not take tokens."""
    found = peers()
    if any(shape in many for many in MANY.values()):
        return {name: peer for name, peer in found.items() if name == "logix-ai"}
    if shape.tokens:
        return {name: peer for name, peer in found.items() if name in ("logix-ai", "kronfluence")}
    if "traker" in found:
        # As many numbers as LoGra keeps would take it ten minutes.
        found["traker"] = partial(found["traker"], dimension=TRAK_NUMBERS)
    return found


def alone(work: Callable[..., Any], *arguments: object) -> Any:
    """Do it in a process of its own.

    Where a third library has freed memory, one of the two is spared new pages, which may be most
    of its time.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def logging(scale: str) -> list[BenchmarkRow]:
    """Time to log a training set, from a new model on."""
    shapes = SHAPES[scale] + MANY[scale]
    return [alone(_logging, shape, name) for shape in shapes for name in others(shape)]


def _logging(shape: Shape, name: str) -> BenchmarkRow:
    model, train = network(shape), samples(shape, shape.samples, seed=1)

    def log(make: Make) -> None:
        with silent(), tempfile.TemporaryDirectory() as folder:
            make(model, Path(folder), shape.rank, BATCH).log(train)

    with one_thread():
        timed = compare(partial(log, Ours), partial(log, others(shape)[name]), repeats=3)
    return timed.row(PAPER, f"logging {shape}", name, NOTES[name])


def scoring(scale: str) -> list[BenchmarkRow]:
    """Time to score queries against a logged training set, their own gradients included."""
    shapes = SHAPES[scale] + MANY[scale]
    found = [alone(_scoring, shape, name) for shape in shapes for name in others(shape)]
    return [row for rows in found for row in rows]


def _scoring(shape: Shape, name: str) -> list[BenchmarkRow]:
    queries = samples(shape, QUERIES, seed=2)

    def score(peer: Peer) -> None:
        with silent():
            peer.score(queries)

    with one_thread(), tempfile.TemporaryDirectory() as folder:
        mine = _logged(Ours, shape, Path(folder, "ours"))
        theirs = _logged(others(shape)[name], shape, Path(folder, name))
        timed = compare(partial(score, mine), partial(score, theirs), repeats=3)
        what = f"{QUERIES} queries against {shape}"
        rows = [timed.row(PAPER, what, name, NOTES[name])]
        if name in ON_DISK:
            sizes = mine.stored_bytes(), theirs.stored_bytes()
            rows.append(memory_row(PAPER, f"stored, {shape}", name, *sizes, NOTES[name]))
    return rows


def _logged(make: Make, shape: Shape, folder: Path) -> Peer:
    own = folder / str(shape)
    own.mkdir(parents=True)
    with silent():
        peer = make(network(shape), own, shape.rank, BATCH)
        peer.log(samples(shape, shape.samples, seed=1))
    return peer


def memory(scale: str) -> list[BenchmarkRow]:
    """Peak memory of logging and of scoring over what the process had before, each in its own."""
    rows = []
    for shape in SHAPES[scale] + MANY[scale]:
        measured = {name: alone(_peaks, name, shape) for name in ("ours", *others(shape))}
        for name in list(measured)[1:]:
            for place, phase in enumerate(("logging", "scoring")):
                mine, theirs = measured["ours"][place], measured[name][place]
                what = f"peak memory, {phase}, {shape}"
                rows.append(memory_row(PAPER, what, name, mine, theirs, NOTES[name]))
    return rows


def _peaks(name: str, shape: Shape) -> tuple[int, int]:
    """Bytes (logging, scoring) of a library."""
    torch.set_num_threads(1)
    make = Ours if name == "ours" else others(shape)[name]
    with silent(), tempfile.TemporaryDirectory() as folder:
        # Once in small before: what is imported and allocated once is no part of the measurement.
        _logged(make, shape._replace(samples=BATCH), Path(folder, "small")).score(
            samples(shape, BATCH, seed=2)
        )
        train, queries = (samples(shape, n, seed=1) for n in (shape.samples, QUERIES))
        own = Path(folder, "own")
        own.mkdir()
        peer = make(network(shape), own, shape.rank, BATCH)
        return _peak(lambda: peer.log(train)), _peak(lambda: peer.score(queries))


def _peak(work: Callable[[], object]) -> int:
    """Bytes that the process took more at once while it worked; the kernel counts pages."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    # At least a page: a ratio to nothing would be none.
    return max(_status("VmHWM") - before, 4096)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def growth(scale: str) -> list[BenchmarkRow]:
    """Scoring from disk beside a matrix product of the same rows in memory, as sizes grow."""
    count, asked, numbers = (table[scale] for table in (ROWS, ASKED, NUMBERS))
    n, q, k = count[1], asked[1], numbers[1]
    sizes = [
        *((size, q, k) for size in count),
        *((n, size, k) for size in asked),
        *((n, q, size) for size in numbers),
    ]
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        return [_beside_product(Path(folder), *size) for size in dict.fromkeys(sizes)]


def _beside_product(folder: Path, n: int, q: int, k: int) -> BenchmarkRow:
    layout = Layout([Block("layer", k, 1)])
    path = folder / f"{n}-{q}-{k}"
    draw = torch.Generator().manual_seed(0)
    with LogStore.create(path, layout, identity={}) as writer:
        for start in range(0, n, 1000):
            part = min(1000, n - start)
            writer.append(
                [str(start + place) for place in range(part)],
                torch.randn(part, k, generator=draw),
            )
    store = LogStore.open(path)
    whole, queries = store.rows(0, n).clone(), torch.randn(q, k, generator=draw)
    influence, names = Influence(layout, Statistics()), [str(place) for place in range(q)]

    def ours() -> None:
        influence.compute_influence_all((names, queries), store, precondition=False)

    timed = compare(ours, lambda: queries @ whole.T, repeats=5)
    what = f"{q} queries, {n:,} stored rows of {k:,} numbers"
    return timed.row(PAPER, what, "matrix product in memory", "the floor without a disk")


def growth_logging(scale: str) -> list[BenchmarkRow]:
    """Logging a sample beside one forward and backward pass of it, as the model grows."""
    rows = []
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        for width in WIDTHS[scale]:
            shape = Shape(width, 64 if scale == "smoke" else 2048, rank=16)
            model, train = network(shape), samples(shape, shape.samples, seed=1)

            def log(shape: Shape = shape, model: nn.Module = model, train: Samples = train) -> None:
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    Ours(model, Path(own), shape.rank, BATCH).log(train)

            def differentiate(model: nn.Module = model, train: Samples = train) -> None:
                for _, (x, y) in train.batches(BATCH):
                    model.zero_grad()
                    torch.autograd.backward(functional.cross_entropy(model(x), y, reduction="sum"))

            timed = compare(log, differentiate, repeats=5)
            each = replace(
                timed, ours=timed.ours / shape.samples, theirs=timed.theirs / shape.samples
            )
            what = f"logging one of {shape}"
            rows.append(each.row(PAPER, what, "forward and backward pass", "the floor"))
    return rows


BENCHMARKS = {
    "logging": logging,
    "scoring": scoring,
    "memory": memory,
    "accuracy": accuracy,
    "growth": growth,
    "growth_logging": growth_logging,
}
