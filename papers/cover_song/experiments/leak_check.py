"""The program ``leak_check``: works of SHS100K that hold a recording of covers80.

Same recordings are told by their distance (DTW with transposition, first 64 s); versions of one
work that share no recording cannot be told apart from others this way.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.data.hpcp import Songs, covers80_hpcp, shs100k_hpcp
from common.data.registry import identity
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set
from papers.cover_song.similarity.measures import Aligner
from papers.cover_song.tasks.collections import (
    LEAK,
    CollectionSettings,
    synthetic_collection,
)


class LeakCheck(Settings):
    """Which songs, and how much of each is compared."""

    data: Literal["planted", "shs100k"]
    seconds: int = Field(64, ge=32, le=180)
    songs: int | None = Field(None, gt=10, description="from the beginning; all unless given")


def _both(settings: LeakCheck, run: Run) -> tuple[Songs, Songs]:
    """Songs that are trained on, and tracks that are judged on."""
    if settings.data == "shs100k":
        run.uses(identity("shs100k_hpcp"))
        run.uses(identity("covers80", ["covers80_hpcp.npz"]))
        return shs100k_hpcp(), covers80_hpcp()
    run.uses(DataIdentity.generated("made-up works, chroma from notes", run.seed))
    count = settings.songs or 60
    drawn = CollectionSettings(data="synthetic", seconds=settings.seconds, singles=count)
    chroma = synthetic_collection(drawn, run.seed).songs.frames
    # Every sixth song is there again, as another copy of the recording: noise and another key.
    copies = np.roll(chroma[::6], 3, axis=2) + run.rng.uniform(0, 0.02, chroma[::6].shape)
    other = synthetic_collection(drawn, run.seed + 1).songs.frames[: count // 2]
    return _as_songs(chroma), _as_songs(np.concatenate([copies, other]))


def _as_songs(chroma: NDArray[np.float32]) -> Songs:
    count = len(chroma)
    return Songs(
        np.round(255 * chroma / chroma.max()).astype(np.uint8),
        np.full(count, chroma.shape[1]),
        np.full(count, float(chroma.shape[1])),
        np.arange(count),
        tuple(f"made-up/{number}" for number in range(count)),
    )


def leak_check(settings: LeakCheck, run: Run) -> dict[str, float]:
    """The least distance of each song to a track of covers80; works below the threshold."""
    songs, tracks = _both(settings, run)
    count = settings.songs or len(songs)
    both = [
        chroma_set(each[:, : settings.seconds])
        for each in (songs.profiles[:count], tracks.profiles)
    ]
    frames = np.concatenate([each.frames for each in both])
    joined = ChromaSet(frames, np.concatenate([each.lengths for each in both]))
    least = np.full(count, np.inf)
    # Songs of a few seconds are like anything; none of covers80 is one.
    usable = np.flatnonzero(joined.lengths[:count] >= settings.seconds // 2)
    chosen = joined.of(np.concatenate([usable, np.arange(count, len(frames))]))
    aligner = Aligner(chosen, ["dtw"])
    others = np.arange(len(usable), len(chosen))
    nearest = np.zeros(count, np.int64)
    with run.progress(len(usable), "songs", "song") as bar:
        for place, song in enumerate(usable):
            pairs = np.stack([np.full(len(others), place), others], axis=1)
            distances = -aligner.score(pairs, "dtw")[0]
            least[song], nearest[song] = distances.min(), distances.argmin()
            bar.update()
    leaking = np.unique(songs.set_id[:count][least < LEAK])
    np.save(run.path("leaks.npy"), leaking)
    order = np.argsort(least)[:200]
    run.write_rows(
        "nearest.csv",
        [
            {
                "song": songs.names[k],
                "track": tracks.names[nearest[k]],
                "distance": round(float(least[k]), 4),
            }
            for k in order
            if np.isfinite(least[k])
        ],
    )
    near = least[np.isfinite(least)]
    return {
        "leaking_works": float(len(leaking)),
        "leaking_songs": float((near < LEAK).sum()),
        "songs": float(len(near)),
        "too_short": float(count - len(near)),
        "median_distance": float(np.median(near)),
    }


PROGRAM = Program(LeakCheck, leak_check)
