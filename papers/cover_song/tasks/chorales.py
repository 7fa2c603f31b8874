"""Bach's four-part chorales as notes, and which of them set one tune.

Scores are those that music21 bundles. Two settings share a tune if the soprano's intervals
from beat to beat agree; keys drop out. Harmony and rhythm differ: covers with a known truth.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir

log = logging.getLogger("chorales")
#: Share of soprano intervals that agree in two settings of one tune.
SAME_TUNE: Final = 0.75
PARTS: Final = 4


class Chorale(NamedTuple):
    """Name; notes (n, 4): part (0 is the soprano), start and duration in quarters, MIDI number."""

    name: str
    notes: NDArray[np.float64]


def load_chorales(advance: Callable[[int], object] | None = None) -> list[Chorale]:
    """All four-part scores of Bach in music21's corpus, sorted by name.

    Parsing takes minutes, so the notes are kept in the user's cache, by version of music21.
    """
    import music21

    place = Path(
        os.environ.get("REPRO_CACHE") or user_cache_dir("paper-reproductions"),
        f"chorales-{music21.__version__}.json",
    )
    try:
        stored: list[Any] = json.loads(place.read_text(encoding="utf8"))
        return [Chorale(name, np.array(notes, dtype=np.float64)) for name, notes in stored]
    except (OSError, ValueError):
        log.info("%s: not there yet; parsing scores", place)
    found = []
    for path in sorted(music21.corpus.getComposer("bach")):
        chorale = _parsed(Path(path))
        if chorale is not None:
            found.append(chorale)
        if advance:
            advance(1)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(descriptor, "w", encoding="utf8") as stream:
            json.dump([(each.name, each.notes.tolist()) for each in found], stream)
        Path(name).replace(place)
    except OSError as error:
        log.warning("%s: notes are not kept (%s)", place, error.strerror)
    return found


def _parsed(path: Path) -> Chorale | None:
    """None for a score that has not four parts."""
    import music21

    score = music21.converter.parse(path)
    parts = list(score.parts)  # type: ignore[union-attr]
    if len(parts) != PARTS:
        return None
    rows = []
    for number, part in enumerate(parts):
        for element in part.flatten().notes:
            start, duration = float(element.offset), float(element.quarterLength)
            if duration > 0:
                rows += [(number, start, duration, pitch.midi) for pitch in element.pitches]
    if not rows:
        return None
    return Chorale(path.stem, np.array(rows, dtype=np.float64))


def tune_intervals(chorale: Chorale) -> list[int]:
    """Semitones between the soprano's notes on successive beats, without repeated notes' zeros."""
    notes = chorale.notes[chorale.notes[:, 0] == 0]
    notes = notes[np.argsort(notes[:, 1], kind="stable")]
    if not len(notes):
        return []
    beats = np.arange(np.ceil(notes[0, 1]), notes[-1, 1] + notes[-1, 2])
    places = np.searchsorted(notes[:, 1], beats, side="right") - 1
    return np.diff(notes[places, 3]).astype(int).tolist()  # type: ignore[no-any-return]


def group_by_tune(tunes: list[list[int]]) -> NDArray[np.int64]:
    """A number for each tune, the same for settings that share it, also by way of a third: (n,)."""
    group = np.arange(len(tunes))
    for i, first in enumerate(tunes):
        matcher = difflib.SequenceMatcher(autojunk=False)
        matcher.set_seq2(first)  # type: ignore[arg-type]
        for j in range(i + 1, len(tunes)):
            if group[i] == group[j]:
                continue
            matcher.set_seq1(tunes[j])  # type: ignore[arg-type]
            # The two cheap bounds first.
            if (
                matcher.real_quick_ratio() > SAME_TUNE
                and matcher.quick_ratio() > SAME_TUNE
                and matcher.ratio() > SAME_TUNE
            ):
                group[group == group[j]] = group[i]
    return group
