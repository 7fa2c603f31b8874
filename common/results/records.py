"""Records of one paper at one scale, as tables, figures and claims see them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from common import ROOT
from common.errors import InputError
from common.experiments.schema import Paper, Scale, load_paper
from common.experiments.settings import Settings
from common.results.evidence.archives import archive_path, read_archive
from common.results.evidence.repeats import TOLERANCE, Outcome, Repeat, Repeats, read_repeats
from common.results.evidence.staleness import Changes, changes, read_tree
from common.runs.files import file_sha256
from common.runs.fingerprint import Tree
from common.runs.record import DataIdentity, Record, load_record

log = logging.getLogger("records")

Confidence = Literal["verified", "artifact", "upstream-readme", "recalled"]
PUBLISHED_COLUMNS: Final = (
    "paper",
    "table_or_figure",
    "row",
    "column",
    "metric",
    "value",
    "std",
    "unit",
    "confidence",
    "source",
)
FRAME_COLUMNS: Final = (
    "paper",
    "experiment",
    "case",
    "arm",
    "seed",
    "scale",
    "metric",
    "value",
    "device",
    "real",
)


#: How the repeats of a recertified experiment came out, in the words of tables and report.
SAID: Final[dict[Outcome, str]] = {
    "equal": "equal",
    "equal here": "equal to the old code on another machine",
    "within tolerance": f"within {TOLERANCE:g} on another machine",
}


class Published(Settings):
    """One number of the paper: ``text`` as printed there, ``value`` where it is a number."""

    value: float | None
    text: str
    std: float | None
    unit: str
    confidence: Confidence
    source: str


class Context(Settings):
    """What every table and figure says about the records it was made from."""

    scale: Scale
    data: list[str]
    devices: list[str]
    seeds: list[int]
    runs: int
    newest: str
    recertified: list[str]
    stale: list[str]


@dataclass(frozen=True)
class StoredRecord:
    """A record and the folder of its artifacts; ``folder`` is None in an archive.

    ``repeats`` are the repetitions with today's code that speak for it, or against it;
    ``outdated`` are the runs that it has read whose records are stale or of another run by now.
    """

    record: Record
    folder: Path | None
    changes: Changes
    repeats: tuple[Repeat, ...] = ()
    outdated: tuple[str, ...] = ()

    @property
    def recertified(self) -> bool:
        """Whether its code has changed since, and repeats with today's gave the same numbers."""
        return bool(self.changes.code) and not self.stale

    @property
    def stale(self) -> str:
        """What has changed since the run and was not recertified; "" if nothing."""
        repeated = bool(self.repeats) and all(item.agrees for item in self.repeats)
        differs = any(not item.agrees for item in self.repeats)
        parts = ["settings"] if self.changes.settings else []
        if self.changes.code and not (repeated and not parts):
            parts.insert(0, "code, and a repeated run differs" if differs else "code")
        if self.outdated:
            more = f" and {len(self.outdated) - 1} more" if len(self.outdated) > 1 else ""
            parts.append(f"what it needs: {self.outdated[0]}{more}")
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """Experiment, case, arm and seed, for messages."""
        return f"{self.record.key.place}/seed{self.record.seed}"

    def read_csv(self, name: str) -> pd.DataFrame:
        """A CSV artifact. Raises InputError if it is absent, altered or was not archived."""
        return pd.read_csv(self._artifact(name))

    def read_json(self, name: str) -> Any:
        """A JSON artifact. Raises InputError if it is absent, altered or was not archived."""
        return json.loads(self._artifact(name).read_text(encoding="utf8"))

    def read_array(self, name: str) -> NDArray[Any]:
        """An artifact of numpy's format. Raises InputError as :meth:`read_csv`."""
        array: NDArray[Any] = np.load(self._artifact(name), allow_pickle=False)
        return array

    def check_artifacts(self) -> None:
        """Raise InputError if a file of the run is absent or altered."""
        for name in self.record.artifacts:
            self._artifact(name)

    def _artifact(self, name: str) -> Path:
        known = self.record.artifacts
        if name not in known:
            raise InputError(f"{self.name}: no artifact {name!r}; it has {sorted(known) or 'none'}")
        if self.folder is None:
            raise InputError(f"{self.name}: {name!r} is not kept in an archive of records")
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{path}: no such file, though its record names it")
        if file_sha256(path) != known[name].sha256:
            raise InputError(f"{path}: differs from the file that its record describes")
        return path


