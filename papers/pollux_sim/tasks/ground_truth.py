"""Which applications a run simulates: the measured traces, or formulas fitted to them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from common.runs.files import file_sha256
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.pollux_sim.applications.applications import Application
from papers.pollux_sim.applications.parametric import FITTED, load_parametric
from papers.pollux_sim.applications.traces import load_traces

Source = Literal["traces", "fitted"]


def load_applications(
    source: Source, run: Run, data_root: str | None = None
) -> dict[str, Application]:
    """All six applications, noting in ``run`` what was read.

    Raises:
        InputError: the traces are asked for and absent or malformed.
    """
    if source == "fitted":
        run.uses(
            DataIdentity(
                name="applications fitted to the traces",
                real=False,
                source="bundled",
                sha256={FITTED.name: file_sha256(FITTED)},
            )
        )
        return load_parametric()
    folder = pollux_folder(data_root)
    traces = sorted(path.relative_to(folder).as_posix() for path in folder.glob("traces/*/*.csv"))
    note_files(run, traces, data_root)
    return load_traces(folder)


def pollux_folder(data_root: str | None = None) -> Path:
    """Where the artifact's data lies. Raises InputError that says how to get it."""
    from common.data.registry import find

    return find("pollux", Path(data_root) if data_root else None)


def note_files(run: Run, names: list[str], data_root: str | None = None) -> None:
    """Note registered files that ``run`` reads. Raises InputError if one was altered."""
    from common.data.registry import identity

    run.uses(identity("pollux", names, Path(data_root) if data_root else None))
