"""What long loops of a run keep on disk, so that one that was killed goes on from there."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from common.runs.run import Run
from common.training.resume_state import read_state, write_state

Outcome = TypeVar("Outcome")

#: Seconds between two states: shorter loops write none.
SECONDS = 60.0


class Checkpoint:
    """The state of one loop, in a folder of the run's work folder.

    Args:
        run: whose loop it is.
        name: of the loop; loops of a run have different ones.
        seconds: between two states.
    """

    def __init__(self, run: Run, name: str, seconds: float = SECONDS) -> None:
        self._run, self._folder, self._seconds = run, run.work / name, seconds
        settings = run.settings.model_dump(mode="json")
        text = json.dumps([str(run.key), settings, name], sort_keys=True)
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """What was written last, on the CPU; None where nothing was.

        Raises:
            InputError: it belongs to a run with other settings.
        """
        found = read_state(self._folder, self._fingerprint)
        if found is None:
            return None
        self._run.doubt(found[1])
        return found[0]

    def write_now_and_then(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state after so many steps, if the last was written long ago."""
        if time.monotonic() - self._written >= self._seconds:
            write_state(self._folder, step, state(), self._fingerprint, self._run.code())
            self._written = time.monotonic()

    def remove(self) -> None:
        """Forget all states: the loop is done, and what came of it is kept elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)


def resumable(
    parts: Iterable[Callable[[], Outcome]],
    checkpoint: Checkpoint,
    done: Callable[[], object] | None = None,
) -> list[Outcome]:
    """Outcomes of all parts, without computing again those that a killed process had kept.

    Args:
        parts: in the same order each time; outcomes are tensors, numbers, or tuples of them.
        checkpoint: where they are kept.
        done: called after each part, for a progress bar.
    """
    found: list[Outcome] = (checkpoint.read() or {"outcomes": []})["outcomes"]
    kept = len(found)
    for place, compute in enumerate(parts):
        if place >= kept:
            found.append(compute())
            checkpoint.write_now_and_then(len(found), lambda: {"outcomes": found})
        if done is not None:
            done()
    return found
