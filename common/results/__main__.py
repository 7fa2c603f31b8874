"""``python -m common.results``: from records to tables, figures, listings, verdicts, the report."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from common import ROOT
from common.errors import InputError
from common.experiments.documents import read_json
from common.experiments.schema import SCALES, find_papers, load_paper
from common.experiments.settings import validated
from common.results import claims, listings, table_files, tables
from common.results.benchmarks import BenchmarkRow
from common.results.evidence.archives import archive_path, read_archive, write_archive
from common.results.evidence.staleness import Changes
from common.results.records import Results, StoredRecord
from common.results.report.summary import write_json, write_readme, write_summary
from common.runs import cli
from common.runs.cli import Parser, guarded
from common.runs.dag import journal
from common.runs.record import Record

log = logging.getLogger("results")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the command line names."""
    options = parser().parse_args(argv)
    options.run(options)


def parser() -> Parser:
    """Parser of all commands."""
    top = Parser(
        prog="python -m common.results",
        description="From records to tables, figures, verdicts on claims, summaries, the report.",
        epilog="Each command has its own --help.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(run: Callable[[argparse.Namespace], None], *names: str) -> argparse.ArgumentParser:
        name = run.__name__.removesuffix("_command")
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        for argument in names:
            command.add_argument(argument, metavar=argument.upper(), help=_ARGUMENTS[argument])
        command.add_argument("--scale", choices=SCALES, default="laptop", help="default: laptop")
        command.add_argument(
            "--results",
            type=cli.folder,
            default=Path("results"),
            metavar="DIR",
            help="default: results",
        )
        command.add_argument(
            "--root", type=cli.folder, default=ROOT, metavar="DIR", help="default: the checkout"
        )
        command.set_defaults(run=run)
        return command

    add(table_command, "paper", "target")
    add(figure_command, "paper", "target")
    add(listing_command, "paper", "target")
    add(claims_command, "paper")
    add(benchmark_command, "paper", "name")
    add(archive_command, "paper")
    replay = add(replay_command, "record")
    replay.add_argument("--out", type=cli.folder, metavar="DIR", help="keep the new run there")
    recertify = add(recertify_command, "paper")
    recertify.add_argument(
        "--runs", type=positive, default=1, metavar="K", help="of each kind of change (default: 1)"
    )
    recertify.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="runs at once (default: 1)"
    )
    recertify.add_argument(
        "--experiments", nargs="+", metavar="NAME", help="those of the paper's alone (default: all)"
    )
    recertify.add_argument(
        "--work",
        type=cli.folder,
        default=Path("work/recertify"),
        metavar="DIR",
        help=_ARGUMENTS["work"],
    )
    add(readme_command)
    add(summary_command)
    add(house_time_command)
    add(report_command)
    add(check_command)
    return top


_ARGUMENTS = {
    "paper": "name of the paper's folder below papers/",
    "target": "name of a table, figure or listing in experiments.yaml",
    "name": "name of a benchmark in the paper's benchmarks/ratios.py",
    "record": "path of a record.json, or PAPER/EXPERIMENT/CASE/ARM/SEED of the archive of --scale",
    "work": "where the runs are made; those of an interrupted call are not repeated (%(default)s)",
}


def table_command(options: argparse.Namespace) -> None:
    """Build one table from records, as JSON, CSV, Markdown and LaTeX."""
    results = _target_results(options, "table")
    function = _function(options, "targets.tables", "TABLES", options.target)
    table = tables.build(function, results, options.target)
    _say(table_files.write(table, options.results / options.scale / options.paper / "tables"))


def figure_command(options: argparse.Namespace) -> None:
    """Draw one figure from records, as PNG and SVG."""
    from common.results import figures  # loads matplotlib, which verdicts and summaries need not

    results = _target_results(options, "figure")
    function = _function(options, "targets.figures", "FIGURES", options.target)
    folder = options.results / options.scale / options.paper / "figures"
    _say(figures.build(function, results, options.target, folder))


