"""What a loop of a run keeps on disk, so that one that was killed goes on from there.

For loops that :class:`common.training.Core` does not drive; the core keeps its own state.
:class:`Checkpoint` keeps that of a loop of ours, :func:`note_code` is for a library's trainer that
keeps its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from typing import Any, Final

from common import ROOT
from common.experiments.documents import read_json
from common.runs.files import write_atomically
from common.runs.fingerprint import Sources, Tree
from common.runs.run import Run
from common.training.resume_state import read_state, write_state

log = logging.getLogger("resume")

#: Seconds between two states: a kill costs no more, and shorter loops write none.
SECONDS: Final = 60.0


class Checkpoint:
    """The state of one loop, in a folder of the run's work folder.

    Args:
        run: whose loop it is.
        name: of the loop; loops of a run have different ones.
        seconds: between two states.
    """

    def __init__(self, run: Run, name: str, seconds: float = SECONDS) -> None:
        self._run, self._folder, self._seconds = run, run.work / "states" / name, seconds
        settings = run.settings.model_dump(mode="json")
        text = json.dumps([str(run.key), settings, name], sort_keys=True)
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """What was written last, on the CPU; None where nothing was.

        Where other code wrote it, the run's record says so: it is stale from the start.

        Raises:
            InputError: it belongs to a run with other settings.
        """
        found = read_state(self._folder, self._fingerprint)
        if found is None:
            return None
        state, changed = found
        self._run.doubt(changed)
        return state

    def write(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state after so many steps, if the last was written long ago."""
        if time.monotonic() - self._written >= self._seconds:
            write_state(self._folder, step, state(), self._fingerprint, self._run.code())
            self._written = time.monotonic()

    def remove(self) -> None:
        """Forget all states: the loop is done, and what came of it is kept elsewhere."""
        shutil.rmtree(self._folder, ignore_errors=True)


def note_code(run: Run) -> None:
    """Note whether other code began a run that now goes on from files which a library kept.

    The first call leaves the run's code in its work folder. One that finds other code there has the
    run's record say so: it is stale from the start.

    Raises:
        InputError: what lies there is no such note.
    """
    path = run.work / "code.json"
    if not path.is_file():
        run.work.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(run.code()))
        return
    changed = Tree(Sources(ROOT)).changed(read_json(path, "the code that began a run"))
    if changed:
        log.warning("%s: the run was begun by other code (%s)", run.work, ", ".join(changed))
    run.doubt({definition.partition(": ")[0] for definition in changed})
