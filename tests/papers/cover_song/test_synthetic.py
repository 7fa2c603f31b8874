"""Made-up songs: what a performance keeps of its work, and what sound keeps of notes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from papers.cover_song.audio.features import song_chroma
from papers.cover_song.tasks.chorales import Chorale, group_by_tune, tune_intervals
from papers.cover_song.tasks.collections import CollectionSettings, synthetic_collection
from papers.cover_song.tasks.synthetic.note_chroma import note_chroma
from papers.cover_song.tasks.synthetic.performances import Timbre, perform
from papers.cover_song.tasks.synthetic.sound import RATE, played, render
from papers.cover_song.tasks.synthetic.works import BARS, BEATS, compose, nearest_chord_step


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_plain_performance_is_the_work_as_written() -> None:
    work = compose(generator(), shared=0.9)
    first, second = (perform(work, generator(seed), 0) for seed in (1, 2))
    np.testing.assert_array_equal(first.notes, second.notes)
    beats = len(work.form) * BARS * BEATS
    assert first.end_s == pytest.approx(beats * 60 / work.tempo)
    keys = {(work.key + step) % 12 for step in work.genre.scale}
    assert {int(pitch) % 12 for pitch in first.notes[:, 2]} <= keys


def test_another_key_moves_chroma_and_nothing_else() -> None:
    work = compose(generator(), shared=0.9)
    higher = dataclasses.replace(work, key=(work.key + 5) % 12)
    quiet = [
        dataclasses.replace(perform(each, generator(), 0), noise=0.0) for each in (work, higher)
    ]
    low, high = (note_chroma(each, 60, generator()) for each in quiet)
    np.testing.assert_allclose(np.roll(low, 5, axis=1), high, atol=1e-5)


def test_performances_differ_more_with_strength() -> None:
    def apart(strength: float) -> float:
        found = []
        for seed in range(6):
            work = compose(generator(seed), shared=0.9)
            written, heard = (
                len(perform(work, generator(100 + seed), each).notes) for each in (0, strength)
            )
            found.append(abs(heard - written) / written)
        return float(np.mean(found))

    assert apart(0) == 0
    assert apart(1.5) > 0.05


def test_strong_beats_are_tones_of_the_chord() -> None:
    for seed in range(5):
        work = compose(generator(seed), shared=0.5)
        for section in work.sections.values():
            for note in section.melody:
                if note.start % 2 == 0:
                    degree = section.chords[int(note.start // BEATS)]
                    assert (note.step - degree) % 7 in (0, 2, 4)


def test_the_nearest_tone_of_a_chord() -> None:
    assert [nearest_chord_step(step, 0) for step in range(8)] == [0, 0, 2, 2, 4, 4, 7, 7]


def test_sound_and_notes_give_about_the_same_chroma() -> None:
    performance = perform(compose(generator(), 0.9), generator(1), 1.0)
    heard = song_chroma(render(performance, 40, generator()), RATE)
    notes = note_chroma(performance, 40, generator())
    cosine = (heard * notes).sum(axis=1).mean()
    shuffled = (heard * np.roll(notes, 7, axis=0)).sum(axis=1).mean()
    assert cosine > 0.85
    assert cosine > shuffled + 0.1


def test_notes_end() -> None:
    timbre = Timbre(0.6, 1.0, 1.0)
    sound = render(played([(0.0, 1.0, 60), (2.0, 1.0, 67)], timbre), 10, generator())
    assert len(sound) == 3 * RATE
    assert np.abs(sound).max() == pytest.approx(0.9)
    assert not sound[int(1.1 * RATE) : int(1.9 * RATE)].any()
    chroma = song_chroma(sound, RATE)
    assert chroma[0].argmax() == 0
    assert not chroma[1].any()
    assert chroma[2].argmax() == 7


def test_a_collection_holds_what_was_asked_for() -> None:
    settings = CollectionSettings(data="synthetic", seconds=40, works=3, versions=4, singles=5)
    songs, works, queries = synthetic_collection(settings, 7)
    assert songs.frames.shape == (17, 40, 12)
    assert np.bincount(works).tolist() == [4, 4, 4, 1, 1, 1, 1, 1]
    assert queries.tolist() == list(range(12))
    again = synthetic_collection(settings, 7)
    np.testing.assert_array_equal(songs.frames, again.songs.frames)
    assert (songs.frames != synthetic_collection(settings, 8).songs.frames).any()


def chorale(pitches: list[int], durations: list[float] | None = None) -> Chorale:
    """A soprano alone."""
    lengths = np.array(durations or [1.0] * len(pitches))
    starts = np.cumsum(lengths) - lengths
    rows = np.stack([np.zeros(len(pitches)), starts, lengths, pitches], axis=1)
    return Chorale("made up", rows)


def test_a_tune_is_the_same_in_every_key_and_other_tunes_are_not() -> None:
    tune = [60, 62, 64, 65, 67, 65, 64, 62, 60, 67, 69, 67]
    other = [72, 71, 69, 67, 67, 69, 65, 64, 60, 62, 60, 60]
    # In another key, and with quavers between the beats.
    varied = chorale([p + 3 for p in tune for _ in (0, 1)], [0.5] * 24)
    tunes = [tune_intervals(each) for each in (chorale(tune), chorale(other), varied)]
    assert tunes[0] == np.diff(tune).tolist()
    assert tunes[2] == tunes[0]
    groups = group_by_tune(tunes)
    assert groups[0] == groups[2] != groups[1]
