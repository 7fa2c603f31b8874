"""The folder of a run: stored gradients, statistics, projections, settings.

====================================  ==========================================
``log/``                              a :mod:`papers.logra.log_store`
``state/statistics.safetensors``      :class:`.curvature.moments.Statistics`
``state/identity.json``               digests of the model that they are of
``lora/projections.safetensors``      :class:`.gradients.projections.Projections`
``resume/``                           :mod:`.session.progress` of a run with ``resume=True``
``config.yaml``                       what the run was set to
====================================  ==========================================
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, distributed

from common.errors import InputError
from common.runs.files import write_atomically
from papers.logra.curvature.layout import Layout
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.projections import Projections
from papers.logra.log_store import LogStore, LogWriter, Rows
from papers.logra.log_store.creation import CHUNK_BYTES
from papers.logra.log_store.dtypes import DTYPES
from papers.logra.log_store.manifest import DtypeName, Identity
from papers.logra.processes import processes, rank
from papers.logra.session.configs import Config

NestedGradients = dict[str, dict[str, Tensor]]


class LogFolder:
    """Writes and reads a run's folder; nothing is made before something is written.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = path / "log"
        self._statistics = path / "state" / "statistics.safetensors"
        self._projections = path / "lora" / "projections.safetensors"
        self._writer: LogWriter | None = None
        self._store: LogStore | None = None
        #: Of the log that this run has written to.
        self._token: str | None = None
        #: Whether this run has written to the log.
        self.has_written = False
        #: Ids of rows of this run's earlier passes, which would stand there twice.
        self._earlier: frozenset[str] = frozenset()

    @property
    def is_writing(self) -> bool:
        """Whether the log is open for writing."""
        return self._writer is not None

    def begin(
        self,
        layout: Layout,
        identity: Identity,
        dtype: DtypeName = "float32",
        numbers: float | None = None,
        resume: bool = False,
    ) -> None:
        """Open the log for writing.

        Args:
            layout, identity, dtype: as of :meth:`LogStore.create`.
            numbers: the most to hold in a chunk.
            resume: go on with the log that an earlier run left.

        Raises:
            InputError: an earlier run left a log, or with ``resume`` one of other rows, or a later
                one has put its own in place of this run's.
        """
        resume |= self.has_written
        # Another one of several processes may have begun; the store itself refuses old rows.
        if self._log.exists() and not resume and not distributed.is_initialized():
            raise InputError(
                f"{self._log}: holds the log of an earlier run; allowed: another project, to "
                "remove it, resume=True to go on with it, or initialize_from_log() to score with it"
            )
        rows = None
        if numbers is not None and numbers * DTYPES[dtype].itemsize < CHUNK_BYTES:
            rows = max(1, int(numbers / layout.width))
        self._writer = LogStore.create(
            self._log,
            layout,
            identity=identity,
            dtype=dtype,
            rank=rank(),
            ranks=processes(),
            rows_per_chunk=rows,
            resume=resume,
            token=self._token,
        )
        self.has_written, self._store = True, None
        self._token = self._writer.manifest.token

    @property
    def rows(self) -> int:
        """Rows in the log that :meth:`begin` opened."""
        assert self._writer is not None
        return self._writer.rows

    def append(self, ids: Sequence[str], gradients: Tensor, position: int | None = None) -> None:
        """Add rows (n, width) to the log that :meth:`begin` opened.

        Args:
            position: of the first row, where the log may hold some of them from before.

        Raises:
            InputError: what the writer raises, or the log holds other rows there, or rows of this
                run's earlier passes have these ids.
        """
        assert self._writer is not None
        self.refuse_repeated(ids)
        there = 0
        if position is not None:
            there = min(len(ids), max(0, self.rows - position))
            if list(ids[:there]) != self._writer.found_ids[position : position + there]:
                raise InputError(
                    f"{self._log}: other ids than before from row {position} on; allowed: the"
                    " same batches in the same order"
                )
        if there < len(ids):
            self._writer.append(ids[there:], gradients[there:])

    def begin_pass(self, given: int | None = None) -> None:
        """The log was opened again: its rows so far are of earlier passes.

        Args:
            given: how many rows were, where a run that resumes left more; by default all.
        """
        assert self._writer is not None
        self._earlier = frozenset(self._writer.found_ids[:given])

    def refuse_repeated(self, ids: Sequence[str]) -> None:
        """Raises InputError where earlier passes of this run have stored some of these."""
        if not self._earlier.isdisjoint(ids):
            name = next(name for name in ids if name in self._earlier)
            raise InputError(
                f"{self._log}: holds {name!r} from an earlier pass of this run, and would hold it"
                " twice; allowed: to log each sample once, other ids for other samples, or another"
                " project"
            )

    def close(self) -> None:
        """Write what waits. Raises InputError where that fails."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def open(self) -> LogStore:
        """The log, for reading.

        Raises:
            InputError: there is none, it is being written, or a later run has put its own in place
                of this run's.
        """
        if self._writer is not None:
            raise InputError(f"{self._log}: is being written; allowed: after finalize()")
        if self._store is None:
            if not self._log.exists():
                raise InputError(f"{self._log}: no log; allowed: after save(True) and finalize()")
            self._store = LogStore.open(self._log, self._token)
        return self._store

    def write(
        self,
        statistics: Statistics,
        projections: Projections | None,
        config: Config,
        identity: Identity | None = None,
    ) -> None:
        """Write all but the log, in one process; projections of an earlier run do not stay.

        Args:
            identity: of the model that statistics are of.

        Raises:
            InputError: the disk is full, or may not be written.
        """
        if rank() == 0:
            self._write(statistics, projections, config)
            path = self._statistics.with_name("identity.json")
            try:
                write_atomically(path, json.dumps(identity) + "\n")
            except OSError as error:
                raise InputError(f"{path}: cannot be written ({error})") from error
        if distributed.is_initialized():
            distributed.barrier()

    def _write(
        self, statistics: Statistics, projections: Projections | None, config: Config
    ) -> None:
        statistics.save(self._statistics)
        if projections is None:
            self._projections.unlink(missing_ok=True)
        else:
            projections.save(self._projections)
        path = self.path / "config.yaml"
        try:
            write_atomically(path, config.to_yaml())
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error})") from error

    def read_statistics(self, layout: Layout | None) -> Statistics:
        """What :meth:`write` wrote. Raises InputError: missing, altered, or of another layout."""
        return Statistics.load(self._statistics, layout)

    def belongs_to(self, identity: Identity) -> bool:
        """Whether statistics were gathered of this model, as far as the folder says."""
        path = self._statistics.with_name("identity.json")
        try:
            found = json.loads(path.read_text(encoding="utf8"))
        except FileNotFoundError:
            return True
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not a model's identity ({error})") from None
        return found is None or found == identity

    def read_projections(self) -> Projections:
        """What :meth:`write` wrote. Raises InputError: missing or altered."""
        return Projections.load(self._projections)

    @property
    def has_projections(self) -> bool:
        """Whether gradients of the run were projected."""
        return self._projections.exists()


class NestedRows(Rows):
    """(id, ``{layer: {"grad": (out, inner)}}``) of each row of a store."""

    def __getitems__(self, positions: list[int]) -> list[tuple[str, NestedGradients]]:  # type: ignore[override]
        found = []
        for name, row in super().__getitems__(positions):
            parts = self.store.layout.unflatten(row.unsqueeze(0))
            found.append((name, {layer: {"grad": part[0]} for layer, part in parts.items()}))
        return found
