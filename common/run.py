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
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import AfterValidator, Field
from tqdm import tqdm

from common import ROOT
from common.config import (
    ARM_NAME,
    MAX_SEED,
    NAME,
    RunKey,
    Scale,
    Settings,
    read_json,
    validated,
)
from common.errors import InputError
from common.fingerprint import EDITED, Code, loaded_code
from common.seeds import private_generator, seed_python

#: Version of the record's layout; raised when a field changes meaning.
RECORD_VERSION: Final = 2
PACKAGES = (
    "accelerate",
    "fairseq-fixed",
    "jiwer",
    "librosa",
    "matplotlib",
    "numba",
    "numpy",
    "pandas",
    "pydantic",
    "sacrebleu",
    "scikit-learn",
    "scipy",
    "sentencepiece",
    "snakemake",
    "subword-nmt",
    "tokenizers",
    "torch",
    "torchaudio",
    "torchvision",
    "transformers",
)


#: :meth:`Run.progress` of a run, for functions that take it: total, what, unit -> a bar.
Progress = Callable[[float, str, str], Any]


class DataIdentity(Settings):
    """Which data a run read: a registered set with its checksums, a file, or a generator."""

    name: str
    real: bool
    source: Literal["registry", "file", "generator", "bundled"]
    sha256: dict[str, str] = Field({}, description="checksum of each file read, by relative path")
    seed: int | None = None

    @classmethod
    def generated(cls, name: str, seed: int) -> DataIdentity:
        """Of data that a generator draws; it is known by what it is called, wherever it lies."""
        return cls(name=name, real=False, source="generator", seed=seed)


class Provenance(Settings):
    """Where, when and with what a run was made."""

    command: list[str]
    git_commit: str
    git_dirty: bool
    code: Code = Field(
        description="fingerprint of each definition of the modules that the run had loaded"
    )
    python: str
    packages: dict[str, str]
    platform: str
    cpu: str
    instructions: str = Field("", description="of the processor, for vectors; kernels differ by it")
    cores: int
    threads: int = Field(0, ge=0, description="CPU threads that the run was given; 0: not noted")
    device: str
    precision: str
    started_at: str
    wall_s: float = Field(ge=0)
    cpu_s: float = Field(ge=0)
    peak_rss_bytes: int = Field(
        ge=0,
        description="most memory resident at a time; of a fork of the warm process with what they"
        " share, but of the libraries' files without what the fork did not touch",
    )
    peak_gpu_bytes: int = Field(ge=0)