class Results:
    """Records of one paper at one scale, and the paper's own numbers.

    Made by :meth:`load` or :meth:`from_archive`.

    Attributes:
        paper: the experiment file.
        scale: scale of every record.
        published: ``published.csv``; ``value`` is NaN where ``text`` is not a number.
        experiments: names of the experiments whose records were asked for.
    """

    def __init__(
        self,
        paper: Paper,
        scale: Scale,
        stored: Iterable[StoredRecord],
        published: pd.DataFrame,
        experiments: Sequence[str] | None = None,
    ) -> None:
        self.paper, self.scale, self.published = paper, scale, published
        self.experiments = list(paper.experiments if experiments is None else experiments)
        self._stored = sorted(
            (item for item in stored if item.record.experiment in self.experiments),
            key=lambda item: (item.record.key.place, item.record.seed),
        )
        self._readers: list[list[StoredRecord]] = []

    @classmethod
    def load(
        cls,
        folder: Path,
        scale: Scale,
        results: Path = Path("results"),
        experiments: Sequence[str] | None = None,
        root: Path = ROOT,
        complete: bool = True,
    ) -> Results:
        """Results of the paper in ``folder`` from ``results/<scale>/<paper>``.

        Args:
            experiments: names of those that are needed (default: all).
            complete: whether a missing run is an error or is left out.

        Raises:
            InputError: a run is missing, or a record cannot be read or breaks the schema.
        """
        paper, tree = load_paper(folder), read_tree(root)
        repeats = read_repeats(results / scale / paper.paper / "repeats.json", tree)
        stored = []
        asked_for = dict.fromkeys(paper.runs(scale, experiments))
        needed = [key for one in asked_for for key in paper.all_needed(one)]
        for key in dict.fromkeys([*needed, *asked_for]):
            path = key.record(results)
            if not path.exists():
                if complete and key in asked_for:
                    raise InputError(f"{path}: no such record; make it with: {key.command}")
                continue
            record = load_record(key, results)
            stored.append(_stored(record, path.parent, paper, tree, repeats))
        return cls(paper, scale, _compared(stored), read_published(folder), experiments)

    @classmethod
    def from_archive(
        cls,
        folder: Path,
        scale: Scale,
        experiments: Sequence[str] | None = None,
        root: Path = ROOT,
    ) -> Results:
        """Results from ``archive/<scale>.jsonl``: the runs that were kept, without artifacts."""
        paper, tree = load_paper(folder), read_tree(root)
        path = archive_path(folder, scale)
        records = read_archive(path)
        repeats = read_repeats(path.with_suffix(".repeats.json"), tree)
        for number, item in enumerate(records, start=2):
            if (item.paper, item.scale) != (paper.paper, scale):
                raise InputError(
                    f"{path}: line {number}: is of {item.paper} at scale {item.scale};"
                    f" allowed: {paper.paper} at {scale}"
                )
        known = [item for item in records if paper.has(item.key)]
        if left := [item.key.place for item in records if not paper.has(item.key)]:
            names = ", ".join(dict.fromkeys(left))
            log.warning("%s: left out, experiments.yaml has no such runs: %s", path, names)
        stored = [_stored(item, None, paper, tree, repeats) for item in known]
        return cls(paper, scale, _compared(stored), read_published(folder), experiments)

    def among(self, experiments: Sequence[str]) -> Results:
        """The same results, of these experiments alone; nothing is read again."""
        return Results(self.paper, self.scale, self._stored, self.published, experiments)

    def records(
        self, experiment: str, arm: str | None = None, case: str | None = None
    ) -> list[StoredRecord]:
        """Records of an experiment, of one case, of one arm; empty if not run at this scale.

        They come by case, arm and seed. An ``arm`` needs a ``case`` where there are several.

        Raises:
            InputError: no such experiment, case or arm, or the target does not name the experiment.
        """
        if experiment not in self.experiments:
            raise InputError(
                f"{self.paper.paper}: experiment {experiment!r} is not among those of the target:"
                f" {', '.join(self.experiments)}"
            )
        study, where = self.paper.experiments[experiment], f"{self.paper.paper}.{experiment}"
        if arm is not None and arm not in study.arms:
            raise InputError(f"{where}: no arm {arm!r}; it has {', '.join(study.arms)}")
        if arm is not None or case is not None:
            case = study.case(case, where)
        found = [
            item
            for item in self._stored
            if item.record.experiment == experiment
            and case in (None, item.record.case)
            and arm in (None, item.record.arm)
        ]
        self._note(found)
        return found

    @contextmanager
    def reading(self) -> Iterator[list[StoredRecord]]:
        """The records that are read meanwhile: what a table or figure is made of."""
        read: list[StoredRecord] = []
        self._readers.append(read)
        try:
            yield read
        finally:
            self._readers.pop()

    def _note(self, found: Iterable[StoredRecord]) -> None:
        for read in self._readers:
            read.extend(found)

    def metric(
        self, experiment: str, arm: str, metric: str, case: str | None = None
    ) -> dict[int, float]:
        """Value of ``metric`` by seed. Raises InputError if a record lacks it."""
        found = {}
        for item in self.records(experiment, arm, case):
            if metric not in item.record.metrics:
                names = ", ".join(item.record.metrics)
                raise InputError(f"{item.name}: no metric {metric!r}; it has {names}")
            found[item.record.seed] = item.record.metrics[metric]
        return found

    def values(
        self, experiment: str, arm: str, metric: str, case: str | None = None
    ) -> NDArray[np.float64]:
        """Values of ``metric`` over seeds, shape (seeds,)."""
        return np.array(list(self.metric(experiment, arm, metric, case).values()), dtype=np.float64)

    def first(self, experiment: str, arm: str, case: str | None = None) -> StoredRecord:
        """An arm's first record. Raises InputError if it has none, as in an archive."""
        stored = self.records(experiment, arm, case)
        if not stored:
            case = self.paper.experiments[experiment].case(case, experiment)
            raise InputError(f"{experiment}/{case}/{arm}: no record at scale {self.scale}")
        return stored[0]

    def first_metrics(self, experiment: str, arm: str, case: str | None = None) -> dict[str, float]:
        """Metrics of an arm's first record. Raises InputError if it has none."""
        return dict(self.first(experiment, arm, case).record.metrics)

    @property
    def frame(self) -> pd.DataFrame:
        """Every metric of every record, one a row."""
        self._note(self._stored)
        return self._frame

    @cached_property
    def _frame(self) -> pd.DataFrame:
        rows = [
            {
                "paper": item.record.paper,
                "experiment": item.record.experiment,
                "case": item.record.case,
                "arm": item.record.arm,
                "seed": item.record.seed,
                "scale": item.record.scale,
                "metric": metric,
                "value": value,
                "device": item.record.provenance.device,
                "real": bool(item.record.data) and all(data.real for data in item.record.data),
            }
            for item in self._stored
            for metric, value in item.record.metrics.items()
        ]
        return pd.DataFrame(rows, columns=list(FRAME_COLUMNS))

    def published_value(self, table: str, row: str, column: str, metric: str) -> Published | None:
        """The paper's own number; None where it gives none.

        Raises:
            InputError: ``published.csv`` has different numbers under this key.
        """
        frame = self.published
        keys = {"table_or_figure": table, "row": row, "column": column, "metric": metric}
        chosen = np.ones(len(frame), dtype=bool)
        for name, key in keys.items():
            chosen &= (frame[name] == key).to_numpy()
        found = frame[chosen]
        if found.empty or not found["text"].iloc[0]:
            return None
        if found["text"].nunique() > 1:
            raise InputError(
                f"{self.paper.paper}/published.csv: {table} | {row} | {column} | {metric}"
                f" has several values: {', '.join(found['text'])}"
            )
        first = found.iloc[0]
        return Published(
            value=None if pd.isna(first["value"]) else float(first["value"]),
            text=first["text"],
            std=None if pd.isna(first["std"]) else float(first["std"]),
            unit=first["unit"],
            confidence=first["confidence"],
            source=first["source"],
        )

    @property
    def stored(self) -> list[StoredRecord]:
        """All records, by experiment, case, arm and seed."""
        self._note(self._stored)
        return list(self._stored)

    def context(self) -> Context:
        """Scale, data, devices, seeds and staleness of these records."""
        records = [item.record for item in self._stored]
        data = {f"{data.name} ({origin(data)})" for item in records for data in item.data}
        return Context(
            scale=self.scale,
            data=sorted(data),
            devices=sorted({item.provenance.device for item in records}),
            seeds=sorted({item.seed for item in records}),
            runs=len(records),
            newest=max((item.provenance.started_at for item in records), default=""),
            recertified=recertified(self._stored),
            stale=[f"{item.name} ({item.stale})" for item in self._stored if item.stale],
        )


