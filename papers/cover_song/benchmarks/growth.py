"""How time grows with the length of songs and their number, and memory with their number.

A pair's matrix has a cell for each second of both songs, so time goes with the square of the
length; pairs go with the square of the number of songs. Beside the scores, eight bytes a pair and
way, nothing is held but a batch of pairs.
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
        smallest, peer = _all_pairs(fewest), f"of {fewest} songs"
        least = peak_array_bytes(smallest)
        for count in more:
            work = _all_pairs(count)
            what = f"qmax of all of {count} songs"
            note = f"{count * (count - 1) / (fewest * (fewest - 1)):.3g} times the pairs"
            rows.append(compare(work, smallest, repeats).row(PAPER, what, peer, note))
            rows.append(memory_row(PAPER, what, peer, peak_array_bytes(work), least, note))
    return rows


def _pairs_of(seconds: int, measure: Measure, count: int = 32) -> Callable[[], object]:
    songs, pairs = random_pairs(count, seconds)
    aligner = Aligner(songs, [measure])
    return lambda: aligner.columns(pairs)


def _all_pairs(count: int) -> Callable[[], object]:
    songs = random_songs(count, SECONDS)
    return lambda: collection_scores(songs, "qmax")
