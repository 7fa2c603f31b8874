"""The program ``make_recordings``: songs written as audio files, and their chroma read back.

Chroma of the same notes without sound says what audio costs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pydantic import Field

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training.data_order import mixed
from papers.cover_song.audio.feature_cache import FeatureCache
from papers.cover_song.network.training_pairs import cover_pairs
from papers.cover_song.similarity.chroma_set import padded
from papers.cover_song.similarity.measures import pair_shifts
from papers.cover_song.tasks.chorales import Chorale, group_by_tune, load_chorales, tune_intervals
from papers.cover_song.tasks.collections import CollectionSettings, made_up_performances
from papers.cover_song.tasks.synthetic.note_chroma import note_chroma
from papers.cover_song.tasks.synthetic.performances import Performance, Timbre
from papers.cover_song.tasks.synthetic.sound import RATE, played, render


class MakeRecordings(Settings):
    """Which songs, and as what kind of file."""

    source: Literal["synthetic", "chorales"]
    format: Literal["flac", "mp3", "ogg", "wav"]
    seconds: int = Field(ge=32, le=180)
    works: int = Field(0, ge=0)
    versions: int = Field(0, ge=0)
    singles: int = Field(0, ge=0)
    strength: float = Field(1.5, ge=0)
    shared: float = Field(0.9, ge=0, le=1)


class Song(NamedTuple):
    """What is played, and of which work it is."""

    performance: Performance
    work: int


def _made_up(settings: MakeRecordings, run: Run) -> Iterator[Song]:
    run.uses(DataIdentity.generated("made-up works, chroma from audio files", run.seed))
    rng = np.random.default_rng(mixed(run.seed, 0))
    drawn = CollectionSettings(
        data="synthetic",
        seconds=settings.seconds,
        works=settings.works,
        versions=settings.versions,
        singles=settings.singles,
        strength=settings.strength,
        shared=settings.shared,
    )
    for performance, number in made_up_performances(drawn, rng):
        yield Song(performance, number)


def _sung(settings: MakeRecordings, run: Run) -> Iterator[Song]:
    """Every chorale, in a timbre, a key and at a tempo of its own."""
    run.uses(DataIdentity(name="Bach chorales of music21", real=True, source="bundled"))
    rng = np.random.default_rng(mixed(run.seed, 0))
    with run.progress(433, "scores", "score") as bar:
        chorales = load_chorales(bar.update)
    groups = group_by_tune([tune_intervals(each) for each in chorales])
    for chorale, group in zip(chorales, groups.tolist(), strict=True):
        yield Song(_performed(chorale, rng), group)


def _performed(chorale: Chorale, rng: np.random.Generator) -> Performance:
    timbre = Timbre(rng.uniform(0.4, 0.85), rng.uniform(0.3, 1.0), rng.uniform(0.8, 3.0))
    beat_s, shift = 60 / rng.uniform(60, 96), int(rng.integers(-5, 7))
    _, start, duration, pitch = chorale.notes.T
    rows = zip(beat_s * start, beat_s * duration, (pitch + shift).astype(int), strict=True)
    return played(list(rows), timbre)


def make_recordings(settings: MakeRecordings, run: Run) -> dict[str, float]:
    """Write each song, read it, keep its chroma; compare with chroma of its notes."""
    songs = list((_made_up if settings.source == "synthetic" else _sung)(settings, run))
    rng = np.random.default_rng(mixed(run.seed, 6))
    cache = FeatureCache(None)
    heard: list[NDArray[np.float32]] = []
    written: list[NDArray[np.float32]] = []
    size = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        run.progress(len(songs), settings.format, "song") as bar,
    ):
        for song in songs:
            path = Path(folder) / f"song.{settings.format}"
            soundfile.write(path, render(song.performance, settings.seconds, rng), RATE)
            size += path.stat().st_size
            heard.append(cache.load(path).chroma)
            written.append(note_chroma(song.performance, settings.seconds, rng))
            bar.update()
    works = np.array([song.work for song in songs])
    audio, notes = padded(heard, settings.seconds), padded(written, settings.seconds)
    np.savez(run.path("features.npz"), chroma=audio.frames, works=works)
    sounding = np.minimum(audio.lengths, notes.lengths)
    likeness = [
        float((a[:n] * b[:n]).sum(axis=1).mean())
        for a, b, n in zip(audio.frames, notes.frames, sounding, strict=True)
    ]
    pairs = cover_pairs(works)
    same_key = pair_shifts(audio, pairs, 1) == pair_shifts(notes, pairs, 1)
    return {
        "songs": float(len(songs)),
        "works_with_covers": float((np.unique(works, return_counts=True)[1] > 1).sum()),
        "frame_cosine": float(np.mean(likeness)),
        "same_transposition": float(same_key.mean()),
        "file_bytes_per_s": size / sum(min(s.performance.end_s, settings.seconds) for s in songs),
    }


PROGRAM = Program(MakeRecordings, make_recordings)
