"""What the Snakefiles know about papers: paths, parameters and the environment of jobs.

Rules stand in ``Snakefile`` and ``workflow/paper.smk``; everything they compute stands here.
Light on imports, because every start of Snakemake reads it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from common import ROOT
from common.errors import InputError
from common.experiments.documents import read_yaml
from common.experiments.schema import Experiment, Paper, RunKey, Scale, load_paper
from common.experiments.settings import Settings, validated
from common.runs.imports import loaded_files

#: Modules that make a target of records besides the paper's own, by its kind.
MAKERS: Final = {
    "table": ("common.results.tables", "common.results.table_files"),
    "figure": ("common.results.figures",),
    "listing": ("common.results.listings",),
}
#: What shapes a target besides modules, by its kind.
STYLES: Final = {
    "table": (),
    "figure": ("common/results/style.mplstyle",),
    "listing": ("common/results/report/page/*",),
}
#: Files that one target consists of, by its kind; the first is the one others depend on.
SUFFIXES: Final = {
    "table": ("json", "csv", "md", "tex"),
    "figure": ("json", "png", "svg"),
    "listing": ("json", "html"),
}


class Options(Settings):
    """What ``snakemake --config`` accepts."""

    scale: Scale = "laptop"


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn unusable input into one line and exit status 2, without Snakemake's traceback."""
    try:
        yield
    except InputError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None


def check_checkout(root: Path = ROOT) -> None:
    """Raise InputError where Snakemake cannot work: it takes braces in paths for its wildcards."""
    if set("{}") & set(str(root)):
        raise InputError(f"{root}: Snakemake needs a checkout without {{ or }} in its path")


def read_scale(config: Mapping[str, Any]) -> Scale:
    """The scale chosen by ``snakemake --config scale=...`` (default: laptop)."""
    return validated(Options, dict(config), "snakemake --config").scale


def job_environment() -> dict[str, str]:
    """Variables that make jobs use this Python and this checkout, from whatever folder."""

    def first(path: str | Path, variable: str) -> str:
        others = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
        return os.pathsep.join(dict.fromkeys([str(path), *others]))

    return {
        "PATH": first(Path(sys.executable).parent, "PATH"),
        "PYTHONPATH": first(ROOT, "PYTHONPATH"),
        "REPRO_PROGRESS": "0",
    }


def hold_lock(path: Path = Path(".snakemake/running")) -> None:
    """Hold the working directory for this process until it ends, however it ends.

    Snakemake's own lock outlives a killed process and then needs ``--unlock``; the kernel
    releases this one. Raises InputError while another Snakemake holds it.
    """
    path.parent.mkdir(exist_ok=True)
    stream = path.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: another snakemake is at work in this folder") from None
    _held.append(stream)


_held: list[Any] = []


def journal(scale: Scale) -> Path:
    """File to which the warm process adds what each job took, and Snakemake what it took itself."""
    return Path("logs", scale, "jobs.jsonl")


def measure_size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def warm_python(journal: Path) -> str:
    """Shell code after which ``python`` in a job's command is a fork of a process that is warm.

    Starts that process, which ends with this one. Where it does not answer, ``python`` is itself.

    Args:
        journal: file to which it adds what each job took.
    """
    journal = journal.absolute()
    name = f"paper-reproductions-{os.getpid()}-{secrets.token_hex(8)}"
    folder = ROOT / "workflow"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")  # abstract: it leaves no file behind
        listener.listen(128)
        server = subprocess.Popen(
            (sys.executable, folder / "warm_server.py", str(listener.fileno()), journal),
            stdin=subprocess.PIPE,
            pass_fds=(listener.fileno(),),
            start_new_session=True,
        )
    atexit.register(_end_server, server, journal, time.time())
    client = shlex.quote(str(folder / "warm_client.py"))
    return f'set -euo pipefail; python() {{ exec python -ISE {client} {name} "$@"; }};'


def _end_server(server: subprocess.Popen[bytes], journal: Path, started: float) -> None:
    """Wait for the warm process, to whose end it takes, and write down what this one took.

    ``server_cpu_s`` is that of the warm process and all of its forks.
    """

    def of_children() -> float:
        return os.times().children_user + os.times().children_system

    before = of_children()
    server.communicate()
    line = {
        "started": started,
        "ended": time.time(),
        "cpu_s": time.process_time(),
        "server_cpu_s": of_children() - before,
    }
    if journal.exists():  # else no job was forked
        with contextlib.suppress(OSError), journal.open("a", encoding="utf8") as stream:
            stream.write(json.dumps(line) + "\n")


