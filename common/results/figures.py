"""Figures in one style, written so that equal content gives equal bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from pydantic import Field

from common.experiments.schema import Paper
from common.experiments.settings import Settings
from common.results.lineage import Runs, list_runs
from common.results.records import Context, Results
from common.results.targets import context_notes, read_as
from common.runs.files import write_atomically

STYLE: Final = Path(__file__).with_name("style.mplstyle")
#: Of animations: how long a frame stands, and the last one; how often they play before they rest.
FRAME_MS, LAST_FRAME_MS, ROUNDS = 120, 1500, 3
#: Okabe and Ito's palette in the order of the style file.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
LINES: Final = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class FigureWithCaption:
    """A figure, what a reader should see in it, and a description for those who cannot see it.

    ``frames`` are figures of the same size that are shown before it, one after another: its PNG is
    then an animation, which ends at the figure after :data:`ROUNDS` rounds.
    """

    figure: Figure
    caption: str
    alt: str
    frames: tuple[Figure, ...] = ()


class FigureNote(Settings):
    """What stands beside a figure's image files: caption, alt text, what it was made from."""

    paper: str
    target: str
    title: str
    source: str
    caption: str
    alt: str
    width_px: int
    height_px: int
    animated: bool = Field(False, description="the PNG is an animation; the SVG its last frame")
    notes: list[str]
    context: Context
    runs: list[Runs] = Field([], description="records that were read to draw it")


def arm_styles(paper: Paper) -> dict[str, dict[str, Any]]:
    """Colour, marker and line style of each arm, the same in every figure of the paper.

    Returns:
        Keyword arguments of ``Axes.plot`` by arm; arms of one name in two experiments share them.
    """
    studies = paper.experiments.values()
    names = dict.fromkeys(arm for study in studies for arm in study.arms)
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": LINES[i // len(COLOURS) % len(LINES)],
        }
        for i, name in enumerate(names)
    }


def build(
    function: Callable[[Results], Figure | FigureWithCaption],
    results: Results,
    target: str,
    folder: Path,
) -> list[Path]:
    """Draw a paper's figure from ``results`` in the shared style and write it to ``folder``."""
    with plt.style.context(["default", STYLE]):
        with results.reading() as read:
            drawn = function(results)
        body = results.paper.targets[target]
        if isinstance(drawn, Figure):
            drawn = FigureWithCaption(drawn, body.title, f"{body.source}: {body.title}")
        width, height = (round(100 * inches) for inches in drawn.figure.get_size_inches())
        context = results.context()
        note = FigureNote(
            paper=results.paper.paper,
            target=target,
            title=body.title,
            source=body.source,
            caption=drawn.caption,
            alt=drawn.alt,
            width_px=width,
            height_px=height,
            animated=bool(drawn.frames),
            notes=[*context_notes(context, True), *([body.note] if body.note else [])],
            context=context,
            runs=list_runs(read),
        )
        try:
            return save(drawn.figure, folder, target, note, drawn.frames)
        finally:
            for each in (drawn.figure, *drawn.frames):
                plt.close(each)


def save(
    figure: Figure, folder: Path, target: str, note: FigureNote, frames: Sequence[Figure] = ()
) -> list[Path]:
    """Write ``<target>.png``, ``.svg`` and ``.json``, the JSON last; returns their paths.

    With ``frames`` the PNG is an animation of them and the figure. The bytes hold no date and no
    random identifier.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    metadata: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
    for suffix in ("png", "svg"):
        image = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": target}):
            figure.savefig(image, format=suffix, metadata=metadata[suffix])
        if suffix == "png" and frames:
            image = _animation(frames, image)
        path = folder / f"{target}.{suffix}"
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_bytes(image.getvalue())
        temporary.replace(path)
        written.append(path)
    path = folder / f"{target}.json"
    write_atomically(path, json.dumps(note.model_dump(mode="json"), indent=1) + "\n")
    return [*written, path]


def _animation(frames: Sequence[Figure], last: io.BytesIO) -> io.BytesIO:
    """An animated PNG of frames of one size and an image that stands longer, at the end."""
    images = []
    for frame in frames:
        drawn = io.BytesIO()
        frame.savefig(drawn, format="png", metadata={"Software": None})
        images.append(drawn)
    first, *others = [Image.open(image).convert("RGB") for image in (*images, last)]
    made = io.BytesIO()
    durations = [FRAME_MS] * len(frames) + [LAST_FRAME_MS]
    first.save(made, "PNG", save_all=True, append_images=others, duration=durations, loop=ROUNDS)
    return made


def read_note(path: Path) -> FigureNote:
    """The note beside a figure. Raises InputError if it is not one."""
    return read_as(FigureNote, path, "the note of a figure")
