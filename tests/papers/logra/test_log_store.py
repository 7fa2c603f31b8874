"""Rows come back as they were appended, whatever the chunks, ranks and blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.errors import InputError
from papers.logra.layout import Block, Layout
from papers.logra.log_store import LogStore

LAYOUT = Layout([Block("first", 3, 4), Block("second", 2, 5)])


def rows_of(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, LAYOUT.width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 40),
    per_chunk=st.integers(1, 15),
    batch=st.integers(1, 12),
    block=st.integers(1, 50),
    ranks=st.integers(1, 3),
    data=st.data(),
)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    per_chunk: int,
    batch: int,
    block: int,
    ranks: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("store")
    rows, ids = rows_of(count), data.draw(st.lists(st.text(), min_size=count, max_size=count))
    for rank in range(ranks):
        share = slice(count * rank // ranks, count * (rank + 1) // ranks)
        writer = LogStore.create(
            folder, LAYOUT, identity={}, rank=rank, ranks=ranks, rows_per_chunk=per_chunk
        )
        with writer:
            for start in range(share.start, share.stop, batch):
                part = slice(start, min(start + batch, share.stop))
                writer.append(ids[part], rows[part])
    store = LogStore.open(folder)
    assert (len(store), store.ids, store.complete) == (count, ids, True)
    assert torch.equal(store.rows(0, count), rows)
    for prefetch in (0, 2):
        found = list(store.blocks(block, prefetch=prefetch))
        assert [start for start, _ in found] == list(range(0, count, block))
        assert all(torch.equal(part, rows[start : start + block]) for start, part in found)
    store.verify()


def test_no_store_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no log store"):
        LogStore.open(tmp_path)
