"""What all papers together have reached: coverage, verdicts and benchmarks, as four files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

from common.errors import InputError
from common.experiments.documents import read_json
from common.experiments.schema import Paper, Scale, find_papers, load_paper
from common.experiments.settings import validated
from common.results.benchmarks import BenchmarkRow
from common.results.claims import Judged, Verdict, chance
from common.runs.dag import SUFFIXES
from common.runs.files import write_atomically

#: Between them stands the list of papers.
README_MARKS: Final = ("<!-- papers: python -m common.results readme -->", "<!-- end of papers -->")


def target_file(results: Path, scale: str, paper: Paper, target: str) -> Path:
    """The JSON of a target: it exists if the target is built."""
    kind = paper.targets[target].kind
    return results / scale / paper.paper / f"{kind}s" / f"{target}.{SUFFIXES[kind][0]}"


def coverage(paper: Paper, scale: Scale, results: Path) -> dict[str, Any]:
    """How many of the paper's own tables and figures are built, and why the others are not."""
    own = {name: body for name, body in paper.targets.items() if body.in_paper}
    absent = [name for name in own if not target_file(results, scale, paper, name).is_file()]
    missing = [
        {"name": item.name, "title": item.title, "reason": item.reason}
        for item in paper.not_rebuilt
    ]
    missing += [
        {"name": name, "title": own[name].title, "reason": f"not built yet at scale {scale}"}
        for name in absent
    ]
    return {
        "targets": len(own) + len(paper.not_rebuilt),
        "rebuilt": len(own) - len(absent),
        "not_rebuilt": missing,
    }


def list_papers(root: Path) -> str:
    """The papers below ``root`` as a Markdown table: publication, and how much of it is rebuilt."""
    lines = ["| package | publication | tables and figures |", "| --- | --- | --- |"]
    for folder in find_papers(root):
        paper = load_paper(folder)
        own = sum(target.in_paper for target in paper.targets.values())
        link = f"[papers/{folder.name}](papers/{folder.name}/README.md)"
        reached = f"{own} of {own + len(paper.not_rebuilt)}"
        said = f"{reached}: {paper.summary}" if paper.summary else reached
        lines.append(f"| {link} | {paper.title}, {paper.publication} | {said} |")
    return "\n".join(lines) + "\n"


def write_readme(root: Path) -> Path:
    """Put :func:`list_papers` between the marks in ``README.md``; returns its path.

    Raises:
        InputError: there are no marks.
    """
    path = root / "README.md"
    text = path.read_text(encoding="utf8")
    start, end = (text.find(mark) for mark in README_MARKS)
    if not 0 <= start < end:
        raise InputError(f"{path}: needs the lines {README_MARKS[0]} and {README_MARKS[1]}")
    start += len(README_MARKS[0])
    write_atomically(path, f"{text[:start]}\n\n{list_papers(root)}\n{text[end:]}")
    return path


def judged_claims(results: Path, scale: str, paper: str) -> list[Judged]:
    """Verdicts of one paper; empty where none are written."""
    path = results / scale / paper / "claims.json"
    return [validated(Judged, item, str(path)) for item in _read_list(path)]


def verdicts(judged: Sequence[Judged]) -> dict[str, Any]:
    """How many claims hold, fail and are undecided, and how many would by chance alone."""
    counts = Counter(item.verdict for item in judged)
    return {
        **{name: counts[name] for name in get_args(Verdict)},
        "chance": chance(judged),
    }


def benchmark_rows(results: Path, scale: str, paper: str) -> list[BenchmarkRow]:
    """Rows of a paper's benchmarks, by name of the benchmark."""
    paths = sorted((results / scale / paper / "benchmarks").glob("*.json"))
    return [validated(BenchmarkRow, row, str(path)) for path in paths for row in _read_list(path)]


def write_summary(root: Path, scale: Scale, results: Path) -> list[Path]:
    """Write coverage, claims, verdicts and benchmarks of all papers, each as a JSON file."""
    papers = [load_paper(folder) for folder in find_papers(root)]
    names = [paper.paper for paper in papers]
    judged = [item for name in names for item in judged_claims(results, scale, name)]
    contents: dict[str, Any] = {
        "coverage": {paper.paper: coverage(paper, scale, results) for paper in papers},
        "claims": [item.model_dump(mode="json") for item in judged],
        "verdicts": verdicts(judged),
        "benchmarks": [
            row.model_dump(mode="json")
            for name in names
            for row in benchmark_rows(results, scale, name)
        ],
    }
    return [
        write_json(results / scale / f"{name}.json", content) for name, content in contents.items()
    ]


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as JSON, atomically; returns ``path``."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def _read_list(path: Path) -> list[Any]:
    if not path.exists():
        return []
    data = read_json(path, "JSON")
    if not isinstance(data, list):
        raise InputError(f"{path}: must hold a list")
    return data
