"""Songs with their works: made up, recorded, of SHS100K or of covers80.

What a run is judged on and what a network learns from are drawn by the run's seed, so that methods
with one seed meet the same songs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.data.covers80 import covers80
from common.data.hpcp import Songs, covers80_hpcp, shs100k_hpcp
from common.data.registry import identity
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training.data_order import mixed
from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set, padded
from papers.cover_song.tasks.synthetic.note_chroma import note_chroma
from papers.cover_song.tasks.synthetic.performances import Performance, perform
from papers.cover_song.tasks.synthetic.works import compose

#: Works by number of versions, of the training list of Chang et al. 2017: 254 works, 1,175 songs.
TRAINING_SIZES: Final = {2: 21, 3: 31, 4: 32, 5: 154, 6: 3, 7: 1, 8: 4, 9: 1, 10: 1, 11: 6}
#: A song of the training list this near to a track of covers80 (DTW with transposition) is the
#: same recording.
LEAK: Final = 0.15
#: Beats averaged into a frame of covers80's beat chroma: about a second.
BEATS_PER_FRAME: Final = 4


class Collection(NamedTuple):
    """Songs, the work of each, and the queries among them."""

    songs: ChromaSet
    works: NDArray[np.int64]
    queries: NDArray[np.int64]


class CollectionSettings(Settings):
    """Which songs."""

    data: Literal["synthetic", "recorded", "shs100k", "covers80", "covers80_beats"]
    seconds: int = Field(ge=32, le=180, description="frames of a song, from its beginning")
    works: int = Field(0, ge=0, description="with several versions; of synthetic and shs100k")
    versions: int = Field(0, ge=0, description="of each of them")
    singles: int = Field(0, ge=0, description="songs that are alone with their work")
    strength: float = Field(1.5, ge=0, description="of synthetic performances")
    shared: float = Field(
        0.9, ge=0, le=1, description="chance of a synthetic section's usual chords"
    )


class Drawn(NamedTuple):
    """Places of songs in SHS100K: what is trained on and what is judged on; no work is in both."""

    training: NDArray[np.int64]
    evaluation: NDArray[np.int64]
    queries: NDArray[np.int64]


def load_collection(settings: CollectionSettings, run: Run) -> Collection:
    """The songs that a ranking is judged on, as the run's seed draws them."""
    if settings.data == "synthetic":
        return made_up_collection(settings, run, 0)
    if settings.data == "recorded":
        return _recorded(settings, run)
    if settings.data == "shs100k":
        run.uses(identity("shs100k_hpcp"))
        songs = shs100k_hpcp()
        drawn = draw_layout(songs, settings, run.seed)
        chroma = chroma_set(songs.profiles[drawn.evaluation, : settings.seconds])
        works = songs.set_id[drawn.evaluation]
        return Collection(chroma, works, np.flatnonzero(np.isin(drawn.evaluation, drawn.queries)))
    if settings.data == "covers80":
        run.uses(identity("covers80", ["covers80_hpcp.npz"]))
        tracks = covers80_hpcp()
        return with_all_queries(chroma_set(tracks.profiles[:, : settings.seconds]), tracks.set_id)
    run.uses(identity("covers80", ["covers80_beat_chroma.npz", "covers80_index.csv"]))
    beats = covers80()
    frames = [averaged_beats(track) for track in beats.chroma]
    return with_all_queries(padded(frames, settings.seconds), beats.labels)


def made_up_collection(settings: CollectionSettings, run: Run, stream: int) -> Collection:
    """Made-up songs of the run's seed; each number of a stream stands for other songs."""
    run.uses(DataIdentity.generated("made-up works, chroma from notes", run.seed))
    return synthetic_collection(settings, mixed(run.seed, stream))


def synthetic_collection(settings: CollectionSettings, seed: int) -> Collection:
    """Made-up songs: each work with several versions, of which the first is as written; singles."""
    rng = np.random.default_rng(seed)
    frames, works = [], []
    for played, number in made_up_performances(settings, rng):
        frames.append(note_chroma(played, settings.seconds, rng))
        works.append(number)
    return with_all_queries(chroma_set(np.stack(frames)), np.array(works))


def made_up_performances(
    settings: CollectionSettings, rng: np.random.Generator
) -> Iterator[tuple[Performance, int]]:
    """Performances and the work of each, a number from 0 on.

    One is drawn when it is asked for, so that what is drawn of ``rng`` in between counts.
    """
    for number in range(settings.works + settings.singles):
        work = compose(rng, settings.shared)
        for version in range(settings.versions if number < settings.works else 1):
            yield perform(work, rng, settings.strength if version else 0), number


def draw_layout(
    songs: Songs, settings: CollectionSettings, seed: int, leaking: NDArray[np.int64] | None = None
) -> Drawn:
    """Works for evaluation and for training, disjoint, as in Chang et al. 2017.

    Args:
        settings: works, versions and singles for evaluation.
        leaking: works (``set_id``) that may not be trained on.

    Raises:
        InputError: there are not enough works with as many versions.
    """
    rng = np.random.default_rng(mixed(seed, 2))
    names, counts = np.unique(songs.set_id, return_counts=True)
    free = dict(zip(names.tolist(), counts.tolist(), strict=True))
    banned = set() if leaking is None else set(leaking.tolist())

    def take(count: int, versions: int, clean: bool) -> list[int]:
        fit = [
            work
            for work, there in free.items()
            if there >= versions and not (clean and work in banned)
        ]
        if len(fit) < count:
            raise InputError(f"works {count} of {versions} versions: SHS100K has {len(fit)} left")
        chosen = [fit[place] for place in rng.permutation(len(fit))[:count]]
        found = []
        for work in chosen:
            del free[work]
            places = np.flatnonzero(songs.set_id == work)
            found += rng.permutation(places)[:versions].tolist()
        return found

    queries = take(settings.works, settings.versions, False)
    singles = take(settings.singles, 1, False)
    training = []
    for versions in sorted(TRAINING_SIZES, reverse=True):
        training += take(TRAINING_SIZES[versions], versions, True)
    return Drawn(np.array(training), np.array(queries + singles), np.array(queries))


def with_all_queries(songs: ChromaSet, works: NDArray[np.int64]) -> Collection:
    """A collection in which every song that has a cover is a query; works (songs,)."""
    _, inverse, counts = np.unique(works, return_inverse=True, return_counts=True)
    return Collection(songs, works, np.flatnonzero(counts[inverse] > 1))


def averaged_beats(beats: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of four beats (:data:`BEATS_PER_FRAME`): (beats, 12) to (beats // 4, 12)."""
    whole = len(beats) // BEATS_PER_FRAME * BEATS_PER_FRAME
    return beats[:whole].reshape(-1, BEATS_PER_FRAME, 12).mean(axis=1)  # type: ignore[no-any-return]


def _recorded(settings: CollectionSettings, run: Run) -> Collection:
    """Songs whose sound another run, of the same seed, wrote to files and read back."""
    folders = {folder.name: folder for folder in run.needed("recordings")}
    folder = folders.get(f"seed{run.seed}")
    if folder is None:
        raise InputError(f"recordings: seed {run.seed}; allowed: {', '.join(folders)}")
    with np.load(folder / "features.npz") as stored:
        return with_all_queries(
            chroma_set(stored["chroma"][:, : settings.seconds]), stored["works"]
        )


def read_leaks(folder: Path) -> NDArray[np.int64]:
    """Works that a leak check found, as ``leaks.npy`` in its folder holds them."""
    return np.load(folder / "leaks.npy")  # type: ignore[no-any-return]
