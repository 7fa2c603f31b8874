"""Data order: a function of seed and epoch alone, shared without loss between devices."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from itertools import chain
from multiprocessing import active_children
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from common import ROOT
from common.errors import InputError
from common.training import CoreSettings, EpochLoader, EpochOrder

#: size, share of a micro-batch, accumulation, world size, seed, epoch
PARTS = st.tuples(
    st.integers(1, 200),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2**40),
    st.integers(0, 50),
).filter(lambda parts: parts[0] >= parts[1] * parts[2] * parts[3])


@given(PARTS)
def test_an_epoch_is_the_permutation_s_whole_batches_without_repeats(
    parts: tuple[int, ...],
) -> None:
    size, share, accumulation, world, seed, epoch = parts
    batch = share * accumulation * world
    order = EpochOrder(size, batch, seed=seed)
    steps = list(order.batches(epoch))
    assert len(steps) == order.steps_per_epoch == size // batch
    assert sorted(order.permutation(epoch).tolist()) == list(range(size))
    assert list(chain(*steps)) == order.permutation(epoch)[: len(steps) * batch].tolist()


@given(PARTS)
def test_devices_and_micro_batches_share_the_step_of_one_device(parts: tuple[int, ...]) -> None:
    size, share, accumulation, world, seed, epoch = parts
    batch = share * accumulation * world
    whole = list(EpochOrder(size, batch, seed=seed).batches(epoch))
    devices = [
        list(EpochOrder(size, batch, accumulation, rank, world, seed).batches(epoch))
        for rank in range(world)
    ]
    for step, expected in enumerate(whole):
        mine = slice(step * accumulation, (step + 1) * accumulation)
        micro_batches = [micro for device in devices for micro in device[mine]]
        assert {len(micro) for micro in micro_batches} == {share}
        assert sorted(chain(*micro_batches)) == sorted(expected)


@given(PARTS, st.integers(0, 200))
def test_starting_at_a_step_gives_the_tail_of_the_epoch(parts: tuple[int, ...], start: int) -> None:
    size, share, accumulation, world, seed, epoch = parts
    batch = share * accumulation * world
    order = EpochOrder(size, batch, accumulation, world - 1, world, seed)
    start = min(start, order.steps_per_epoch)
    assert list(order.batches(epoch, start)) == list(order.batches(epoch))[start * accumulation :]


@given(st.integers(0, 2**40), st.integers(0, 50))
def test_another_seed_or_epoch_gives_another_order(seed: int, epoch: int) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return EpochOrder(60, 1, seed=seed).permutation(epoch).tolist()

    assert order(seed, epoch) == order(seed, epoch)
    assert order(seed, epoch) != order(seed + 1, epoch)
    assert order(seed, epoch) != order(seed, epoch + 1)


def test_data_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match=r"global_batch_size 8: the data set has 7 .* allowed"):
        EpochOrder(7, 8)


class Noise(Dataset[Any]):
    """Index and one draw from every global generator."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        draws = (random.random(), float(np.random.random()), torch.rand(()).item())
        return torch.tensor([index, *draws], dtype=torch.float64)


class Pair(NamedTuple):
    """A sample with its label."""

    x: torch.Tensor
    y: torch.Tensor


class Pairs(Dataset[Any]):
    """Index and its square."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Pair:
        return Pair(torch.tensor(index), torch.tensor(index**2))


def items(workers: int, seed: int = 3, epoch: int = 1, start: int = 0) -> torch.Tensor:
    settings = CoreSettings(global_batch_size=4, num_workers=workers)
    loader = EpochLoader(Noise(), EpochOrder(12, 4, seed=seed), settings, torch.device("cpu"))
    return torch.cat(list(loader.batches(epoch, start)))


def test_items_from_workers_do_not_depend_on_workers_or_on_where_the_epoch_starts() -> None:
    one = items(1)
    assert torch.equal(items(2), one)
    assert torch.equal(items(2, start=1), one[4:])
    assert len(set(one[:, 1:].flatten().tolist())) == 36  # every draw differs
    again = items(1, epoch=2)
    assert set(again[:, 1].tolist()).isdisjoint(one[:, 1].tolist())


def test_without_workers_the_order_is_the_same_and_noise_is_the_global_stream_s() -> None:
    torch.manual_seed(5)
    expected = [torch.rand(()).item() for _ in range(12)]
    torch.manual_seed(5)
    found = items(0)
    assert found[:, 0].tolist() == items(1)[:, 0].tolist()
    assert found[:, 3].tolist() == expected


def test_a_loader_gives_what_the_data_set_s_samples_are() -> None:
    """A named tuple of samples is a named tuple of batches."""
    settings, order = CoreSettings(global_batch_size=4), EpochOrder(12, 4, seed=3)
    loader = EpochLoader(Pairs(), order, settings, torch.device("meta"))
    (batch, *_) = loader.batches(0)
    assert isinstance(batch, Pair)
    assert batch.x.device.type == batch.y.device.type == "meta"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_to_the_whole_group_leaves_the_workers_at_work(
    number: signal.Signals,
) -> None:
    settings = CoreSettings(global_batch_size=1, num_workers=2)
    loader = EpochLoader(Noise(), EpochOrder(12, 1), settings, torch.device("cpu"))
    before = set(active_children())
    batches = loader.batches(0)
    found = [next(batches), next(batches)]  # one of each worker: both have started
    workers = set(active_children()) - before
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, number)
    assert len(found + list(batches)) == 12


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("input", 2, "error: 5.jpg: InputError: cannot be read"),
        ("other", 1, "OSError: 5.jpg"),
        ("caller", 1, "OSError: caller"),
        ("left", 0, ""),
    ],
)
def test_a_program_ends_with_its_workers_whatever_goes_wrong(
    what: str, status: int, said: str
) -> None:
    """Also one that keeps its batches, as a traceback does; an InputError is a single line."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.common.runs.worker_program", what],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert (done.stderr.strip() if what == "input" else done.stderr.strip()[-len(said) :]) == said


def test_workers_end_when_batches_are_closed() -> None:
    settings = CoreSettings(global_batch_size=1, num_workers=2)
    before = set(active_children())
    batches = EpochLoader(Noise(), EpochOrder(12, 1), settings, torch.device("cpu")).batches(0)
    next(batches)
    assert len(set(active_children()) - before) == 2
    batches.close()
    assert set(active_children()) == before
