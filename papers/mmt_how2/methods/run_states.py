"""States on disk from which a training inside a run goes on after a kill."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, Final

from common.runs.run import Run

#: Seconds of training that a kill may cost at most, but for the epoch that it falls in.
SAVE_EVERY_S: Final = 60.0


class RunStates:
    """Resume states of one training of a run, by the shared means.

    Args:
        name: of the training, no other's in this run.
    """

    def __init__(self, run: Run, name: str) -> None:
        self._run, self._folder = run, run.work / "states" / name
        identity = [str(run.key), run.settings.model_dump(mode="json"), name]
        self._fingerprint = hashlib.sha256(
            json.dumps(identity, sort_keys=True).encode()
        ).hexdigest()
        self._written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """The newest usable state; None if there is none.

        Raises:
            InputError: it is of a run with other settings.
        """
        if not self._folder.is_dir():
            return None
        # The package of the shared core loads accelerate, which a brief run does not need.
        from common.training.resume_state import read_state

        found = read_state(self._folder, self._fingerprint)
        if found is None:
            return None
        state, changed = found
        self._run.doubt(changed)
        return state

    def write(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after a number of epochs, if it is time to."""
        if time.monotonic() - self._written < SAVE_EVERY_S:
            return
        from common.training.resume_state import write_state

        write_state(self._folder, step, state, self._fingerprint, self._run.code())
        self._written = time.monotonic()