class PaperJobs:
    """One paper at one scale: the files its rules read and write.

    Args:
        name: name of the paper's folder below ``papers/``.
        scale: scale of every path.
        root: root of the checkout.
    """

    def __init__(self, name: str, scale: Scale, root: Path = ROOT) -> None:
        self.paper: Paper = load_paper(root / "papers" / name)
        self.name, self.scale, self._root = name, scale, root
        self.folder = f"papers/{name}"
        self.results = f"results/{scale}/{name}"
        self.claims_file = f"{self.folder}/claims.yaml"
        self.has_claims = (root / self.claims_file).is_file()
        claims = read_yaml(root / self.claims_file) if self.has_claims else None
        self._claimed = set(_find_values("experiment", claims))

    def records(self, *experiments: str) -> list[str]:
        """Records of all runs of ``experiments``."""
        return [str(key.record()) for key in self.paper.runs(self.scale, experiments)]

    def needed(self, experiment: str, case: str, arm: str) -> list[str]:
        """Records that the runs of an arm read."""
        runs = self.paper.needed(RunKey(self.name, experiment, case, arm, 0, self.scale))
        return [str(key.record()) for keys in runs.values() for key in keys]

    def claim_records(self) -> list[str]:
        """Records of the experiments that ``claims.yaml`` names."""
        return self.records(*(name for name in self.paper.experiments if name in self._claimed))

    def names(self, kind: Literal["cases", "arms"]) -> str:
        """A regular expression of the names of all cases or arms."""
        studies = self.paper.experiments.values()
        names = {name for study in studies for name in getattr(study, kind)}
        return "|".join(map(re.escape, sorted(names)))

    def rendered(self, target: str) -> dict[str, str]:
        """Files of a target, by suffix."""
        kind = self.paper.targets[target].kind
        stem = f"{self.results}/{kind}s/{target}"
        return {suffix: f"{stem}.{suffix}" for suffix in SUFFIXES[kind]}

    def drawn_by(self, kind: str) -> list[str]:
        """Files that make targets of this kind out of records."""
        modules = (f"papers.{self.name}.targets.{kind}s", *MAKERS[kind])
        return [*loaded_files(*modules, root=self._root), *_matching(STYLES[kind], self._root)]

    def layout(self, target: str) -> str:
        """All that a target shows from ``experiments.yaml`` besides the records: titles, order."""
        body = self.paper.targets[target]
        studies = {name: self.paper.experiments[name] for name in body.experiments}
        shown = {name: self._titles(study) for name, study in studies.items()}
        return canonical({"target": body.model_dump(), "experiments": shown})

    def _titles(self, study: Experiment) -> dict[str, Any]:
        shown = {"title", "published", "smaller"}
        runs = study.runs(self.scale)
        parts = {
            "case": {case: study.cases[case].model_dump(include=shown) for case, _ in runs},
            "arm": {arm: study.arms[arm].model_dump(include=shown) for _, arm in runs},
        }
        return {"title": study.title, "source": study.source, "runs": runs, **parts}

    def settings(self, experiment: str, case: str, arm: str) -> str:
        """Raw settings of one arm in one case; a run is repeated when this text changes."""
        study = self.paper.experiments[experiment]
        settings = self.paper.settings(experiment, case, arm, self.scale)
        return canonical({"program": study.program, "settings": settings})

    def resource(self, experiment: str, case: str, name: str) -> int:
        """One of the resources that a run of a case asks for."""
        return int(getattr(self.paper.resources(experiment, case, self.scale), name))

    def benchmark(self, name: str) -> str:
        """Result of a benchmark."""
        return f"{self.results}/benchmarks/{name}.json"

    def products(self) -> list[str]:
        """The JSON of every target, and the verdicts on the claims."""
        verdicts = [f"{self.results}/claims.json"] if self.has_claims else []
        return [self.rendered(target)["json"] for target in self.paper.targets] + verdicts


@cache
def load_jobs(name: str, scale: Scale) -> PaperJobs:
    """One paper of this checkout: the Snakefile asks for it, and so does the paper's module."""
    return PaperJobs(name, scale)


def report_made_by(papers: Iterable[str], root: Path = ROOT) -> list[str]:
    """Files that make the report: it also holds tables of archived records."""
    tables = (f"papers.{name}.targets.tables" for name in papers)
    read = ("archive/*", "claims.yaml", "experiments.yaml", "published.csv")
    others = (*STYLES["listing"], *(f"papers/*/{name}" for name in read))
    return [
        *loaded_files("common.results.report.report", *tables, root=root),
        *_matching(others, root),
    ]


def present(scale: Scale, *patterns: str) -> str:
    """Names and checksums of the results that exist and that no rule asks for.

    Of benchmarks the report shows those that were run, of runs that were repeated what came out.
    """
    found = sorted(path for pattern in patterns for path in Path("results", scale).glob(pattern))
    return canonical({str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found})


def canonical(value: Any) -> str:
    """``value`` as JSON with sorted keys: equal text for equal content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _matching(patterns: Iterable[str], root: Path) -> list[str]:
    """Files below ``root``, as paths there."""
    found = (path for pattern in patterns for path in root.glob(pattern))
    return sorted(path.relative_to(root).as_posix() for path in found)


def _find_values(key: str, node: Any) -> Iterator[str]:
    """Every string under ``key``, at any depth."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield value
            else:
                yield from _find_values(key, value)
    elif isinstance(node, list):
        for item in node:
            yield from _find_values(key, item)
