"""Made-up works: form, chords and melody, by genre.

Works of a genre often have the same chords; melody, order of sections and changes must tell them
apart, as in popular music.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

#: Beats of a bar; bars of a section.
BEATS: Final = 4
BARS: Final = 8
MAJOR: Final = (0, 2, 4, 5, 7, 9, 11)
MINOR: Final = (0, 2, 3, 5, 7, 8, 10)
#: Intro, verse, chorus, bridge, solo, outro.
FORMS: Final = ("IVCVCBCO", "IVVCVCSCO", "VCVCBCC", "IVCVCSCO", "IVVCBVCO", "VVCVCSVC")
SUNG: Final = "VCB"


@dataclass(frozen=True)
class Genre:
    """Scale, loops of four scale degrees (from 0), and the range of beats per minute."""

    name: str
    scale: tuple[int, ...]
    loops: tuple[tuple[int, int, int, int], ...]
    tempo: tuple[float, float]


GENRES: Final = (
    Genre("pop", MAJOR, ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 5, 4)), (95, 130)),
    Genre("rock", MINOR, ((0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 6, 2), (0, 5, 6, 0)), (110, 150)),
    Genre("ballad", MAJOR, ((0, 2, 3, 4), (3, 0, 3, 4), (5, 4, 3, 4), (0, 5, 1, 4)), (65, 85)),
    Genre("folk", MAJOR, ((0, 0, 3, 4), (0, 3, 0, 4), (0, 4, 3, 0), (0, 3, 4, 3)), (85, 115)),
)


@dataclass(frozen=True)
class Note:
    """Of a melody: start and duration in beats of its section; scale step, 0 is the tonic."""

    start: float
    duration: float
    step: int


@dataclass(frozen=True)
class Section:
    """Scale degrees of the chords, one a bar, and the melody."""

    chords: tuple[int, ...]
    melody: tuple[Note, ...]


@dataclass(frozen=True)
class Work:
    """A song as written.

    Attributes:
        key: pitch class of the tonic.
        tempo: beats a minute.
        form: order of the sections' letters.
        sections: by letter.
    """

    genre: Genre
    key: int
    tempo: float
    form: str
    sections: dict[str, Section]


def compose(rng: np.random.Generator, shared: float) -> Work:
    """A work; each section's chords are a loop of its genre with probability ``shared``."""
    genre = GENRES[rng.integers(len(GENRES))]
    sections = {}
    for letter in "VCBS":
        sections[letter] = _section(rng, genre, shared, sung=letter in SUNG)
    sections["I"] = Section(sections["V"].chords, ())
    sections["O"] = Section(sections["C"].chords, ())
    low, high = genre.tempo
    return Work(
        genre,
        int(rng.integers(12)),
        float(rng.uniform(low, high)),
        FORMS[rng.integers(len(FORMS))],
        sections,
    )


def _section(rng: np.random.Generator, genre: Genre, shared: float, sung: bool) -> Section:
    if rng.random() < shared:
        loop = genre.loops[rng.integers(len(genre.loops))]
    else:
        loop = tuple(int(degree) for degree in rng.integers(0, 7, 4))  # type: ignore[assignment]
    chords = (loop * (BARS // 4))[:BARS]
    if not sung:
        return Section(chords, ())
    phrases = [_phrase(rng), _phrase(rng)]
    order = (0, 0, 1, 0) if rng.random() < 0.5 else (0, 1, 0, 1)
    melody = []
    for place, phrase in enumerate(order):
        offset = 2 * BEATS * place
        for start, duration, step in phrases[phrase]:
            bar = int((offset + start) // BEATS)
            if start % 2 == 0:
                step = nearest_chord_step(step, chords[bar])
            melody.append(Note(offset + start, duration, step))
    return Section(chords, tuple(melody))


def _phrase(rng: np.random.Generator) -> list[tuple[float, float, int]]:
    """Two bars: (start, duration, step) in beats, a walk over the scale with rests."""
    found, time, step = [], 0.0, int(rng.integers(-2, 8))
    while time < 2 * BEATS:
        duration = min(
            float(rng.choice((0.5, 1.0, 1.5, 2.0), p=(0.3, 0.4, 0.15, 0.15))), 2 * BEATS - time
        )
        if rng.random() > 0.12:
            found.append((time, duration, step))
        step = int(np.clip(step + rng.choice((-3, -2, -1, 0, 1, 2, 3), p=_MOVES), -4, 11))
        time += duration
    return found


_MOVES: Final = (0.06, 0.14, 0.22, 0.16, 0.22, 0.14, 0.06)


def nearest_chord_step(step: int, degree: int) -> int:
    """The step of the triad on ``degree`` that is nearest to ``step``; the lower of two."""
    tones = [degree + third + 7 * octave for octave in (-2, -1, 0, 1) for third in (0, 2, 4)]
    return min(tones, key=lambda tone: (abs(tone - step), tone))
