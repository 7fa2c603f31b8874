"""The program ``rank_songs``: all pairs of a collection by a measure that needs no training."""

from __future__ import annotations

from pydantic import Field

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from papers.cover_song.methods.scores import Method, comparable, ranking_metrics, untrained_scores
from papers.cover_song.similarity.measures import Alignment
from papers.cover_song.tasks.collections import CollectionSettings, load_collection


class RankSongs(Settings):
    """What is ranked, and how."""

    collection: CollectionSettings
    method: Method
    shifts: int = Field(1, ge=0, le=12, description="transpositions tried; 0: keys as they are")
    stack: int = Field(4, ge=1, description="frames of Qmax's delay embedding")


def rank_songs(settings: RankSongs, run: Run) -> dict[str, float]:
    """Metrics of every ranking of the scores."""
    collection = comparable(load_collection(settings.collection, run))
    alignment = Alignment(shifts=settings.shifts, stack=settings.stack)
    scores = untrained_scores(collection, settings.method, alignment, run)
    return ranking_metrics(scores, collection) | {"songs": float(len(collection.songs))}


PROGRAM = Program(RankSongs, rank_songs)
