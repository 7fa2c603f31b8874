"""How time grows with the length of songs and their number, and memory with their number.

A pair's matrix has a cell for each two seconds, so time goes with the square of the length; pairs
go with the square of the number of songs. Beside the scores, eight bytes a pair and way, nothing is
held but a batch of pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common.experiments.schema import Scale
from common.results.benchmarks import BenchmarkRow, compare, memory_row, one_thread
from papers.cover_song.benchmarks.collections import PAPER
from papers.cover_song.benchmarks.peak_memory import peak_array_bytes
from papers.cover_song.benchmarks.random_songs import random_pairs, random_songs
from papers.cover_song.scoring import collection_scores
from papers.cover_song.similarity.measures import Aligner, Measure

#: Seconds of a song; songs of a set. Each is set beside the first.
LENGTHS: Final[dict[Scale, tuple[int, ...]]] = {
    "smoke": (40, 80),
    "laptop": (90, 180, 360, 720),
    "paper": (90, 180, 360, 720),
}
COUNTS: Final[dict[Scale, tuple[int, ...]]] = {
    "smoke": (10, 20),
    "laptop": (100, 200, 400),
    "paper": (100, 200, 400, 800),
}
#: Of songs of a set: long enough for every measure, short enough for many pairs.
SECONDS: Final = 30


def growth(scale: Scale) -> list[BenchmarkRow]:
    """Rows of the report: over the shortest songs, and the smallest set."""
    shortest, *longer = LENGTHS[scale]
    fewest, *more = COUNTS[scale]
    repeats = 3 if scale == "smoke" else 5
    rows = []
    with one_thread():
        measures: tuple[Measure, ...] = ("dtw", "qmax")
        for measure in measures:
            base = _pairs_of(shortest, measure)
            for seconds in longer:
                found = compare(_pairs_of(seconds, measure), base, repeats)
                what = f"{measure} of songs of {seconds} s"
                note = f"{(seconds / shortest) ** 2:g} times the cells"
                rows.append(found.row(PAPER, what, f"songs of {shortest} s", note))
        for count in more:
            found = compare(_all_pairs(count), _all_pairs(fewest), repeats)
            pairs = count * (count - 1) / (fewest * (fewest - 1))
            what, peer, note = f"qmax of all of {count} songs", f"{fewest}", f"{pairs:.3g}"
            rows.append(found.row(PAPER, what, f"of {peer} songs", f"{note} times the pairs"))
            ours, theirs = (peak_array_bytes(_all_pairs(each)) for each in (count, fewest))
            rows.append(
                memory_row(PAPER, what, f"of {peer} songs", ours, theirs, f"{note} times the pairs")
            )
    return rows


def _pairs_of(seconds: int, measure: Measure, count: int = 32) -> Callable[[], object]:
    songs, pairs = random_pairs(count, seconds)
    aligner = Aligner(songs, [measure])
    return lambda: aligner.columns(pairs)


def _all_pairs(count: int) -> Callable[[], object]:
    songs = random_songs(count, SECONDS)
    return lambda: collection_scores(songs, "qmax")
