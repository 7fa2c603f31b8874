"""Making recorded runs again: one (``replay``), or what vouches for many (``recertify``)."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, get_ident
from typing import Final

from common import ROOT
from common.errors import InputError
from common.experiments.schema import Paper, RunKey, Scale, load_paper
from common.results.evidence.archives import archive_path, read_archive
from common.results.evidence.repeats import TOLERANCE, Outcome, Repeat, add_repeat, compare
from common.results.evidence.staleness import Changes, changes, read_tree
from common.results.records import (
    Results,
    StoredRecord,
)
from common.runs.definitions import PACKAGES
from common.runs.fingerprint import Tree
from common.runs.record import Artifact, Record, read_record

log = logging.getLogger("replay")

#: Where libraries look for the number of threads that they may use; Snakemake sets the same ones.
THREAD_VARIABLES: Final = tuple(
    f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "GOTO", "NUMEXPR")
)


#: Held while a run that several others need is made.
_making: defaultdict[RunKey, Lock] = defaultdict(Lock)


#: Options of a recorded command that say where it wrote; a repeat writes elsewhere.
FOLDERS: Final = ("--out", "--work")
#: Those that say which run it is. What a run is called may have changed since.
NAMES: Final = ("--case", "--arm", "--seed", "--scale")


@dataclass(frozen=True)
class Replayed:
    """A record made again: the new one, whether it is equal, and what differs."""

    record: Record
    outcome: Outcome
    differences: list[str]


def find_record(name: str, scale: Scale, root: Path = ROOT) -> tuple[Record, Path | None]:
    """The record that ``name`` means, and the folder of results that it lies in.

    Args:
        name: path of a ``record.json``, or ``PAPER/EXPERIMENT/CASE/ARM/SEED`` of an archived run.

    Raises:
        InputError: there is none.
    """
    path = Path(name)
    path = path / "record.json" if path.is_dir() else path
    if path.is_file():
        record = read_record(path)
        below = record.key.record(Path())
        inside = path.parts[-len(below.parts) :] == below.parts
        return record, path.resolve().parents[len(below.parts) - 1] if inside else None
    paper, _, rest = name.partition("/")
    folder = root / "papers" / paper
    if rest.count("/") == 3 and archive_path(folder, scale).is_file():
        place, _, seed = rest.rpartition("/")
        for item in Results.from_archive(folder, scale, root=root).stored:
            found = item.record
            if (found.key.place, str(found.seed)) == (place, seed.removeprefix("seed")):
                return found, None
        raise InputError(f"{archive_path(folder, scale)}: holds no run {rest}")
    raise InputError(
        f"{name}: no such record; allowed: the path of a record.json, or of a run in the archive of"
        " --scale PAPER/EXPERIMENT/CASE/ARM/SEED"
    )


def replay(
    record: Record, scratch: Path, results: Path | None = None, root: Path = ROOT
) -> Replayed:
    """Run a record's command again in the folder ``scratch`` and compare.

    What it needs of other runs is taken from ``results`` or made first. Where ``scratch`` holds the
    run already, as after an interruption, it is not made again.

    Raises:
        InputError: the run fails.
    """
    paper, scratch = load_paper(root / "papers" / record.paper), scratch.resolve()
    key = record.key
    for other in _needed(key, paper):
        _provide(other, paper, scratch, results, root)
    words = [*key.options, *_without(record.provenance.command[2:], *NAMES, *FOLDERS)]
    path = key.record(scratch / "results")
    with _making[key]:
        if not _is_today_s(path, paper, root):
            words += ["--out", str(path.parent)]
            _run(record.paper, words, _threads(paper, key, record), scratch, root)
    again = read_record(path)
    return Replayed(again, *compare(record, again, _timed(paper, key)))


def beside_old_code(record: Record, replayed: Replayed, scratch: Path, root: Path) -> Replayed:
    """The replay, compared with the record's own commit run on this machine.

    Where a machine rounds otherwise, a search or a training may end elsewhere, and the record alone
    cannot tell whether code or machine is the cause. Where git does not have the commit, or the
    record is of this machine, the replay stands as it is.
    """
    made, here = record.provenance, replayed.record.provenance
    alike = (made.cpu, made.instructions) == (here.cpu, here.instructions)
    if replayed.outcome == "equal" or alike:
        return replayed
    old = scratch / "commits" / made.git_commit
    if not _check_out(made.git_commit, old, root):
        return replayed
    key, paper = record.key, load_paper(root / "papers" / record.paper)
    kept = _archived(paper, key.scale, root) | {key: record}
    folders: dict[str, str] = {}  # of runs as they were called then: as they are called now
    for other in (*_needed(key, paper), key):
        made_then = kept.get(other)
        command = made_then.provenance.command[1:] if made_then else other.options
        words = _without(command, *FOLDERS)
        place = old_folder(other.paper, words)
        folders[place.as_posix()] = other.folder.as_posix()
        path = old / "results" / place / "record.json"
        if not path.is_file():
            threads = _threads(paper, other, made_then)
            _run(other.paper, [*words, "--out", str(path.parent)], threads, old, old)
    found = json.loads(path.read_text(encoding="utf8"))  # its layout may be an older one
    needed = found.get("needed", {})
    fields = {
        "metrics": found["metrics"],
        "artifacts": {name: Artifact(**item) for name, item in found["artifacts"].items()},
        "needed": {folders.get(name, name): value for name, value in needed.items()},
        "provenance": here,
    }
    reference = record.model_copy(update=fields)
    outcome, differences = compare(reference, replayed.record, _timed(paper, key))
    if outcome == "equal":
        return Replayed(replayed.record, "equal here", replayed.differences)
    return Replayed(replayed.record, outcome, differences)


def _archived(paper: Paper, scale: str, root: Path) -> dict[RunKey, Record]:
    """The paper's archived records at a scale; none where there is no archive."""
    path = archive_path(root / "papers" / paper.paper, scale)
    return {item.key: item for item in read_archive(path)} if path.is_file() else {}