def listing_command(options: argparse.Namespace) -> None:
    """Set texts side by side, from records, as JSON and HTML."""
    results = _target_results(options, "listing")
    function = _function(options, "targets.listings", "LISTINGS", options.target)
    listing = listings.build(function, results, options.target)
    _say(listings.write(listing, options.results / options.scale / options.paper / "listings"))


def claims_command(options: argparse.Namespace) -> None:
    """Judge the paper's claims on its records."""
    folder = _folder(options)
    listed = claims.read_claims(folder)
    results = Results.load(
        folder, options.scale, options.results, claims.name_experiments(listed), options.root
    )
    judged = claims.judge_all(listed, results)
    path = options.results / options.scale / options.paper / "claims.json"
    write_json(path, [item.model_dump(mode="json") for item in judged])
    for item in judged:
        print(f"{item.verdict:10} {item.claim}: {item.inequality} (value {item.value}, n {item.n})")
    _say([path])


def benchmark_command(options: argparse.Namespace) -> None:
    """Run one benchmark beside its peers."""
    function = _function(options, "benchmarks.ratios", "BENCHMARKS", options.name)
    where = f"papers/{options.paper}/benchmarks/ratios.py: {options.name}"
    rows = [validated(BenchmarkRow, row, where) for row in function(options.scale)]
    folder = options.results / options.scale / options.paper / "benchmarks"
    _say([write_json(folder / f"{options.name}.json", [row.model_dump() for row in rows])])


def archive_command(options: argparse.Namespace) -> None:
    """Keep the paper's present records in its folder, beside those of other runs kept before."""
    folder = _folder(options)
    results = Results.load(
        folder, options.scale, options.results, root=options.root, complete=False
    )
    present = {item.record.key: item.record for item in results.stored}
    path = archive_path(folder, options.scale)
    before = {item.key: item for item in read_archive(path)} if path.is_file() else {}
    gone = [key.place for key in before if not results.paper.has(key)]
    if gone:
        names = ", ".join(dict.fromkeys(gone))
        log.warning("%s: dropped, experiments.yaml has no such runs: %s", path, names)
    kept = {key: record for key, record in before.items() if results.paper.has(key)} | present
    write_archive(path, sorted(kept.values(), key=lambda item: (item.key.place, item.seed)))
    new = len(present.keys() - before.keys())
    print(f"{len(kept)} records: {new} new, {len(present) - new} made again")
    _say([path])


def replay_command(options: argparse.Namespace) -> None:
    """Run a record's command again, elsewhere, and say whether it gives the same."""
    from common.results.evidence.replay import find_record, replay

    record, results = find_record(options.record, options.scale, options.root)
    with contextlib.ExitStack() as stack:
        scratch = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        replayed = replay(record, scratch, results, options.root)
    print(f"{record.key.place}/seed{record.seed}: {replayed.outcome}")
    for line in replayed.differences:
        print(f"  {line}")
    if replayed.outcome == "different":
        raise InputError(f"{options.record}: made again, it is different (see above)")


def recertify_command(options: argparse.Namespace) -> None:
    """Repeat runs whose code has changed since, and write down whether they give the same."""
    from common.results.evidence.replay import recertify

    folder = _folder(options)
    made = recertify(
        folder,
        options.scale,
        options.runs,
        options.work / options.scale,
        options.results,
        options.root,
        options.jobs,
        options.experiments,
    )
    for repeat in made:
        print(f"{repeat.outcome:17} {'/'.join(repeat.place[:3])}/seed{repeat.seed}")
        for line in repeat.differences:
            print(f"  {line}")
    if not made:
        print("nothing to repeat")
    different = [item for item in made if not item.agrees]
    if different:
        raise InputError(f"{len(different)} of {len(made)} repeated runs are different (see above)")


def readme_command(options: argparse.Namespace) -> None:
    """Put the list of papers into README.md."""
    _say([write_readme(options.root)])


