"""Rows come back as they were appended, whatever the chunks, ranks and blocks."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from common.errors import InputError
from papers.logra.curvature.layout import Block, Layout
from papers.logra.log_store import LogStore, Rows
from papers.logra.log_store.manifest import DtypeName

from .log_store_program import LAYOUT, PER_CHUNK, append, ids_of, opened, rows_of

NewFolder = Callable[[], Path]


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> NewFolder:
    """Absent folders, one for each call: hypothesis calls a test many times."""
    return lambda: tmp_path_factory.mktemp("store") / "log"


@pytest.fixture(scope="module")
def store(new_folder: NewFolder) -> LogStore:
    """50 rows in chunks of 7."""
    folder = new_folder()
    with opened(folder) as writer:
        append(writer, 50)
    return LogStore.open(folder)


@settings(max_examples=30)
@given(
    count=st.integers(0, 40),
    per_chunk=st.integers(1, 15),
    batch=st.integers(1, 12),
    block=st.integers(1, 50),
    ranks=st.integers(1, 3),
    data=st.data(),
)
def test_round_trip_is_exact(
    new_folder: NewFolder,
    count: int,
    per_chunk: int,
    batch: int,
    block: int,
    ranks: int,
    data: st.DataObject,
) -> None:
    folder = new_folder()
    rows, ids = rows_of(count), data.draw(st.lists(st.text(), min_size=count, max_size=count))
    for rank in range(ranks):
        first, last = count * rank // ranks, count * (rank + 1) // ranks
        writer = LogStore.create(
            folder, LAYOUT, identity={}, rank=rank, ranks=ranks, rows_per_chunk=per_chunk
        )
        with writer:
            for start in range(first, last, batch):
                part = slice(start, min(start + batch, last))
                writer.append(ids[part], rows[part])
    store = LogStore.open(folder)
    assert (len(store), store.ids, store.complete) == (count, ids, True)
    assert torch.equal(store.rows(0, count), rows)
    for prefetch in (0, 2):
        found = list(store.blocks(block, prefetch=prefetch))
        assert [start for start, _ in found] == list(range(0, count, block))
        assert all(torch.equal(part, rows[start : start + block]) for start, part in found)
    store.verify()


def bound(dtype: str, rows: Tensor) -> Tensor:
    """How far a stored value may be off, as the table in ``dtypes.py`` says."""
    size = rows.abs()
    if dtype == "int8":
        largest = torch.cat(
            [
                size[:, part].amax(1, keepdim=True).expand_as(size[:, part])
                for part in LAYOUT.slices.values()
            ],
            dim=1,
        )
        return largest / 254 * (1 + 1e-5)
    return {
        "float64": size * 0,
        "float32": size * 2.0**-24,
        "bfloat16": size * 2.0**-8,
        "float16": size * 2.0**-11 + 2.0**-25,
    }[dtype]


@settings(max_examples=40)
@given(
    dtype=st.sampled_from(get_args(DtypeName)),
    exponents=st.lists(st.floats(-30, 4), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_error_of_a_stored_number_is_bounded(
    new_folder: NewFolder, dtype: DtypeName, exponents: list[float], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(exponents), LAYOUT.width, generator=generator, dtype=torch.float64)
    rows *= 10 ** torch.tensor(exponents, dtype=torch.float64)[:, None]
    rows[0, :12] = 0  # a whole block, which has no scale
    folder = new_folder()
    with LogStore.create(folder, LAYOUT, identity={}, dtype=dtype, rows_per_chunk=3) as writer:
        writer.append(["a", "b", "c", "d"], rows)
    found = LogStore.open(folder).rows(0, 4, dtype=torch.float64)
    assert bool(((found - rows).abs() <= bound(dtype, rows)).all())


def test_float16_rows_do_not_become_infinite(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"70000; allowed in a store of torch.float16: up to 65504"),
        LogStore.create(tmp_path, LAYOUT, identity={}, dtype="float16") as writer,
    ):
        writer.append(["a"], torch.full((1, LAYOUT.width), 7e4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_no_number_is_refused_whole(tmp_path: Path, value: float) -> None:
    rows = rows_of(3)
    with LogStore.create(tmp_path, LAYOUT, identity={}) as writer:
        rows[2, 5] = value
        with pytest.raises(InputError, match=str(value)):
            writer.append(ids_of(3), rows)
        assert writer.rows == 0


def test_bytes_on_disk_are_rows_times_width_times_size(tmp_path: Path) -> None:
    sizes: dict[DtypeName, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
    layout = Layout([Block("layer", 64, 64)])
    for dtype, size in sizes.items():
        folder = tmp_path / dtype
        with LogStore.create(folder, layout, identity={}, dtype=dtype) as writer:
            writer.append(ids_of(300), torch.randn(300, 4096))
        held = sum(path.stat().st_size for path in folder.rglob("*.*"))
        beside = held - 300 * 4096 * size - (300 * 4 if dtype == "int8" else 0)
        assert 0 < beside < 300 * 24 + 2000  # an id and its place, header, manifest, journal


def test_the_caller_may_change_what_it_appended(tmp_path: Path) -> None:
    rows = rows_of(20)
    with opened(tmp_path / "log") as writer:
        for start in range(0, 20, 4):
            batch = rows[start : start + 4].clone()
            writer.append(ids_of(20)[start : start + 4], batch)
            batch.zero_()
    assert torch.equal(LogStore.open(tmp_path / "log").rows(0, 20), rows)


def test_writing_to_a_block_leaves_the_store(store: LogStore) -> None:
    store.rows(0, PER_CHUNK).zero_()
    assert torch.equal(store.rows(0, 50), rows_of(50))
    store.verify()


@pytest.mark.parametrize(("start", "stop"), [(0, 50), (3, 4), (7, 14), (6, 22), (49, 50), (50, 50)])
def test_shares_of_the_rows(store: LogStore, start: int, stop: int) -> None:
    assert torch.equal(store.rows(start, stop), rows_of(50)[start:stop])
    parts = [part for _, part in store.blocks(4, start=start, stop=stop)]
    assert torch.equal(torch.cat([rows_of(0), *parts]), rows_of(50)[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, 51)])
def test_rows_that_are_not_there(store: LogStore, start: int, stop: int) -> None:
    with pytest.raises(InputError, match=rf"rows {start} to {stop}; allowed: 0 to 50"):
        store.rows(start, stop)


def test_prefetching_thread_ends_with_its_consumer(store: LogStore) -> None:
    before = threading.active_count()
    blocks = store.blocks(3, prefetch=2)
    next(blocks)
    assert threading.active_count() == before + 1
    blocks.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    for _ in store.blocks(3, prefetch=2):
        break
    assert threading.active_count() == before


def test_prefetching_stays_so_far_ahead(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read, rows = [], store.rows

    def noted(start: int, stop: int, **options: Tensor) -> Tensor:
        read.append(start)
        return rows(start, stop, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "rows", noted)
    for place, _ in enumerate(store.blocks(5, prefetch=2)):
        assert len(read) <= place + 1 + 2


def test_what_was_to_be_prefetched_is_not_read_for_nobody(
    store: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, rows = [], store.rows
    begun, consumed = threading.Event(), threading.Event()

    def waiting(start: int, stop: int, **options: Tensor) -> Tensor:
        read.append(start)
        if start:
            begun.set()
            consumed.wait(timeout=300)
        return rows(start, stop, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "rows", waiting)
    blocks = store.blocks(5, prefetch=3)
    next(blocks)
    assert begun.wait(timeout=300)
    threading.Timer(0.5, consumed.set).start()
    blocks.close()  # type: ignore[attr-defined]
    assert read == [0, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_ids_with_rows(store: LogStore, workers: int) -> None:
    loader = DataLoader(Rows(store), batch_size=8, num_workers=workers)
    ids, parts = zip(*loader, strict=True)
    assert [name for batch in ids for name in batch] == ids_of(50)
    assert torch.equal(torch.cat(parts), rows_of(50))


@given(positions=st.lists(st.integers(0, 49), max_size=12))
def test_a_batch_of_any_positions(store: LogStore, positions: list[int]) -> None:
    found = Rows(store).__getitems__(positions)
    assert [name for name, _ in found] == [ids_of(50)[position] for position in positions]
    for position, (_, row) in zip(positions, found, strict=True):
        assert torch.equal(row, rows_of(50)[position])


def test_rows_end_where_the_store_ends(store: LogStore) -> None:
    assert len(list(Rows(store))) == 50  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        Rows(store)[-1]


def test_ids_fewer_or_more_than_rows(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as writer:
        for ids in ([], ["a"], ["a", "b", "c"], "ab", [1, 2]):
            with pytest.raises(InputError, match="for 2 rows; allowed: one string for each"):
                writer.append(ids, rows_of(2))  # type: ignore[arg-type]
        assert writer.rows == 0


def test_other_gradients_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "log") as writer:
        for wrong in (torch.zeros(2, 5), torch.zeros(22), torch.zeros(2, 22, dtype=torch.int64)):
            with pytest.raises(InputError, match=r"allowed: floating point \(n, 22\)"):
                writer.append(["a", "b"], wrong)


def test_a_closed_writer_takes_no_row(tmp_path: Path) -> None:
    writer = opened(tmp_path / "log")
    append(writer, 3)
    writer.close()
    writer.close()
    with pytest.raises(InputError, match="is closed; allowed: to open it with resume=True"):
        append(writer, 5)
    assert len(LogStore.open(tmp_path / "log")) == 3


def test_a_store_in_the_place_of_another_is_not_taken_for_it(tmp_path: Path) -> None:
    """Equal in all but its rows, whose chunks the older one has verified."""
    with opened(tmp_path / "log") as writer:
        append(writer, 20)
    older, message = LogStore.open(tmp_path / "log"), "log: rows of another run, which began its"
    older.rows(0, 20)
    shutil.rmtree(tmp_path / "log")
    with opened(tmp_path / "log") as newer:
        newer.append(ids_of(20), -rows_of(20))
    for read in (lambda: older.rows(0, 20), lambda: older.ids, lambda: list(older.blocks())):
        with pytest.raises(InputError, match=message):
            read()
    token = writer.manifest.token
    with pytest.raises(InputError, match=message):
        LogStore.open(tmp_path / "log", token)
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "log", token=token)
    assert torch.equal(LogStore.open(tmp_path / "log").rows(0, 20), -rows_of(20))
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(InputError, match="no log store"):
        older.rows(0, 20)


def test_a_store_goes_on_under_its_token_and_one_from_before_has_none(tmp_path: Path) -> None:
    for stop in (10, 20):
        with opened(tmp_path / "log") as writer:
            append(writer, stop)
        token = writer.manifest.token
        store = LogStore.open(tmp_path / "log", token)
        assert torch.equal(store.rows(0, stop), rows_of(stop))
    manifest = tmp_path / "log" / "manifest.json"
    content = json.loads(manifest.read_text())
    assert content.pop("token") == token
    manifest.write_text(json.dumps(content))
    before = LogStore.open(tmp_path / "log")
    assert before.digest == store.digest
    assert torch.equal(before.rows(0, 20), rows_of(20))


def test_a_closed_store_can_be_extended(tmp_path: Path) -> None:
    for count in (10, 10, 33):
        with opened(tmp_path / "log") as writer:
            append(writer, count)
        store = LogStore.open(tmp_path / "log")
        assert (store.ids, store.complete) == (ids_of(count), True)
        assert torch.equal(store.rows(0, count), rows_of(count))


def test_a_store_says_whether_all_ranks_closed_it(tmp_path: Path) -> None:
    for rank in (1, 0):
        with opened(tmp_path, rank=rank, ranks=2) as writer:
            append(writer, 4)
            assert not LogStore.open(tmp_path).complete
    assert (len(LogStore.open(tmp_path)), LogStore.open(tmp_path).complete) == (8, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"identity": {"model": "b"}}, "identity 'model' is 'a' in the store and 'b' here"),
        ({"identity": {}}, "identity 'model' is 'a' in the store and None here"),
        ({"dtype": "int8"}, "dtype int8; allowed: float32"),
        ({"rows_per_chunk": 8}, "rows_per_chunk 8; allowed: 7"),
        ({"ranks": 2}, "ranks 2; allowed: 1"),
        ({"layout": Layout([Block("first", 3, 4)])}, "another layout: layer None"),
    ],
)
def test_resuming_another_run_is_refused(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    with opened(tmp_path / "log") as writer:
        append(writer, 8)
    same = {"layout": LAYOUT, "identity": {"model": "a"}, "rows_per_chunk": PER_CHUNK}
    with pytest.raises(InputError, match=says):
        LogStore.create(tmp_path / "log", **(same | change), resume=True)  # type: ignore[arg-type]
    assert LogStore.open(tmp_path / "log").ids == ids_of(8)


def test_a_store_of_another_model_is_refused(store: LogStore) -> None:
    store.require({"model": "a"})
    with pytest.raises(InputError, match="identity 'model' is 'a' in the store and 'b' here"):
        store.require({"model": "b"})


@pytest.mark.parametrize(
    "wrong", [{"dtype": "int4"}, {"rank": 1}, {"rank": -1}, {"rows_per_chunk": 0}]
)
def test_wrong_options_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="allowed"):
        LogStore.create(tmp_path, LAYOUT, identity={}, **wrong)  # type: ignore[arg-type]


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no log store"):
        LogStore.open(tmp_path)


class TestColumn:
    """Values beside the rows, bound to these rows and to parameters."""

    def test_is_what_was_put(self, store: LogStore) -> None:
        values = torch.randn(50, dtype=torch.float64)
        store.put_column("self_influence", values, {"damping": 0.1, "hessian": "raw"})
        found = LogStore.open(store.folder).column(
            "self_influence", {"hessian": "raw", "damping": 0.1}
        )
        assert found is not None
        assert torch.equal(found, values)

    def test_of_other_parameters_is_another(self, store: LogStore) -> None:
        store.put_column("one", torch.zeros(50), {"damping": 0.1})
        store.put_column("one", torch.ones(50), {"damping": 0.2})
        for damping, value in ((0.1, 0), (0.2, 1)):
            found = store.column("one", {"damping": damping})
            assert found is not None
            assert bool((found == value).all())
        assert store.column("one", {"damping": 0.3}) is None
        assert store.column("other", {"damping": 0.1}) is None

    def test_does_not_outlive_its_rows(self, tmp_path: Path) -> None:
        for count in (10, 20):
            with opened(tmp_path / "log") as writer:
                append(writer, count)
            store = LogStore.open(tmp_path / "log")
            assert store.column("norm", {}) is None
            store.put_column("norm", store.rows(0, count).norm(dim=1), {})
            assert store.column("norm", {}) is not None

    @pytest.mark.parametrize("count", [49, 51, 0])
    def test_has_one_value_for_each_row(self, store: LogStore, count: int) -> None:
        with pytest.raises(InputError, match=r"allowed: 50, one for each row"):
            store.put_column("short", torch.zeros(count), {})

    def test_altered(self, store: LogStore) -> None:
        store.put_column("altered", torch.zeros(50), {})
        (path,) = (store.folder / "columns").glob("altered-*")
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(InputError, match="altered"):
            store.column("altered", {})

    def test_name_is_a_word(self, store: LogStore) -> None:
        with pytest.raises(InputError, match="allowed: lower-case letters"):
            store.put_column("../escape", torch.zeros(50), {})
