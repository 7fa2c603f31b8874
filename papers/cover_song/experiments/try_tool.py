"""The program ``try_tool``: the command line on a folder of rendered files, its answers judged.

The folder holds works in several versions and single songs as FLAC, MP3 and OGG, a copy of one in
another format, a file that breaks off and one that is no audio.
"""

from __future__ import annotations

import io
import json
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import soundfile  # type: ignore[import-untyped]
from pydantic import Field

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training.data_order import mixed
from papers.cover_song import identify
from papers.cover_song.tasks.collections import CollectionSettings, made_up_performances
from papers.cover_song.tasks.synthetic.sound import RATE, render

FORMATS: Final = ("flac", "mp3", "ogg")
#: Names of the files that are no song of their own.
COPY, BROKEN, NOISE = "copy.ogg", "breaks_off.mp3", "no_audio.flac"


class TryTool(Settings):
    """Which songs, and the measure that the tool is asked for."""

    measure: Literal["qmax", "dmax", "simple", "dtw", "cnn"]
    seconds: int = Field(ge=32, le=180)
    works: int = Field(ge=2, description="with several versions")
    versions: int = Field(ge=2)
    singles: int = Field(ge=1)


def try_tool(settings: TryTool, run: Run) -> dict[str, float]:
    """Every song of the folder as a query against the others."""
    run.uses(DataIdentity.generated("made-up works, as audio files", run.seed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        works = _write_songs(settings, folder, run)
        printed = io.StringIO()
        options = ["--measure", settings.measure, "--top", str(len(works)), "--json", "--no-cache"]
        with redirect_stdout(printed):
            identify.main([name, *options])
    return judged(json.loads(printed.getvalue()), works)


def _write_songs(settings: TryTool, folder: Path, run: Run) -> dict[str, int]:
    """The work of each file by its name; of what can be used."""
    drawn = CollectionSettings(
        data="synthetic",
        seconds=settings.seconds,
        works=settings.works,
        versions=settings.versions,
        singles=settings.singles,
    )
    rng = np.random.default_rng(mixed(run.seed, 0))
    count = settings.works * settings.versions + settings.singles
    works = {}
    with run.progress(count, "rendering", "song") as bar:
        for number, (performance, work) in enumerate(made_up_performances(drawn, rng)):
            path = folder / f"{number:03d}.{FORMATS[number % len(FORMATS)]}"
            sound = render(performance, settings.seconds, rng)
            soundfile.write(path, sound, RATE)
            works[path.name] = work
            if number == 0:  # FLAC
                soundfile.write(folder / COPY, sound, RATE)
                works[COPY] = work
            bar.update()
    content = (folder / "001.mp3").read_bytes()
    (folder / BROKEN).write_bytes(content[: 2 * len(content) // 3])
    works[BROKEN] = works["001.mp3"]
    (folder / NOISE).write_bytes(b"no audio" * 1000)
    return works


def judged(report: dict[str, Any], works: dict[str, int]) -> dict[str, float]:
    """What the tool said, beside what is true.

    A copy is the same song again, and so is one that breaks off: neither is a cover of it, and
    candidates that are one are left out of ranks and counts. Where the tool set no threshold
    nothing is told of what it called a cover.

    Args:
        report: as ``--json`` prints it, of every song of a folder, with all candidates.
        works: of each file that can be used, by its name.
    """
    same = {frozenset(("000.flac", COPY)), frozenset(("001.mp3", BROKEN))}
    first, called, covers, others, queries = 0, 0, 0, 0, 0
    copies, wrong_copies = 0, 0
    for answer in report["queries"]:
        query = Path(answer["query"]).name
        rows = [(Path(row["path"]).name, row) for row in answer["results"]]
        for name, row in rows:
            if row["same_recording"]:
                copies += frozenset((query, name)) in same
                wrong_copies += frozenset((query, name)) not in same
        rows = [(name, row) for name, row in rows if frozenset((query, name)) not in same]
        right = [works[name] == works[query] for name, _ in rows]
        queries += any(right)
        first += bool(right) and right[0]
        covers += sum(right)
        said = [bool(row["cover"]) for _, row in rows]
        called += sum(cover and is_one for cover, is_one in zip(said, right, strict=True))
        others += sum(cover and not is_one for cover, is_one in zip(said, right, strict=True))
    asked = len(report["queries"])
    found = {}
    if report["threshold"] is not None:  # of thirty songs and more
        found = {
            "covers_called": called / covers,
            "others_called": float(others),
            "others_expected": asked * report["expected_false_alarms"],
        }
    return found | {
        "songs": float(asked),
        "queries_with_covers": float(queries),
        "first_is_cover": first / queries,
        "covers": float(covers),
        "copies_found": copies / (2 * len(same)),
        "copies_wrong": float(wrong_copies),
        "skipped": float(len(report["skipped"])),
        "warned": float(sum(bool(answer["warnings"]) for answer in report["queries"])),
    }


PROGRAM = Program(TryTool, try_tool)
