"""Resume states on disk: written whole or not at all, checked before they are trusted.

A state is a folder ``step-<n>`` with ``state.pt`` (tensors and plain values, loaded with
``weights_only``) and ``manifest.json`` (checksum, fingerprint of the run that it belongs to, code
that saved it).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import ROOT
from common.errors import InputError
from common.experiments.documents import read_json
from common.random_state import global_states, set_global_states
from common.runs.files import file_sha256
from common.runs.fingerprint import Code, Sources, Tree

#: States kept: the newest, and one to fall back on.
KEPT = 2
log = logging.getLogger("resume")


def write_state(
    folder: Path, step: int, state: dict[str, Any], fingerprint: str, code: Code
) -> None:
    """Write the state of ``step``; older ones beyond :data:`KEPT` are removed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    writing = folder / ".writing"  # one process writes: a run's output is locked
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    with (writing / "state.pt").open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    manifest = {
        "sha256": file_sha256(writing / "state.pt"),
        "fingerprint": fingerprint,
        "code": code,
    }
    with (writing / "manifest.json").open("w", encoding="utf8") as text:
        json.dump(manifest, text)
        text.flush()
        os.fsync(text.fileno())
    final = folder / f"step-{step:010d}"
    shutil.rmtree(final, ignore_errors=True)
    writing.replace(final)
    for old in states(folder)[KEPT:]:
        shutil.rmtree(old)


def states(folder: Path) -> list[Path]:
    """Complete states, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def read_state(folder: Path, fingerprint: str) -> tuple[dict[str, Any], set[str]] | None:
    """The newest usable state, and the modules that have changed since it; None if there is none.

    A damaged one is passed over with a warning; one saved by other code is taken, with a warning.

    Raises:
        InputError: the state belongs to a run with other settings, seed or processes.
    """
    for path in states(folder):
        try:
            manifest = read_json(path / "manifest.json", "a manifest")
            owner, code = manifest["fingerprint"], dict(manifest["code"])
            if manifest["sha256"] != file_sha256(path / "state.pt"):
                raise ValueError("its checksum does not match")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: passed over, it is damaged (%s)", path, error)
            continue
        if owner != fingerprint:
            raise InputError(
                f"{path}: belongs to a run with other settings, another seed or another number of "
                f"processes; allowed: the same, another --work folder, or none (remove {folder})"
            )
        changed = Tree(Sources(ROOT)).changed(code)
        if changed:
            log.warning("%s: was saved by other code (%s)", path, ", ".join(changed))
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        return state, {definition.partition(": ")[0] for definition in changed}
    return None


def random_state(device: torch.device, private: np.random.Generator) -> dict[str, Any]:
    """State of every generator of this process: Python, NumPy, torch, GPU, the run's own."""
    return global_states(device) | {"private": private.bit_generator.state}


def set_random_state(
    state: dict[str, Any], device: torch.device, private: np.random.Generator
) -> None:
    """Put every generator back to ``state``."""
    set_global_states(state, device)
    private.bit_generator.state = state["private"]
