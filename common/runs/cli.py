"""Command line of a paper: ``python papers/<paper>/train.py EXPERIMENT --case C --arm A ...``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from common.errors import InputError
from common.experiments.documents import user_path
from common.experiments.schema import SCALES, Case, Paper, RunKey, load_paper
from common.experiments.settings import parse_overrides, validated
from common.runs.files import disk_failure
from common.runs.programs import Program, Programs
from common.runs.run import Run


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog}: {message} (--help explains)")


def _refuse(message: str) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def guarded(main: Callable[[], None]) -> NoReturn:
    """Run ``main`` and exit: 0, or 2 with one line on standard error.

    The line is for unusable input and for what the operating system refuses: a full disk, a file or
    folder that may not be read or written.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        main()
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        reason = error.strerror if error.filename is not None else disk_failure(error)
        if not reason:
            raise  # no file is named: a traceback tells more
        named = [str(name) for name in (error.filename, error.filename2) if name is not None]
        _refuse(": ".join((*named, reason)))
    except KeyboardInterrupt:
        print("interrupted; the same command starts again or resumes", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def folder(text: str) -> Path:
    """A folder named on the command line: argparse's ``type`` of such options."""
    try:
        return user_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def paper_parser(paper: Paper) -> tuple[Parser, argparse._SubParsersAction[Parser]]:
    """Parser of a paper's train.py with one sub-command per experiment; commands can be added."""
    parser = Parser(
        description=f"{paper.title} ({paper.publication})",
        epilog="Each sub-command has its own --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, experiment in paper.experiments.items():
        parts = "\n\n".join(
            f"{kind}:\n" + "\n".join(f"  {part:24} {title}" for part, title in titles.items())
            for kind, titles in (
                ("cases", {name: _titles(case) for name, case in experiment.cases.items()}),
                ("arms", {name: arm.title for name, arm in experiment.arms.items()}),
            )
        )
        command = commands.add_parser(
            name,
            help=f"{experiment.title} ({experiment.source})",
            description=f"{experiment.title} ({experiment.source})\n\n{parts}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument(
            "--case",
            metavar="CASE",
            help="one of the cases above; may be left out where one alone runs at the scale",
        )
        command.add_argument("--arm", required=True, metavar="ARM", help="one of the arms above")
        command.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
        command.add_argument("--scale", choices=SCALES, default="laptop", help="default: laptop")
        command.add_argument(
            "--out", type=folder, help="folder of the record (default: results/...)"
        )
        command.add_argument(
            "--work",
            type=folder,
            help="folder in which the run keeps a folder of resume state (default: work/...)",
        )
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a setting; may be given several times",
        )
    return parser, commands


def _titles(case: Case) -> str:
    """A case's titles at the scales at which it runs, in one line."""
    return " / ".join(dict.fromkeys(case.title_at(scale) for scale in case.at))


def run_experiment(
    paper: Paper, programs: Mapping[str, Program], options: argparse.Namespace
) -> Path:
    """Run the experiment named on the command line; returns the path of its record."""
    experiment = paper.experiments[options.command]
    if options.arm not in experiment.arms:
        raise InputError(f"--arm {options.arm!r}: must be one of {', '.join(experiment.arms)}")
    where = f"--case of {options.command} at {options.scale}"
    case = experiment.case(options.case, where, options.scale)
    if options.scale not in experiment.cases[case].at:
        there = [name for name, body in experiment.cases.items() if options.scale in body.at]
        raise InputError(f"{where}: {case} does not run there; allowed: {', '.join(there)}")
    where = f"experiments.yaml: {paper.paper}.{options.command}"
    if experiment.program not in programs:
        raise InputError(
            f"{where}: key 'program': must be one of {', '.join(programs)},"
            f" got {experiment.program!r}"
        )
    program = programs[experiment.program]
    chosen = (options.command, case, options.arm, options.scale)
    where = f"{where}.{case}.{options.arm} at {options.scale}"
    settings = validated(program.settings, paper.settings(*chosen), where)
    if options.set:
        raw = paper.settings(*chosen, parse_overrides(options.set))
        settings = validated(program.settings, raw, "--set")
    key = RunKey(paper.paper, options.command, case, options.arm, options.seed, options.scale)
    out = options.out or Path("results") / key.folder
    # A folder of the run's own below a given one: what else lies there is not the run's to remove.
    work = options.work and options.work / key.folder
    with Run(key, experiment.program, settings, out, work, paper.needed(key)) as run:
        record = run.finish(program.run(settings, run))
    logging.getLogger("run").info("wrote %s", record)
    return record


def paper_main(
    folder: Path,
    argv: Sequence[str] | None = None,
    programs: Mapping[str, Program] | None = None,
) -> None:
    """Entry point of a paper that has no commands of its own.

    Args:
        programs: instead of those in the paper's ``experiments/``.
    """
    paper = load_paper(folder)
    parser, _ = paper_parser(paper)
    run_experiment(paper, programs or Programs(folder), parser.parse_args(argv))