def old_folder(paper: str, words: Sequence[str]) -> Path:
    """Folder below ``results/`` of the run that a recorded command makes with its own code.

    Runs had no cases before records had version 3.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment")
    for name in NAMES:
        parser.add_argument(name, default={"--seed": "0", "--scale": "laptop"}.get(name, ""))
    run = parser.parse_known_args(words)[0]
    return Path(run.scale, paper, run.experiment, run.case, run.arm, f"seed{run.seed}")


def _check_out(commit: str, folder: Path, root: Path) -> bool:
    """Put the project's packages as of a commit into a folder; whether git has it."""
    if (folder / "papers").is_dir():
        return True
    command = ("git", "archive", "--format=tar", commit, *PACKAGES, "pyproject.toml")
    done = subprocess.run(command, cwd=root, capture_output=True)
    if done.returncode:
        return False
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{get_ident()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        tar.extractall(partial, filter="data")
    with contextlib.suppress(OSError):  # another run was first
        partial.rename(folder)
    return True


def recertify(
    folder: Path,
    scale: Scale,
    runs: int,
    scratch: Path,
    results: Path = Path("results"),
    root: Path = ROOT,
    jobs: int = 1,
    experiments: Sequence[str] | None = None,
) -> list[Repeat]:
    """Repeat the cheapest runs until each record whose code has changed has ``runs`` repeats.

    What came out is written beside the records: ``archive/<scale>.repeats.json`` of the paper,
    ``repeats.json`` in its folder of results.

    Args:
        experiments: those of the paper alone, in this order.

    Returns:
        The repeats made.

    Raises:
        InputError: the paper has no such experiment.
    """
    known = load_paper(folder).experiments
    if wrong := [name for name in experiments or () if name not in known]:
        raise InputError(
            f"{folder.name}: has no experiment {', '.join(wrong)}; allowed: {', '.join(known)}"
        )
    made: list[Repeat] = []
    sources: list[tuple[Path, Results, Path | None]] = []
    archive = archive_path(folder, scale)
    if archive.is_file():
        archived = Results.from_archive(folder, scale, root=root)
        sources.append((archive.with_suffix(".repeats.json"), archived, None))
    here = Results.load(folder, scale, results, root=root, complete=False)
    sources.append((results / scale / folder.name / "repeats.json", here, results))
    written = Lock()

    def repeat(path: Path, stored: Sequence[StoredRecord], kept: Path | None) -> None:
        """Repeat runs of one experiment, the cheapest of those that wait at a time."""
        own: list[Repeat] = []
        while waiting := [item for item in stored if _wants(item, own, runs, read_tree(root))]:
            item = min(waiting, key=lambda item: item.record.provenance.cpu_s)
            own.append(_repeat(item, _twice(item.record, scratch, kept, root)))
            with written:
                add_repeat(path, own[-1], read_tree(root))
            log.info("%s: %s", item.name, own[-1].outcome)
        made.extend(own)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [
            pool.submit(repeat, path, source.records(name), kept)
            for name in experiments or known
            for path, source, kept in sources
        ]
        for future in futures:
            future.result()
    return made


def _wants(item: StoredRecord, made: Sequence[Repeat], runs: int, tree: Tree) -> bool:
    """Whether a stale record has too few repeats that speak of it, and is not among them."""
    record, changed = item.record, item.changes.code
    if not changed or item.changes.settings:
        return False
    # One that differed is tried again: its cause may have been mended outside of what it ran.
    kept = [one for one in item.repeats if one.agrees]
    speak = [*kept, *(one for one in made if one.speaks_of(record, changed, tree))]
    itself = any(one.place[1:] == (record.case, record.arm, record.seed) for one in speak)
    return len(speak) < runs and not itself


def _twice(record: Record, scratch: Path, results: Path | None, root: Path) -> Replayed:
    scratch = scratch.resolve()
    return beside_old_code(record, replay(record, scratch, results, root), scratch, root)


def _repeat(item: StoredRecord, replayed: Replayed) -> Repeat:
    record, again = item.record, replayed.record.provenance
    return Repeat(
        experiment=record.experiment,
        case=record.case,
        arm=record.arm,
        seed=record.seed,
        of=record.provenance.started_at,
        changed=list(item.changes.code),
        code=again.code,
        outcome=replayed.outcome,
        differences=replayed.differences,
        tolerance=TOLERANCE if replayed.outcome == "within tolerance" else 0.0,
        git_commit=again.git_commit,
        cpu=again.cpu,
        instructions=again.instructions,
        started_at=again.started_at,
        cpu_s=again.cpu_s,
    )


def _provide(key: RunKey, paper: Paper, scratch: Path, results: Path | None, root: Path) -> None:
    """Put a run that another one needs into ``scratch``: from ``results``, or made again."""
    with _making[key]:
        _provided(key, paper, scratch, results, root)


def _provided(key: RunKey, paper: Paper, scratch: Path, results: Path | None, root: Path) -> None:
    path = key.record(scratch / "results")
    if _is_today_s(path, paper, root):
        return
    if results is not None and key.record(results).is_file():
        shutil.copytree(key.record(results).parent, path.parent, dirs_exist_ok=True)
        return
    _run(key.paper, key.options, _threads(paper, key), scratch, root)


def _needed(key: RunKey, paper: Paper) -> list[RunKey]:
    """Runs that a run needs, as far as the paper still has it."""
    return paper.all_needed(key) if paper.has(key) else []


def _run(paper: str, words: Sequence[str], threads: int, scratch: Path, root: Path) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    program = str((root / "papers" / paper / "train.py").resolve())
    command = [sys.executable, program, *(_absolute(word) for word in words)]
    path = os.pathsep.join(filter(None, [str(root), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads))
    done = subprocess.run(
        command,
        cwd=scratch,
        env=os.environ | limits | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise InputError(f"{' '.join(words)}: ended with status {done.returncode}: {said[-1]}")


def _absolute(word: str) -> str:
    """A file that is named from the present folder, by its full path: the run is elsewhere."""
    return str(Path(word).resolve()) if Path(word).is_file() else word


def _without(words: Sequence[str], *options: str) -> list[str]:
    """A command line without these options and their values."""
    kept, skip = [], False
    for word in words:
        if skip or word in options:
            skip = not skip
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept


def _is_today_s(path: Path, paper: Paper, root: Path) -> bool:
    """Whether a run lies there that was made with the code and settings of the checkout."""
    try:
        return changes(read_record(path), paper, read_tree(root)) == Changes((), False)
    except InputError:
        return False


def _threads(paper: Paper, key: RunKey, record: Record | None = None) -> int:
    """Threads that a run is given: those of the record, if it notes them."""
    if record is not None and record.provenance.threads:
        return record.provenance.threads
    known = paper.has(key)
    return paper.resources(key.experiment, key.case, key.scale).threads if known else 1  # type: ignore[arg-type]


def _timed(paper: Paper, key: RunKey) -> list[str]:
    """Patterns of what measures the machine, in a run's experiment and in its case."""
    if key.experiment not in paper.experiments:
        return []
    study = paper.experiments[key.experiment]
    own = study.cases[key.case].timed if key.case in study.cases else []
    return [*study.timed, *own]
