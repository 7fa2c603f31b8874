"""covers80 in beats beside covers80 in seconds: the same tracks by other features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.data.covers80 import covers80
from common.data.hpcp import covers80_hpcp
from common.data.registry import identity
from common.runs.run import Run
from papers.cover_song.similarity.chroma_set import ChromaSet, padded
from papers.cover_song.tasks.collections import averaged_beats


def beat_tracks(frames: int, run: Run) -> tuple[NDArray[np.int64], ChromaSet]:
    """The tracks of covers80 that lie in beats too: their places among its 164, and their frames.

    Args:
        frames: means of four beats that are kept of each.
    """
    run.uses(identity("covers80", ["covers80_beat_chroma.npz", "covers80_index.csv"]))
    beats = covers80()
    of_track = {name: number for number, name in enumerate(beats.names)}
    names = [name.rsplit("/", 1)[-1] for name in covers80_hpcp().names]
    places = np.array([place for place, name in enumerate(names) if name in of_track])
    found = [averaged_beats(beats.chroma[of_track[names[place]]]) for place in places]
    return places, padded(found, frames)
