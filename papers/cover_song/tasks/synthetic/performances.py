"""Performances of a work: another key, tempo, arrangement, structure and sound.

``strength`` is the one knob of difficulty: how far a performance departs from what is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.tasks.synthetic.works import BARS, BEATS, Note, Section, Work

PATTERNS: Final = ("block", "arpeggio", "offbeat", "fifths", "halves")
HARMONICS: Final = 8
#: MIDI numbers that step 0 of melody, chords and bass lies at or above.
MELODY, CHORDS, BASS = 60, 48, 36


@dataclass(frozen=True)
class Timbre:
    """Harmonic h has amplitude ``rolloff ** (h - 1)``, even ones times ``even``; decay in s."""

    rolloff: float
    even: float
    decay_s: float

    @property
    def amplitudes(self) -> NDArray[np.float64]:
        """(8,) of the harmonics."""
        number = np.arange(1, HARMONICS + 1)
        return self.rolloff ** (number - 1) * np.where(number % 2 == 0, self.even, 1.0)  # type: ignore[return-value, no-any-return]


@dataclass(frozen=True, eq=False)
class Performance:
    """What sounds.

    Attributes:
        notes (n, 4): start and duration in s, MIDI number, gain.
        timbre: of all of them.
        noise: of the chroma, and of the sound beside its loudest note.
        drums_s: times of drum strokes.
        tuning_cents: of all notes, in sound alone.
    """

    notes: NDArray[np.float64]
    timbre: Timbre
    noise: float
    drums_s: NDArray[np.float64]
    tuning_cents: float

    @property
    def end_s(self) -> float:
        """When the last note ends."""
        return float((self.notes[:, 0] + self.notes[:, 1]).max())


def perform(work: Work, rng: np.random.Generator, strength: float) -> Performance:
    """A performance; at strength 0 the work as it is written."""
    plain = strength == 0
    shift = 0 if plain or rng.random() < 0.2 else int(rng.integers(12))
    factor = 1.0 if plain else float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    drift, phase = (0.0, 0.0) if plain else (rng.uniform(0, 0.05), rng.uniform(0, 2 * np.pi))
    pattern = PATTERNS[0] if plain else PATTERNS[rng.integers(len(PATTERNS))]
    melody_gain, bass_gain = (1.0, 0.6) if plain else (rng.uniform(0.5, 1.3), rng.uniform(0.2, 0.9))
    events: list[tuple[float, float, float, float]] = []
    offset = 0.0
    for letter in work.form if plain else _restructured(work.form, rng, strength):
        section = work.sections[letter]
        if not plain:
            section = _varied(section, rng, strength)
        tonic = work.key + shift
        events += _accompaniment(work, section, tonic, pattern, bass_gain, offset)
        for note in section.melody:
            pitch = _pitch(work, note.step, tonic, MELODY)
            events.append((offset + note.start, note.duration, pitch, melody_gain))
        offset += BARS * BEATS
    beats = np.array(events)
    beat_s = 60 / (work.tempo * factor)

    def seconds(beat: NDArray[np.float64]) -> NDArray[np.float64]:
        # The tempo swings slowly, twice in a song.
        turn = 4 * np.pi / offset
        swing = drift * (np.cos(phase) - np.cos(turn * beat + phase)) / turn
        return beat_s * (beat + swing)  # type: ignore[no-any-return]

    starts, ends = seconds(beats[:, 0]), seconds(beats[:, 0] + beats[:, 1])
    notes = np.stack([starts, ends - starts, beats[:, 2], beats[:, 3]], axis=1)
    drums = seconds(np.arange(0, offset, 1.0)) if not plain and rng.random() < 0.6 else np.empty(0)
    return Performance(
        notes[np.argsort(notes[:, 0], kind="stable")],
        Timbre(0.6, 1.0, 1.5)
        if plain
        else Timbre(rng.uniform(0.4, 0.85), rng.uniform(0.3, 1.0), rng.uniform(0.4, 3.0)),
        0.05 if plain else float(rng.uniform(0.05, 0.15 + 0.1 * strength)),
        drums,
        0.0 if plain else float(rng.normal(0, 12 * strength)),
    )


def _restructured(form: str, rng: np.random.Generator, strength: float) -> str:
    """Sections dropped, added, repeated, swapped; at least three are left."""

    def chance(share: float) -> bool:
        return bool(rng.random() < share * strength)

    letters = list(form)
    if chance(0.3):
        letters = letters[1:] if letters[0] == "I" else ["I", *letters]
    if chance(0.3) and len(letters) > 4:
        letters.pop(int(rng.integers(1, len(letters))))
    if chance(0.25) and "C" in letters:
        letters.insert(letters.index("C"), "C")
    if chance(0.2):
        letters.insert(int(rng.integers(1, len(letters))), "S")
    if chance(0.15) and len(letters) > 3:
        place = int(rng.integers(1, len(letters) - 1))
        letters[place], letters[place + 1] = letters[place + 1], letters[place]
    return "".join(letters)


def _varied(section: Section, rng: np.random.Generator, strength: float) -> Section:
    """Chords replaced by ones a third away, notes moved, dropped and split."""
    change = rng.uniform(0, 0.25 * strength)
    chords = tuple(
        (degree + int(rng.choice((-2, 2)))) % 7 if rng.random() < change else degree
        for degree in section.chords
    )
    change = rng.uniform(0, 0.35 * strength)
    melody: list[Note] = []
    for note in section.melody:
        if rng.random() >= change:
            melody.append(note)
            continue
        kind = rng.integers(3)
        if kind == 0:
            melody.append(Note(note.start, note.duration, note.step + int(rng.choice((-1, 1)))))
        elif kind == 1:
            half, above = note.duration / 2, note.step + int(rng.choice((-1, 1)))
            melody += [Note(note.start, half, note.step), Note(note.start + half, half, above)]
    return Section(chords, tuple(melody))


def _pitch(work: Work, step: int, tonic: int, base: int) -> int:
    """MIDI number of a scale step; the tonic lies in the octave above ``base``."""
    octave, degree = divmod(step, 7)
    return base + (tonic - base) % 12 + 12 * octave + work.genre.scale[degree]


def _accompaniment(
    work: Work, section: Section, tonic: int, pattern: str, bass_gain: float, offset: float
) -> list[tuple[float, float, float, float]]:
    """Chords in one of five patterns, and the bass: (beat, beats, MIDI number, gain) each."""
    found: list[tuple[float, float, float, float]] = []
    for bar, degree in enumerate(section.chords):
        start = offset + bar * BEATS
        triad = [
            CHORDS + (_pitch(work, degree + third, tonic, 48) - CHORDS) % 12 for third in (0, 2, 4)
        ]
        if pattern == "block":
            found += [(start, BEATS, pitch, 0.5) for pitch in triad]
        elif pattern == "arpeggio":
            order = (0, 1, 2, 1, 0, 1, 2, 1)
            found += [(start + k / 2, 0.5, triad[tone], 0.6) for k, tone in enumerate(order)]
        elif pattern == "offbeat":
            found += [(start + k + 0.5, 0.5, pitch, 0.5) for k in range(BEATS) for pitch in triad]
        elif pattern == "fifths":
            found += [(start + k, 1, pitch, 0.5) for k in range(BEATS) for pitch in triad[::2]]
        else:
            found += [(start + k, 2, pitch, 0.5) for k in (0, 2) for pitch in triad]
        root = BASS + (_pitch(work, degree, tonic, 36) - BASS) % 12
        found += [(start + k, 2, root, bass_gain) for k in (0, 2)]
    return found
