"""Records: what a run leaves, as it is written and read."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from common.errors import InputError
from common.experiments.documents import read_json
from common.experiments.schema import NAME, PART_NAME, RunKey, Scale
from common.experiments.settings import Settings, validated
from common.runs.fingerprint import Code

#: Version of the record's layout; raised when a field changes meaning.
RECORD_VERSION: Final = 3


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

    version: Literal[3] = RECORD_VERSION
    paper: str = Field(pattern=NAME)
    experiment: str = Field(pattern=NAME)
    case: str = Field(pattern=PART_NAME)
    arm: str = Field(pattern=PART_NAME)
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
    def artifacts_sha256(self) -> str:
        """One checksum over all artifacts, by which a run that reads them knows them."""
        lines = [f"{name} {item.sha256}\n" for name, item in sorted(self.artifacts.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def key(self) -> RunKey:
        """The run that left it."""
        return RunKey(self.paper, self.experiment, self.case, self.arm, self.seed, self.scale)


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


def load_record(key: RunKey, results: Path = Path("results")) -> Record:
    """The checked record of a run. Raises InputError as above, or if another run lies there."""
    path = key.record(results)
    record = read_record(path)
    if record.key != key:
        raise InputError(f"{path}: is the record of another run, {record.key.folder}")
    return record
