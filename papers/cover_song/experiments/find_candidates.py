"""The program ``find_candidates``: how many covers an index finds among very many songs.

Real songs are filled up by vectors from a normal distribution with their mean and covariance. What
share of the candidates is filling says whether it competes as real songs do.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.data.hpcp import shs100k_hpcp
from common.data.registry import identity
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training.data_order import mixed
from papers.cover_song.audio.reading import SHORTEST_S
from papers.cover_song.similarity.chroma_set import chroma_set
from papers.cover_song.similarity.cover_index import CoverIndex, Vectors, learn_work_space
from papers.cover_song.similarity.fourier_index import describe
from papers.cover_song.tasks.collections import CollectionSettings, made_up_collection


class FindCandidates(Settings):
    """Songs, and by which vectors they are found."""

    data: Literal["synthetic", "shs100k"]
    songs: int = Field(gt=0, description="in the index, with filling")
    works: int = Field(
        gt=0, description="whose songs are queries; the space is not learned on them"
    )
    least_versions: int = Field(5, ge=2, description="of each of these works")
    learned_share: float = Field(
        0.6, gt=0, lt=1, description="of works, that the space learns from"
    )
    made_up: int = Field(0, ge=0, description="works of synthetic songs, of least_versions each")
    seconds: int = Field(180, ge=32, le=180)
    learned: bool = Field(True, description="discriminants of works; else Fourier magnitudes alone")
    dimensions: int = Field(64, gt=0, description="of the learned space")
    candidates: list[int] = Field(description="how many are looked at", min_length=1)


class _Split(NamedTuple):
    """Places of songs."""

    learned: NDArray[np.int64]
    unseen: NDArray[np.int64]
    queries: NDArray[np.int64]


def find_candidates(settings: FindCandidates, run: Run) -> dict[str, float]:
    """Mean share of a query's covers among its candidates; seconds that a query takes."""
    magnitudes, works = _songs(settings, run)
    rng = np.random.default_rng(mixed(run.seed, 7))
    split = _split(works, settings, rng)
    if settings.learned:
        space = learn_work_space(
            magnitudes[split.learned], works[split.learned], settings.dimensions
        )
        vectors = space(magnitudes)
    else:
        vectors = magnitudes
    filling = settings.songs - len(vectors)
    if filling < 0:
        raise InputError(f"songs {settings.songs}: {len(vectors)} are real; allowed: as many on")
    real = CoverIndex(vectors)
    index = CoverIndex(np.concatenate([vectors, _filling(vectors[split.unseen], filling, rng)]))
    most = max(settings.candidates)
    found, among_real = (
        each.nearest(vectors[split.queries], min(most, len(each) - 1), split.queries)
        for each in (index, real)
    )
    metrics = {"songs": float(len(index)), "real_songs": float(len(vectors))}
    metrics |= {"queries": float(len(split.queries)), "learned_songs": float(len(split.learned))}
    for count in settings.candidates:
        metrics[f"recall_{count}"] = _recall(found[:, :count], works, split.queries)
        metrics[f"recall_{count}_real"] = _recall(among_real[:, :count], works, split.queries)
    metrics[f"filling_{most}"] = float((found >= len(vectors)).mean())
    metrics["filling"] = filling / len(index)
    metrics["query_s"] = _seconds_a_query(index, vectors[split.queries], most)
    return metrics


def _songs(settings: FindCandidates, run: Run) -> tuple[Vectors, NDArray[np.int64]]:
    """Magnitudes and works of the real songs, or of made-up ones."""
    if settings.data == "synthetic":
        drawn = CollectionSettings(
            data="synthetic",
            seconds=settings.seconds,
            works=settings.made_up,
            versions=settings.least_versions,
        )
        songs, works, _ = made_up_collection(drawn, run, 8)
    else:
        run.uses(identity("shs100k_hpcp"))
        everything = shs100k_hpcp()
        songs = chroma_set(everything.profiles[:, : settings.seconds])
        works = everything.set_id
    kept = np.flatnonzero(songs.lengths >= SHORTEST_S)
    return describe(songs.of(kept)), works[kept]


def _split(works: NDArray[np.int64], settings: FindCandidates, rng: np.random.Generator) -> _Split:
    names, counts = np.unique(works, return_counts=True)
    fit = names[counts >= settings.least_versions]
    if len(fit) < settings.works:
        raise InputError(
            f"works {settings.works} of {settings.least_versions} versions: there are {len(fit)}"
        )
    judged = rng.permutation(fit)[: settings.works]
    others = rng.permutation(np.setdiff1d(names, judged))
    learned = others[: round(settings.learned_share * len(names))]
    seen = np.isin(works, learned)
    return _Split(
        np.flatnonzero(seen), np.flatnonzero(~seen), np.flatnonzero(np.isin(works, judged))
    )


def _filling(like: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Unit vectors with the mean and covariance of others: (count, k)."""
    wide = like.astype(np.float64)
    values, directions = np.linalg.eigh(np.cov(wide.T))
    spread = (directions * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)
    drawn = rng.standard_normal((count, len(spread)), np.float32) @ spread
    drawn += wide.mean(axis=0).astype(np.float32)
    norms = np.linalg.norm(drawn, axis=1, keepdims=True)
    return (drawn / np.where(norms > 0, norms, 1)).astype(np.float32)  # type: ignore[no-any-return]


def _recall(
    found: NDArray[np.int64], works: NDArray[np.int64], queries: NDArray[np.int64]
) -> float:
    """Mean share of covers that were found; places beyond the works are filling."""
    of_work = np.append(works, -1)[np.minimum(found, len(works))]
    hits = (of_work == works[queries][:, None]).sum(axis=1)
    names, counts = np.unique(works, return_counts=True)
    covers = counts[np.searchsorted(names, works[queries])] - 1
    return float((hits / covers).mean())


def _seconds_a_query(index: CoverIndex, queries: Vectors, count: int) -> float:
    """Of one query after another, the median."""
    count, taken = min(count, len(index)), []
    for query in queries[:20]:
        begun = time.perf_counter()
        index.nearest(query[None], count)
        taken.append(time.perf_counter() - begun)
    return float(np.median(taken))


PROGRAM = Program(FindCandidates, find_candidates)
