"""Whatever happens to the writing process or the disk, what was completed stays and opens."""

from __future__ import annotations

import errno
import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.errors import InputError
from papers.logra.log_store import LogStore
from papers.logra.log_store import writer as writer_module
from papers.logra.log_store.chunks import write_chunk
from papers.logra.log_store.dtypes import Encoding
from papers.logra.log_store.journal import Chunk, read_journal

from . import log_store_program as program
from .killed_processes import files, started
from .log_store_program import LAYOUT, PER_CHUNK, ROWS, append, ids_of, opened, rows_of

#: Four chunks and a part of one.
FEW = 4 * PER_CHUNK + 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "log"
    with opened(folder) as writer:
        append(writer, ROWS)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a shorter run."""
    folder = tmp_path_factory.mktemp("few") / "log"
    with opened(folder) as writer:
        append(writer, FEW)
    return folder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A closed store of 20 rows in chunks of 7, 7 and 6."""
    with opened(tmp_path / "log") as writer:
        append(writer, 20)
    return tmp_path / "log"


def test_killed_at_random_moments_then_resumed(tmp_path: Path, whole: Path) -> None:
    folder, moments, lengths, exit_code = tmp_path / "log", random.Random(0), [0], None
    journal = folder / "rank000" / "journal.jsonl"
    while exit_code != 0:
        process, began = started(program.write, folder)
        assert began.recv() == lengths[-1]
        enough = journal.stat().st_size + moments.randrange(600)
        while process.is_alive() and journal.stat().st_size < enough:
            time.sleep(0.0001)
        time.sleep(moments.uniform(0, 0.002))
        process.kill()
        process.join()
        exit_code = process.exitcode
        store = LogStore.open(folder)
        lengths.append(len(store))
        assert len(store) == ROWS or len(store) % PER_CHUNK == 0
        assert store.ids == ids_of(len(store))
        assert torch.equal(store.rows(0, len(store)), rows_of(len(store)))
        store.verify()
    assert lengths == sorted(lengths)
    assert len({length for length in lengths if 0 < length < ROWS}) >= 2
    assert files(folder) == files(whole)


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_a_kill_left_resumes_to_the_same_bytes(
    few: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The journal may be cut anywhere, the chunk that follows may be anything."""
    folder = tmp_path_factory.mktemp("killed") / "log"
    shutil.copytree(few, folder)
    journal = folder / "rank000" / "journal.jsonl"
    text = journal.read_bytes()
    cut = data.draw(st.integers(0, len(text)))
    journal.write_bytes(text[:cut])
    chunks = len(read_journal(journal).chunks)
    for path in sorted(folder.rglob("*.safetensors"))[chunks:]:
        path.unlink()
    if cut < len(text) and data.draw(st.booleans()):
        for begun in (f"{chunks:06d}.safetensors", ".tmpAbCdEf"):
            (folder / "rank000" / begun).write_bytes(data.draw(st.binary()))
    store = LogStore.open(folder)
    assert len(store) == min(FEW, chunks * PER_CHUNK)
    assert store.complete == (cut == len(text))
    assert torch.equal(store.rows(0, len(store)), rows_of(len(store)))
    with opened(folder) as writer:
        assert writer.rows == len(store)
        append(writer, FEW)
    assert files(folder) == files(few)


def test_exception_in_the_block_keeps_complete_chunks(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(tmp_path / "log") as writer:  # noqa: PT012
        append(writer, 3 * PER_CHUNK + 2)
        raise ZeroDivisionError
    store = LogStore.open(tmp_path / "log")
    assert (store.ids, store.complete) == (ids_of(3 * PER_CHUNK), False)
    with opened(tmp_path / "log") as writer:
        append(writer, ROWS)
    assert files(tmp_path / "log") == files(whole)


def test_one_writer_at_a_time_until_it_is_killed(tmp_path: Path) -> None:
    process, began = started(program.hold, tmp_path / "log")
    began.recv()
    with pytest.raises(InputError, match="another process writes it; allowed: one"):
        opened(tmp_path / "log")
    process.kill()
    process.join()
    with opened(tmp_path / "log"), pytest.raises(InputError, match="another process writes it"):
        opened(tmp_path / "log")
    opened(tmp_path / "log").close()


def test_full_disk_stops_the_run_and_keeps_what_is_complete(tmp_path: Path, whole: Path) -> None:
    process, result = started(program.write_until_full, tmp_path / "log")
    message = result.recv()
    process.join()
    assert "log: cannot be written" in message
    assert "File too large" in message
    assert "21 rows of rank 0 are kept; resume=True goes on after them" in message
    assert LogStore.open(tmp_path / "log").ids == ids_of(21)
    with opened(tmp_path / "log") as writer:
        append(writer, ROWS)
    assert files(tmp_path / "log") == files(whole)


@pytest.mark.parametrize("cause", [OSError(errno.ENOSPC, "No space left"), ValueError("a bug")])
def test_failure_in_the_writing_thread_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    def failing(path: Path, *rest: Any) -> Chunk:
        if path.name == "000002.safetensors":
            time.sleep(0.05)  # until append waits for the disk
            raise cause
        return write_chunk(path, *rest)

    monkeypatch.setattr(writer_module, "write_chunk", failing)
    threads = threading.active_count()
    writer = opened(tmp_path / "log", memory_bytes=0)
    writer.append(ids_of(ROWS), rows_of(ROWS))
    steps: list[Callable[[], None]] = [lambda: writer.append(["one"], rows_of(1)), writer.close]
    for step in steps:
        with pytest.raises((InputError, ValueError)) as raised:
            step()
        assert raised.value is cause or raised.value.__cause__ is cause
    assert threading.active_count() == threads
    store = LogStore.open(tmp_path / "log")
    assert (store.ids, store.complete) == (ids_of(2 * PER_CHUNK), False)


def test_memory_is_bounded_where_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated = []

    def slow(*arguments: Any) -> Chunk:
        time.sleep(0.005)
        return write_chunk(*arguments)

    def noted(encoding: Encoding, rows: int) -> dict[str, Tensor]:
        allocated.append(rows * encoding.row_bytes)
        return empty(encoding, rows)

    empty = Encoding.empty
    monkeypatch.setattr(writer_module, "write_chunk", slow)
    monkeypatch.setattr(Encoding, "empty", noted)
    bound = 3 * PER_CHUNK * LAYOUT.width * 4
    waiting = []
    with opened(tmp_path / "log", memory_bytes=bound) as writer:
        for stop in range(1, ROWS + 1):
            append(writer, stop)
            waiting.append((writer.rows - writer.kept) * LAYOUT.width * 4)
    assert sum(allocated) == bound
    assert bound - PER_CHUNK * LAYOUT.width * 4 <= max(waiting) <= bound
    assert torch.equal(LogStore.open(tmp_path / "log").rows(0, ROWS), rows_of(ROWS))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(place: int) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)

    return apply


READS: list[Callable[[LogStore], object]] = [
    LogStore.verify,
    lambda store: store.rows(7, 8),
    lambda store: list(store.blocks(3)),
    lambda store: list(store.blocks(3, prefetch=0)),
]


@pytest.mark.parametrize("damage", [cut_short, Path.unlink])
def test_chunk_missing_or_cut_short(log: Path, damage: Callable[[Path], None]) -> None:
    path = log / "rank000" / "000001.safetensors"
    damage(path)
    for use in (LogStore.open, opened):
        with pytest.raises(InputError, match=str(path)):
            use(log)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("place", [9, 400, -1])
def test_chunk_altered(log: Path, read: Callable[[LogStore], object], place: int) -> None:
    flip(place)(log / "rank000" / "000001.safetensors")
    store = LogStore.open(log)
    assert torch.equal(store.rows(0, 7), rows_of(7))
    with pytest.raises(InputError, match=r"rank000/000001\.safetensors: altered"):
        read(store)


def test_ids_altered(log: Path) -> None:
    flip(-1)(log / "rank000" / "000001.safetensors")
    with pytest.raises(InputError, match=r"000001\.safetensors: its ids were altered"):
        _ = LogStore.open(log).ids


def rewritten(log: Path, rows: int, width: int, ids: int) -> None:
    """Put another chunk, complete in itself, in the second one's place."""
    path, journal = log / "rank000" / "000001.safetensors", log / "rank000" / "journal.jsonl"
    chunk = write_chunk(path, {"gradients": torch.zeros(rows, width)}, ids_of(ids))
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = chunk.model_copy(update={"rows": 7}).model_dump_json().encode() + b"\n"
    journal.write_bytes(b"".join(lines))


@pytest.mark.parametrize(("rows", "width"), [(6, 22), (7, 21)])
def test_chunk_of_another_shape(log: Path, rows: int, width: int) -> None:
    rewritten(log, rows, width, ids=7)
    with pytest.raises(InputError, match=rf"gradients \(\({rows}, {width}\), 'F32'\); allowed"):
        LogStore.open(log).rows(0, 20)


def test_chunk_with_fewer_ids_than_rows(log: Path) -> None:
    rewritten(log, 7, 22, ids=6)
    for read in (LogStore.verify, lambda store: store.ids):
        with pytest.raises(InputError, match="6 ids; allowed: 7, one for a row"):
            read(LogStore.open(log))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"nonsense\n", "line 2: not the record of a chunk"),
        (b"\n", "line 2: not the record of a chunk"),
        (b"[]\n", "line 2"),
        (b'{"closed":true}\n', "line 2: .*unknown key 'closed'"),
        (b'{"rows":0,"bytes":1,"crc32":"00000000","ids_crc32":"00000000"}\n', "key 'rows'"),
    ],
)
def test_journal_altered(log: Path, line: bytes, says: str) -> None:
    path = log / "rank000" / "journal.jsonl"
    first, _, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, line, *rest]))
    for use in (LogStore.open, opened):
        with pytest.raises(InputError, match=says):
            use(log)
    path.write_bytes(first)  # the failed writer has let go of the lock
    opened(log).close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, r"\('logra log store', 2\); allowed: \('logra log store', 1\)"),
        ({"format": "another"}, "allowed"),
        ({"rows_per_chunk": -1}, "rows_per_chunk"),
        ({"strange": 1}, "unknown key 'strange'"),
    ],
)
def test_foreign_manifest(log: Path, change: dict[str, object], says: str) -> None:
    path = log / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for use in (LogStore.open, opened):
        with pytest.raises(InputError, match=says):
            use(log)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_manifest_that_is_none(log: Path, text: str) -> None:
    (log / "manifest.json").write_bytes(text.encode("utf8", "surrogateescape"))
    with pytest.raises(InputError, match=r"manifest\.json"):
        LogStore.open(log)


def test_read_only_folder_opens(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with opened(folder) as writer:
        append(writer, 20)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555)
    process, result = started(program.read_without_rights, folder)
    same, refused = result.recv()
    process.join()
    for path in (folder, folder / "rank000"):
        path.chmod(0o755)
    assert same
    assert "cannot be written" in refused
