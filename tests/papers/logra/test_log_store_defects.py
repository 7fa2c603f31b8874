"""What LogIX 0.1.1 does wrong about stored gradients, and what happens here instead."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from papers.logra.curvature.layout import Block, Layout
from papers.logra.log_store import LogStore

from .log_store_program import LAYOUT, PER_CHUNK, append, ids_of, opened, rows_of


def test_defect_1_asynchronous_writing_loses_no_row(tmp_path: Path) -> None:
    """There: 40 samples with hashes as ids, many small flushes: no file, no error."""
    ids = [hashlib.sha256(name.encode()).hexdigest() for name in ids_of(40)]
    with LogStore.create(tmp_path, LAYOUT, identity={}, rows_per_chunk=3) as writer:
        for start in range(0, 40, 4):
            writer.append(ids[start : start + 4], rows_of(40)[start : start + 4])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 14
    store = LogStore.open(tmp_path)
    assert store.ids == ids
    assert torch.equal(store.rows(0, 40), rows_of(40))


def test_defect_9_rows_of_equal_ids_are_all_kept(tmp_path: Path) -> None:
    """There: 10 samples of 5 inputs with two labels each become 5."""
    ids = [f"input {position // 2}" for position in range(10)]
    with opened(tmp_path / "log") as writer:
        writer.append(ids, rows_of(10))
    store = LogStore.open(tmp_path / "log")
    assert (len(store), store.ids) == (10, ids)
    assert torch.equal(store.rows(0, 10), rows_of(10))


def test_defect_10_rows_of_two_runs_never_mix(tmp_path: Path) -> None:
    """There: chunks of an earlier run in the folder are loaded with those of this one."""
    with opened(tmp_path / "log") as writer:
        append(writer, 30)
    with pytest.raises(InputError, match="rows of an earlier run; allowed: resume=True, or ano"):
        LogStore.create(tmp_path / "log", LAYOUT, identity={"model": "a"})
    assert LogStore.open(tmp_path / "log").ids == ids_of(30)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "log_rank_0_chunk_0.mmap").touch()
    with pytest.raises(InputError, match=r"log_rank_0_chunk_0\.mmap; allowed: an empty folder"):
        LogStore.create(tmp_path / "other", LAYOUT, identity={})
    # A file that no journal names is no row, whatever it is called.
    (chunk,) = (tmp_path / "log").rglob("000001.safetensors")
    (tmp_path / "log" / "rank000" / "000099.safetensors").write_bytes(chunk.read_bytes())
    assert len(LogStore.open(tmp_path / "log")) == 30


def test_defect_12_bfloat16_is_stored(tmp_path: Path) -> None:
    """There: NumPy has no such type, so nothing can be written."""
    rows = rows_of(10).bfloat16()
    with LogStore.create(tmp_path, LAYOUT, identity={}, dtype="bfloat16") as writer:
        writer.append(ids_of(10), rows)
    assert torch.equal(LogStore.open(tmp_path).rows(0, 10, dtype=torch.bfloat16), rows)


def test_defect_21_later_arguments_count_and_values_are_kept(tmp_path: Path) -> None:
    """There: a second loader ignores its arguments, and self-influence is computed each time."""
    with opened(tmp_path / "log") as writer:
        append(writer, 20)
    store = LogStore.open(tmp_path / "log")
    assert [len(part) for _, part in store.blocks(10)] == [10, 10]
    assert [len(part) for _, part in store.blocks(8)] == [8, 8, 4]
    assert store.rows(0, 1, dtype=torch.float64).dtype == torch.float64
    assert store.rows(0, 1).dtype == torch.float32
    store.put_column("self_influence", torch.arange(20.0), {"damping": 0.1})
    again = LogStore.open(tmp_path / "log").column("self_influence", {"damping": 0.1})
    assert again is not None
    assert torch.equal(again, torch.arange(20.0))


def test_defect_22_a_row_costs_its_numbers_and_its_id(tmp_path: Path) -> None:
    """There: every row repeats the paths of all layers, and decoded texts fill a JSON file."""
    layout = Layout(Block(f"model.layers.{place}.mlp", 2, 2) for place in range(100))
    text, sizes = "a decoded text " * 20, {}
    for count in (100, 200):
        folder = tmp_path / str(count)
        with LogStore.create(folder, layout, identity={}, rows_per_chunk=1000) as writer:
            writer.append([text] * count, torch.zeros(count, layout.width))
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes[count] = sum(path.stat().st_size for path in files)
        named = [path.name for path in files if b"model.layers" in path.read_bytes()]
        assert named == ["manifest.json"]
    place_bytes = 8
    row_bytes = layout.width * 4 + len(text) + place_bytes
    assert sizes[200] - sizes[100] == pytest.approx(100 * row_bytes, abs=16)  # digits, padding


def test_defect_24_names_are_compared_whole_and_in_order(tmp_path: Path) -> None:
    """There: str.strip on names of chunks, and reading opens files for writing.

    That reading needs no right to write stands in test_log_store_durability.py.
    """
    for rank in range(11):
        with opened(tmp_path, rank=rank, ranks=11) as writer:
            writer.append([f"{rank} {row}" for row in range(12 * PER_CHUNK)], rows_of(84))
    store = LogStore.open(tmp_path)
    assert store.ids == [f"{rank} {row}" for rank in range(11) for row in range(84)]
    assert torch.equal(store.rows(0, len(store)), rows_of(84).repeat(11, 1))