def summary_command(options: argparse.Namespace) -> None:
    """Write coverage, verdicts and benchmarks of all papers."""
    _say(write_summary(options.root, options.scale, options.results))


def house_time_command(options: argparse.Namespace) -> None:
    """Write where processor time went: in runs, and in what surrounds them."""
    from common.results.report.house_time import house_time

    lines = options.results.parent / journal(options.scale)
    found = house_time(options.root, options.scale, options.results, lines)
    path = options.results / options.scale / "house_time.json"
    _say([write_json(path, found.model_dump(mode="json"))])


def report_command(options: argparse.Namespace) -> None:
    """Write the report: one self-contained HTML file."""
    from common.results.report.report import write_report

    _say([write_report(options.root, options.scale, options.results, _paper_module)])


def check_command(options: argparse.Namespace) -> None:
    """Check every record of a scale: its form by the published schema, its place, its files."""
    import jsonschema

    schema = json.loads((ROOT / "workflow/schema/record.schema.json").read_text(encoding="utf8"))
    validator = jsonschema.Draft202012Validator(schema)
    paths = sorted((options.results / options.scale).rglob("record.json"))
    if not paths:
        raise InputError(f"{options.results / options.scale}: holds no records to check")
    broken = []
    for path in paths:
        try:
            data = read_json(path, "a record")
            faults = [f"{path}: {at.json_path}: {at.message}" for at in validator.iter_errors(data)]
            if not faults:
                _check_place(path, validated(Record, data, str(path)), options.results)
            broken += faults
        except InputError as error:
            broken.append(str(error))
    if broken:
        raise InputError("; ".join(broken))
    print(f"{len(paths)} records conform")


def positive(text: str) -> int:
    """A number of the command line that is at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _check_place(path: Path, record: Record, results: Path) -> None:
    """Raise InputError if ``path`` is not this record's, or if its artifacts are not beside it."""
    if record.key.record(results) != path:
        raise InputError(f"{path}: is the record of another run, {record.key.folder}")
    StoredRecord(record, path.parent, Changes((), False)).check_artifacts()


def _folder(options: argparse.Namespace) -> Path:
    """Folder of the paper. It is named, not pointed at: its name is part of paths to write to."""
    known = {folder.name: folder for folder in find_papers(options.root)}
    if options.paper not in known:
        names = ", ".join(known) or "none"
        raise InputError(f"paper {options.paper!r}: must be one of {names}")
    return known[options.paper]


def _target_results(options: argparse.Namespace, kind: str) -> Results:
    folder = _folder(options)
    targets = load_paper(folder).targets
    known = [name for name, body in targets.items() if body.kind == kind]
    if options.target not in known:
        raise InputError(f"{kind} {options.target!r}: must be one of {', '.join(known) or 'none'}")
    needed = targets[options.target].experiments
    return Results.load(folder, options.scale, options.results, needed, options.root)


def _function(options: argparse.Namespace, module: str, mapping: str, name: str) -> Any:
    """The function that a paper's module gives for ``name``."""
    _folder(options)
    functions = getattr(_paper_module(options.root, options.paper, module), mapping, {})
    if name not in functions:
        known = ", ".join(functions) or "none"
        raise InputError(
            f"{_locate(options.paper, module)}: {mapping} has no {name!r}; it has {known}"
        )
    return functions[name]


def _locate(paper: str, module: str) -> Path:
    return Path("papers", paper, *module.split(".")).with_suffix(".py")


def _paper_module(root: Path, paper: str, module: str) -> ModuleType:
    """``papers.<paper>.<module>`` below ``root``, which may be another tree than this checkout."""
    file = root / _locate(paper, module)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    sys.path.insert(0, str(root.resolve()))
    package = importlib.import_module("papers")
    folder = str((root / "papers").resolve())
    if folder not in package.__path__:
        package.__path__.insert(0, folder)
    return importlib.import_module(f"papers.{paper}.{module}")


def _say(paths: list[Path]) -> None:
    for path in paths:
        print(path)


if __name__ == "__main__":
    guarded(main)
