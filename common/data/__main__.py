"""``python -m common.data``: list, fetch and verify data sets."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import yaml
from tabulate import tabulate

from common.data.download import fetch
from common.data.registry import DataSet, located, registry, verify
from common.errors import InputError
from common.runs.cli import Parser, folder, guarded
from common.runs.files import file_sha256


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the command line names."""
    options = parser().parse_args(argv)
    options.run(options)


def parser() -> Parser:
    """Parser of all commands."""
    top = Parser(
        prog="python -m common.data",
        description="Data sets: what is registered, from its home to this machine, checked.",
        epilog="Each command has its own --help.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(run: Callable[[argparse.Namespace], None]) -> Parser:
        name = run.__name__.removesuffix("_command")
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        return command

    listing, fetching, verifying = add(list_command), add(fetch_command), add(verify_command)
    for command in (listing, fetching, verifying):
        command.add_argument(
            "--data-root",
            type=folder,
            metavar="DIR",
            help="folder that holds the sets (default: REPRO_DATA, else the user's cache)",
        )
    fetching.add_argument("names", nargs="+", metavar="NAME", help="a set that `list` shows")
    verifying.add_argument("names", nargs="*", metavar="NAME", help="a set that `list` shows")
    verifying.add_argument("--all", action="store_true", help="every set that lies here")
    add(manifest_command).add_argument("folder", type=folder, metavar="FOLDER")
    return top


def list_command(options: argparse.Namespace) -> None:
    """List the registered data sets, their size in MB, licence and where they lie."""
    rows = [
        (entry.name, megabytes(entry), where(entry, options.data_root), entry.licence, entry.title)
        for entry in registry().values()
    ]
    print(tabulate(rows, headers=("name", "MB", "where", "licence", "title"), tablefmt="plain"))


def fetch_command(options: argparse.Namespace) -> None:
    """Download data sets from their homes, with checksums."""
    for name in options.names:
        print(fetch(name, options.data_root))


def verify_command(options: argparse.Namespace) -> None:
    """Check every file of data sets; exit status 1 if one is missing or wrong."""
    if options.all == bool(options.names):
        raise InputError("verify: give names of data sets, or --all")
    here = [name for name in registry() if located(name, options.data_root)]
    if options.all and not here:
        raise InputError("verify --all: no registered data set lies here (`list` shows where)")
    wrong = False
    for name in options.names or here:
        files = verify(name, options.data_root)
        for file in files:
            if file.status != "ok":
                print(f"{name}/{file.path}: " + ": ".join(filter(None, (file.status, file.detail))))
        good = sum(file.good for file in files)
        wrong |= good < len(files)
        print(f"{name}: {good} of {len(files)} files good")
    if wrong:
        sys.exit(1)


def manifest_command(options: argparse.Namespace) -> None:
    """Print the `files` section of a manifest for a folder (its README.md is left out)."""
    if not options.folder.is_dir():
        raise InputError(f"{options.folder}: no such folder")
    files = {
        path.relative_to(options.folder).as_posix(): {
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
        }
        for path in files_below(options.folder)
        if path != options.folder / "README.md"
    }
    text = yaml.safe_dump({"files": files}, sort_keys=False, default_flow_style=None, width=1000)
    print(text, end="")


def files_below(top: Path) -> list[Path]:
    """Every file below a folder, sorted.

    Raises:
        InputError: something is neither a file nor a folder: a pipe, say, or a link to nowhere.
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> NoReturn:
        raise error

    inside = [Path(at, name) for at, _, names in os.walk(top, onerror=refuse) for name in names]
    for path in inside:
        if not path.is_file():
            raise InputError(f"{path}: is neither a file nor a folder")
    return sorted(inside)


def megabytes(entry: DataSet) -> str:
    """Size of the set in its first layout, where it is known."""
    sizes = [file.bytes for file in next(iter(entry.layouts.values())).contents.values()]
    known = [size for size in sizes if size is not None]
    return f"{sum(known) / 1e6:.1f}" if len(known) == len(sizes) else "unknown"


def where(entry: DataSet, root: Path | None) -> str:
    """Folder of the set, or how to come by it."""
    found = located(entry.name, root)
    if found:
        return str(found)
    free = any(layout.has_home for layout in entry.layouts.values())
    return "(fetch)" if free else "(by hand)"


if __name__ == "__main__":
    guarded(main)
