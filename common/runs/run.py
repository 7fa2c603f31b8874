"""One run: seeds, progress, artifacts, provenance, and the record that it leaves.

A run writes its files into a staging folder beside its output (in it, where the output is a file
system of its own); :meth:`Run.finish` moves them into place and ``record.json`` last, by one atomic
rename. A run that is killed leaves what was there before; a record that exists is complete. Of the
processes that torchrun starts for one run, the main one (rank 0) locks, writes and finishes; what
the others write is thrown away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from common.errors import InputError
from common.experiments.schema import MAX_SEED, RunKey
from common.experiments.settings import Settings
from common.runs.files import disk_failure, file_sha256, locked, write_atomically
from common.runs.fingerprint import EDITED, Code, loaded_code
from common.runs.machine import (
    cpu_instructions,
    cpu_name,
    cpu_threads,
    git_state,
    package_versions,
    peak_rss_bytes,
)
from common.runs.record import Artifact, DataIdentity, Provenance, Record, load_record
from common.seeds import private_generator, seed_python

Held = TypeVar("Held")


class Run:
    """Context of one run.

    Args:
        key: identity of the run.
        program: name of the program that runs.
        settings: its validated settings; stored in the record.
        out: folder of the record and its artifacts.
        work: folder of resume state, the run's own; survives a kill, removed by :meth:`finish`.
        needs: runs that came before, by the names that :meth:`needed` takes.

    Raises:
        InputError: the seed is out of range, ``out`` lies in ``work``, or (on entering) one of them
            cannot be written.

    Attributes:
        seed: the run's seed; Python's and NumPy's global generators are seeded with it.
        rng: a private NumPy generator seeded with it.
        device, precision: what the run computes on; a program that uses a GPU sets them.
        measure_gpu: gives the most bytes that tensors held on the GPU; so does this.
        main: whether this process writes the record.
    """

    def __init__(
        self,
        key: RunKey,
        program: str,
        settings: Settings,
        out: Path,
        work: Path | None = None,
        needs: Mapping[str, list[RunKey]] | None = None,
    ) -> None:
        if not 0 <= key.seed < MAX_SEED:
            raise InputError(f"--seed {key.seed}: must be >= 0 and < {MAX_SEED}")
        self.key, self.program, self.settings = key, program, settings
        self.seed = key.seed
        self.out = out
        self.work = Path("work") / key.folder if work is None else work
        self._work_is_given = work is not None
        self.staging = out.parent / f".{out.name}.partial"
        self.rng = private_generator(self.seed)
        self.device, self.precision = "cpu", "float64"
        self.measure_gpu: Callable[[], int] = lambda: 0
        self.main = os.environ.get("RANK", "0") == "0"
        self._data: list[DataIdentity] = []
        self._needs, self._needed = dict(needs or {}), dict[str, str]()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Run:
        seed_python(self.seed)
        if self.main:
            self._take_out()
        else:
            self.staging = Path(tempfile.mkdtemp())
        self._started = datetime.now(UTC)
        self._doubted: set[str] = set()
        self._clock, self._cpu = time.perf_counter(), time.process_time()
        return self

    def _take_out(self) -> None:
        """Check both folders, before any work is done, and lock the output for this process."""
        try:
            if self.out.exists() and not self.out.is_dir():
                raise InputError(f"--out {self.out}: is a file; a folder is needed")
            if (self.out / "record.json").is_dir():
                raise InputError(f"--out {self.out}: its record.json is a folder; remove it")
            self._check_work()
            self._lock = locked(self.out)
        except OSError as error:
            raise InputError(f"--out {self.out}: cannot be written ({error.strerror})") from None
        try:
            if not os.access(self.out, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            beside = self.out.parent
            same = self.out.stat().st_dev == beside.stat().st_dev
            if not same or not os.access(beside, os.W_OK | os.X_OK):
                self.staging = self.out / ".partial"  # files move within one file system only
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.mkdir()
        except OSError as error:
            self._leave_out()
            raise InputError(f"--out {self.out}: cannot be written ({error.strerror})") from None

    def _check_work(self) -> None:
        out, work = (Path(os.path.realpath(path)) for path in (self.out, self.work))
        if out.is_relative_to(work):
            raise InputError(
                f"--out {self.out}: lies in {self.work}, the folder of resume state, which is"
                " removed when the run is done"
            )
        try:
            there = next(folder for folder in (work, *work.parents) if folder.exists())
            free = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
            reason = "" if free else f"{there} is no folder that may be written to"
        except OSError as error:
            reason = str(error.strerror)
        if reason and self._work_is_given:
            raise InputError(f"--work {self.work}: cannot be written ({reason})")
        if reason:  # many programs need none
            log = logging.getLogger("run")
            log.warning("no resume state can be kept (%s); --work names another folder", reason)

    def _leave_out(self) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.out.rmdir()  # where nothing was written
        os.close(self._lock)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()
        if self.main:
            self._leave_out()
        else:
            shutil.rmtree(self.staging, ignore_errors=True)
        names_a_file = isinstance(error, InputError) or getattr(error, "filename", None)
        if not names_a_file and (reason := disk_failure(error)):
            raise InputError(f"{self.out} or {self.work}: cannot be written ({reason})") from error

    def hold(self, resource: AbstractContextManager[Held]) -> Held:
        """Enter a context that ends with the run."""
        return self._held.enter_context(resource)

    def uses(self, identity: DataIdentity) -> None:
        """Note data that the run reads."""
        if identity not in self._data:
            self._data.append(identity)

    def needed(self, name: str, results: Path = Path("results")) -> list[Path]:
        """Folders of the runs that ``needs`` has under ``name``; their artifacts lie there.

        Their data count as this run's.

        Raises:
            InputError: one of them was not made, or a file of it was altered.
        """
        for key in self._needs[name]:
            path = key.record(results)
            if not path.exists():
                raise InputError(f"{path}: is needed first; {key.command} makes it")
            record = load_record(key, results)
            for identity in record.data:
                self.uses(identity)
            for file, artifact in record.artifacts.items():
                there = (path.parent / file).is_file()
                if not there or file_sha256(path.parent / file) != artifact.sha256:
                    raise InputError(f"{path.parent / file}: is not the file that its run wrote")
            self._needed[key.folder.as_posix()] = record.artifacts_sha256
        return [key.record(results).parent for key in self._needs[name]]

    def progress(self, total: float, what: str, unit: str = "it") -> tqdm[Any]:
        """A progress bar on standard error; silent where that is no terminal."""
        hidden = None if os.environ.get("REPRO_PROGRESS", "1") != "0" else True
        return tqdm(total=total, desc=what, unit=unit, disable=hidden, leave=False)

    def path(self, name: str) -> Path:
        """Path to write an artifact to; it is part of the record once the run finishes."""
        path = self.staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write ``rows`` as a CSV artifact; the first row's keys are the columns."""
        import csv

        rows = list(rows)
        with self.path(name).open("w", newline="", encoding="utf8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)

    def write_json(self, name: str, value: Any) -> None:
        """Write ``value`` as a JSON artifact."""
        self.path(name).write_text(json.dumps(value, allow_nan=False) + "\n", encoding="utf8")

    def finish(self, metrics: Mapping[str, float]) -> Path:
        """Put the artifacts in place, then the record, atomically; returns the record's path.

        The main process does; the others leave it to it.

        Raises:
            InputError: a metric is NaN or infinite (a failed run is an error, never a number), or a
                folder stands where an artifact belongs. The old record stays, with its artifacts.
        """
        broken = sorted(name for name, value in metrics.items() if not np.isfinite(value))
        if broken:
            raise InputError(f"{self.key.folder}: metrics {broken} are not finite numbers")
        path = self.out / "record.json"
        if not self.main:
            return path
        files = sorted(path for path in self.staging.rglob("*") if path.is_file())
        artifacts = {
            path.relative_to(self.staging).as_posix(): Artifact(
                sha256=file_sha256(path), bytes=path.stat().st_size
            )
            for path in files
        }
        record = Record(
            paper=self.key.paper,
            experiment=self.key.experiment,
            case=self.key.case,
            arm=self.key.arm,
            seed=self.seed,
            scale=self.key.scale,  # type: ignore[arg-type]
            program=self.program,
            settings=self.settings.model_dump(mode="json"),
            data=self._data,
            needed=self._needed,
            metrics={name: float(value) for name, value in metrics.items()},
            artifacts=artifacts,
            provenance=self._provenance(),
        )
        # All that needs room on the disk comes before anything of an old record is replaced.
        ready = self.staging / ".record"
        write_atomically(ready, record.model_dump_json(indent=1) + "\n")
        for name in artifacts:
            if (self.out / name).is_dir():
                raise InputError(f"{self.out / name}: is a folder; the run writes a file there")
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        for name in artifacts:
            (self.staging / name).replace(self.out / name)
        ready.replace(path)
        shutil.rmtree(self.work, ignore_errors=True)
        return path

    def code(self) -> Code:
        """Fingerprints of the code that computed so far; none of a module that has changed."""
        known = loaded_code(self._started.timestamp())
        return known | {module: dict(EDITED) for module in self._doubted}

    def doubt(self, modules: Iterable[str]) -> None:
        """Note modules (paths in the tree) whose other versions computed a part of this run."""
        self._doubted.update(modules)

    def _provenance(self) -> Provenance:
        commit, dirty = git_state()
        return Provenance(
            command=[Path(sys.argv[0]).name, *sys.argv[1:]],
            git_commit=commit,
            git_dirty=dirty,
            code=self.code(),
            python=platform.python_version(),
            packages=package_versions(),
            platform=platform.platform(),
            cpu=cpu_name(),
            instructions=cpu_instructions(),
            cores=os.cpu_count() or 1,
            threads=cpu_threads(),
            device=self.device,
            precision=self.precision,
            started_at=self._started.isoformat(timespec="seconds"),
            wall_s=time.perf_counter() - self._clock,
            cpu_s=time.process_time() - self._cpu,
            peak_rss_bytes=peak_rss_bytes(),
            peak_gpu_bytes=self.measure_gpu(),
        )
