"""How far a run has come, on disk, so that one that was killed goes on from there.

``resume/pass0.safetensors`` holds the statistics of the first batches of pass 0 and which batches
these were; the log keeps its own count of rows. The two need not have come equally far: a program
that is started again gives all batches again, and of each what is missing is added. So sums are
added in the order, and rows lie in the chunks, of a run that was never killed.

Of several processes each has files of its own, those of the second in ``resume/rank1/``. They hold
what it gathered itself: sums over all processes are made again, for all take part in each.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError
from papers.logra.curvature.moments import Statistics
from papers.logra.curvature.tensor_files import read_tensors, write_tensors
from papers.logra.log_store.folder_lock import locked_folder
from papers.logra.processes import processes, rank

FILE = "LoGra pass"


class Batches(NamedTuple):
    """Batches from the beginning of a pass.

    Attributes:
        total: how many.
        digest: of their ids, in this order.
        failed: numbers of those that ended with an error.
    """

    total: int = 0
    digest: str = ""
    failed: tuple[int, ...] = ()

    def and_one(self, ids: Sequence[str], failed: bool) -> Batches:
        """With the next batch."""
        text = json.dumps([self.digest, *ids])
        return Batches(
            self.total + 1,
            hashlib.sha256(text.encode()).hexdigest(),
            (*self.failed, self.total) if failed else self.failed,
        )


class Progress:
    """Passes of one run; a pass ends where other things are gathered, and begins with a batch.

    Args:
        project: folder of the run.
        seconds: between two files.
    """

    def __init__(self, project: Path, seconds: float) -> None:
        self.project, self.seconds = project, seconds
        #: Rows for the log, of all passes, that the program has given.
        self.rows = 0
        self._number, self._given = 0, Batches()
        #: What the pass's file held when the pass began, and how many batches it holds now.
        self._held: Batches | None = None
        self._written = 0
        self._about: dict[str, Any] = {}
        self._written_at = time.monotonic()

    @property
    def has_begun(self) -> bool:
        """Whether the pass has."""
        return self._held is not None

    def begin(self, statistics: Statistics, about: Mapping[str, Any]) -> None:
        """Begin the pass: statistics become those that its file holds, if there is one.

        Args:
            about: what they depend on, as JSON.

        Raises:
            InputError: the file is altered or of something else, or there were other processes.
        """
        if self._number == 0:  # before this process writes anything
            self._remove_unfinished()
        held, self._about = Batches(), {**about, "processes": processes()}
        if self._path().exists():
            tensors, content = read_tensors(self._path(), FILE)
            for key, value in self._about.items():
                if content["about"].get(key) != value:
                    raise InputError(
                        f"{self._path()}: of another run: {key} {content['about'].get(key)!r} there"
                        f" and {value!r} here; allowed: equal, or another project"
                    )
            statistics.restore(tensors, content["statistics"])
            held = Batches(content["total"], content["digest"], tuple(content["failed"]))
        self._held, self._written = held, held.total

    @property
    def is_counted(self) -> bool:
        """Whether the next batch is one of those that statistics hold."""
        assert self._held is not None
        return self._given.total < self._held.total

    @property
    def is_failed(self) -> bool:
        """Whether the next batch, one of those, ended with an error and gave no rows."""
        assert self._held is not None
        return self._given.total in self._held.failed

    def count(self, ids: Sequence[str], rows: int, *, failed: bool = False) -> None:
        """The next batch was given: its ids, and how many rows of the log.

        Raises:
            InputError: there are other batches than before.
        """
        assert self._held is not None
        self._given = self._given.and_one(ids, failed)
        self.rows += rows
        if self._given.total == self._held.total and self._given.digest != self._held.digest:
            raise InputError(
                f"{self._path()}: the first {self._held.total} batches have other ids than before;"
                " allowed: the same batches in the same order"
            )
        if self._given.total > self._held.total > 0 and self._path(1).exists():
            raise InputError(
                f"{self._path()}: a batch more than the {self._held.total} of before, and the next"
                " pass had begun; allowed: the same batches"
            )

    def write_now_and_then(self, statistics: Statistics) -> None:
        """Write the pass's file, if it was long ago."""
        if time.monotonic() - self._written_at >= self.seconds:
            self.write(statistics)

    def write(self, statistics: Statistics) -> None:
        """Write the pass's file, unless the one there holds as much."""
        if self._held is None or self._given.total <= self._written or not statistics.is_whole:
            return
        tensors, content = statistics.state()
        about = {"about": self._about, "statistics": content, **self._given._asdict()}
        write_tensors(self._path(), FILE, tensors, about)
        self._written, self._written_at = self._given.total, time.monotonic()

    def check_complete(self, rows: int | None) -> None:
        """Raise InputError unless all batches of before, and so many rows, were given again."""
        if self._held is None:
            return
        if self.is_counted:
            raise InputError(
                f"{self._path()}: the pass ends after {self._given.total} batches and had"
                f" {self._held.total} before; allowed: the same batches"
            )
        goes_on = self._given.total > self._held.total  # else the rows may be a later pass's
        if rows is not None and rows > self.rows and goes_on:
            raise InputError(
                f"{self.project}: {rows} rows are stored and {self.rows} were given;"
                " allowed: the same batches as before"
            )

    def end_pass(self, statistics: Statistics) -> None:
        """The pass is over; its file holds all of it. Raises InputError as check_complete."""
        if self._held is None:
            return
        self.check_complete(None)
        self.write(statistics)
        if not statistics.is_whole:  # it will be forgotten: there is nothing to go on with
            self._path().unlink(missing_ok=True)
        self._number, self._given, self._held = self._number + 1, Batches(), None

    @property
    def _folder(self) -> Path:
        folder = self.project / "resume"
        return folder / f"rank{rank()}" if rank() else folder

    def _path(self, later: int = 0) -> Path:
        return self._folder / f"pass{self._number + later}.safetensors"

    def _remove_unfinished(self) -> None:
        """What a kill left before a rename: of this process, and the first one's of the rest."""
        _remove_hidden(self._folder)
        if rank() == 0:
            for name in ("", "state", "lora"):
                _remove_hidden(self.project / name)
            log = self.project / "log"
            if log.is_dir():
                # Under the lock of who makes a log, which removes its unfinished chunks itself.
                with locked_folder(log):
                    _remove_hidden(log)


def _remove_hidden(folder: Path) -> None:
    for path in folder.glob(".*"):
        if path.is_file():
            path.unlink()