class Artifact(Settings):
    """A file that the run wrote beside its record."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


def _below_the_record(name: str) -> str:
    path = PurePosixPath(name)
    plain = path.as_posix() == name and name not in (".", "record.json")
    if path.is_absolute() or ".." in path.parts or not plain:
        raise ValueError("the name of an artifact must be a path below the folder of its record")
    return name


ArtifactName = Annotated[str, AfterValidator(_below_the_record)]


class Record(Settings):
    """What a run leaves: identity, settings, data, metrics, artifacts, provenance."""

    version: Literal[2] = RECORD_VERSION
    paper: str = Field(pattern=NAME)
    experiment: str = Field(pattern=NAME)
    arm: str = Field(pattern=ARM_NAME)
    seed: int = Field(ge=0)
    scale: Scale
    program: str
    settings: dict[str, Any]
    data: list[DataIdentity]
    needed: dict[str, str] = Field(
        {}, description="runs whose artifacts were read: sha256 over those"
    )
    metrics: dict[str, float] = Field(description="names end in their unit: avg_jct_s")
    artifacts: dict[ArtifactName, Artifact]
    provenance: Provenance

    @property
    def key(self) -> RunKey:
        """The run that left it."""
        return RunKey(self.paper, self.experiment, self.arm, self.seed, self.scale)


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
        self.device, self.precision, self.peak_gpu_bytes = "cpu", "float64", 0
        self.main = os.environ.get("RANK", "0") == "0"
        self._data: list[DataIdentity] = []
        self._needs, self._needed = dict(needs or {}), dict[str, str]()

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
        if self.main:
            self._leave_out()
        else:
            shutil.rmtree(self.staging, ignore_errors=True)
        names_a_file = isinstance(error, InputError) or getattr(error, "filename", None)
        if not names_a_file and (reason := disk_failure(error)):
            raise InputError(f"{self.out} or {self.work}: cannot be written ({reason})") from error

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
                raise InputError(
                    f"{path}: is needed first; python papers/{key.paper}/train.py {key.experiment}"
                    f" --arm {key.arm} --seed {key.seed} --scale {key.scale} makes it"
                )
            record = record_of(key, results)
            for identity in record.data:
                self.uses(identity)
            digest = hashlib.sha256()
            for file, artifact in sorted(record.artifacts.items()):
                there = (path.parent / file).is_file()
                if not there or file_sha256(path.parent / file) != artifact.sha256:
                    raise InputError(f"{path.parent / file}: is not the file that its run wrote")
                digest.update(f"{file} {artifact.sha256}\n".encode())
            self._needed[key.folder.as_posix()] = digest.hexdigest()
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
            peak_gpu_bytes=self.peak_gpu_bytes,
        )


def locked(folder: Path) -> int:
    """Make ``folder`` and lock it for this process; waits while another one holds it.

    A Snakemake that was killed leaves its jobs running; started again, it makes the same runs.
    The kernel frees the lock however its holder ends. Returns the descriptor to close.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if os.path.lexists(folder) and not folder.is_dir():
                raise  # else it was removed in between, as below
        with contextlib.suppress(FileNotFoundError):  # whoever held it wrote nothing and removed it
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log = logging.getLogger("run")
                log.warning("%s: another process makes this run; waiting", folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, folder):
                return descriptor
            os.close(descriptor)


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether an open folder is still the one at its path: a removed one can be locked, too."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def disk_failure(error: BaseException | None) -> str:
    """Why the disk took no more (full, over quota, a file's limit), if ``error`` is of that; or "".

    Libraries that write raise errors of their own, in the course of the system's or with its words;
    NumPy counts what was written.
    """
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return os.strerror(error.errno)
            if re.fullmatch(r"\d+ requested and \d+ written", str(error)):
                return str(error)
        if os.strerror(errno.ENOSPC) in str(error):
            return os.strerror(errno.ENOSPC)
        error = error.__cause__ or error.__context__
    return ""


def read_record(path: Path) -> Record:
    """The checked record in ``path``. Raises InputError if it is absent or does not conform."""
    if not path.exists():
        raise InputError(f"{path}: no such record")
    data = read_json(path, "a record")
    if isinstance(data, dict) and data.get("version", RECORD_VERSION) != RECORD_VERSION:
        raise InputError(
            f"{path}: version {data['version']!r}, of another state of this project; allowed:"
            f" {RECORD_VERSION}. Remove it (`make clean` removes all), and its run is made again"
        )
    return validated(Record, data, str(path))


def record_of(key: RunKey, results: Path = Path("results")) -> Record:
    """The checked record of a run. Raises InputError as above, or if another run lies there."""
    path = key.record(results)
    record = read_record(path)
    if record.key != key:
        raise InputError(f"{path}: is the record of another run, {record.key.folder}")
    return record


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` to a temporary file beside ``path``, sync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_state(root: Path = ROOT) -> tuple[str, bool]:
    """(commit, whether tracked files differ from it); ("unknown", True) outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(("git", *words), cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can change a number."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_rss_bytes() -> int:
    """Most memory that this program has had resident.

    The kernel's ru_maxrss would do, but it goes on from the program that started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_name() -> str:
    """Model name of the processor."""
    return _cpu_line("model name") or platform.processor() or platform.machine()


def cpu_threads() -> int:
    """Threads that computing libraries may use: as OMP_NUM_THREADS says, or one a core."""
    # With nested parallelism the variable is a list, whose first number counts here.
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(said) if said.isdecimal() and int(said) else len(os.sched_getaffinity(0))


def cpu_instructions() -> str:
    """The processor's instruction sets for vectors, sorted; "" where the system does not tell.

    Libraries choose kernels by them, and by ``ONEDNN_MAX_CPU_ISA`` where that is set.
    """
    sets = _cpu_line("flags").split()
    found = sorted(name for name in sets if name.startswith(("avx", "amx", "fma", "f16c")))
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return " ".join([*found, *([f"ONEDNN_MAX_CPU_ISA={limit}"] if limit else [])])


def _cpu_line(key: str) -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""