def recertified(stored: Sequence[StoredRecord]) -> list[str]:
    """Of each experiment whose records stand by repeats: how many, and how the repeats ended."""
    found = []
    for name in dict.fromkeys(item.record.experiment for item in stored):
        covered = [item for item in stored if item.record.experiment == name and item.recertified]
        repeats = {(one.case, one.arm, one.seed): one for item in covered for one in item.repeats}
        if covered:
            outcomes = Counter(one.outcome for one in repeats.values())
            how = ", ".join(f"{count} {SAID[outcome]}" for outcome, count in outcomes.items())
            runs = "record" if len(covered) == 1 else "records"
            found.append(f"{name}: {len(covered)} {runs} ({len(repeats)} repeated: {how})")
    return found


def origin(data: DataIdentity) -> str:
    """Whether data is real, and if not, that it is made."""
    return "real" if data.real else "generator"


def _stored(
    record: Record, folder: Path | None, paper: Paper, tree: Tree, repeats: Repeats
) -> StoredRecord:
    changed = changes(record, paper, tree)
    return StoredRecord(record, folder, changed, repeats.of(record, changed.code))


def _compared(stored: Iterable[StoredRecord]) -> list[StoredRecord]:
    """The same records, each compared with those that it has read, as far as they are here."""
    waiting = {item.record.key.folder.as_posix(): item for item in stored}
    done: dict[str, StoredRecord] = {}

    def compare(place: str) -> StoredRecord:
        if place not in done:
            item = waiting[place]
            outdated = [
                compare(other).name
                for other, digest in item.record.needed.items()
                if other in waiting
                and (compare(other).stale or waiting[other].record.artifacts_sha256 != digest)
            ]
            done[place] = replace(item, outdated=tuple(outdated))
        return done[place]

    return [compare(place) for place in waiting]


def read_published(folder: Path) -> pd.DataFrame:
    """``published.csv`` of the paper in ``folder``: ``text`` as printed, ``value`` as a number.

    Raises:
        InputError: the file is absent, or a column or a confidence is not one of those allowed.
    """
    path = folder / "published.csv"
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from None
    if tuple(frame.columns) != PUBLISHED_COLUMNS:
        raise InputError(f"{path}: columns {list(frame.columns)} must be {PUBLISHED_COLUMNS}")
    allowed = get_args(Confidence)
    for line, value in enumerate(frame["confidence"], start=2):
        if value not in allowed:
            raise InputError(f"{path}: row {line}: confidence {value!r} must be one of {allowed}")
    frame["text"] = frame["value"]
    for name in ("value", "std"):
        numbers = pd.to_numeric(frame[name], errors="coerce")
        frame[name] = numbers.where(np.isfinite(numbers))  # "inf" stays text
    return frame
