"""Facts of claims of local GPUs: one holder each, freed however it ends."""

from __future__ import annotations

import os
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from common.core.local_gpu import claimed_gpu
from common.errors import InputError


def _hold(count: int, locks: Path, talk: Connection) -> None:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        with claimed_gpu(count, locks) as index:
            talk.send((index, os.environ["CUDA_VISIBLE_DEVICES"]))
            talk.recv()
    except InputError as error:
        talk.send(str(error))


def test_claims_take_different_gpus_and_free_them(tmp_path: Path) -> None:
    forked, holders = get_context("fork"), []

    def claim() -> Any:
        ours, theirs = forked.Pipe()
        process = forked.Process(target=_hold, args=(2, tmp_path / "locks", theirs))
        process.start()
        holders.append((process, ours))
        assert ours.poll(300)
        return ours.recv()

    assert claim() == ("0", "0")
    assert claim() == ("1", "1")
    assert "all 2 GPUs are taken; allowed:" in claim()
    holders[0][0].kill()
    holders[0][0].join()
    assert claim() == ("0", "0")
    holders[1][1].send("leave")
    holders[1][0].join()
    assert claim() == ("1", "1")
    for process, _ in holders:
        process.kill()
        process.join()


def test_a_claim_is_taken_back_and_a_given_gpu_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with claimed_gpu(1, tmp_path) as index:
        assert index == os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    for given in ("3", ""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        with claimed_gpu(1, tmp_path / "none") as index:
            assert index == os.environ["CUDA_VISIBLE_DEVICES"] == given
    assert not (tmp_path / "none").exists()
