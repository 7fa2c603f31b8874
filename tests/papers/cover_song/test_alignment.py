"""The compiled kernel beside plain versions, librosa's and essentia's."""

from __future__ import annotations

import librosa.sequence
import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import InputError
from papers.cover_song.similarity import kernel
from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set
from papers.cover_song.similarity.measures import (
    MEASURES,
    Aligner,
    Alignment,
    pair_batches,
    smoothed,
)
from papers.cover_song.similarity.path import best_match, distance_matrix
from papers.cover_song.similarity.transposition import optimal_transposition, transposed
from tests.papers.cover_song.songs import random_songs

PAIR = np.array([[0, 1]])


@pytest.fixture(scope="module")
def songs() -> ChromaSet:
    """Two songs of 40 and 33 seconds, in one array of 40."""
    raw = np.random.default_rng(1).random((2, 40, 12))
    raw[1, 33:] = 0
    return chroma_set(raw)


@pytest.fixture(scope="module")
def distances(songs: ChromaSet) -> NDArray[np.float64]:
    """Of all seconds, in one key, in float64."""
    x, y = (songs.frames[k, : songs.lengths[k]].astype(np.float64) for k in (0, 1))
    y = np.roll(y, optimal_transposition(x, y), axis=1)
    return np.linalg.norm(x[:, None] - y[None], axis=2)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """librosa's own recursions as plain Python: compiling them takes half a minute."""
    for name in ("__rqa_dp", "__rqa_backtrack", "__dtw_calc_accu_cost", "__dtw_backtracking"):
        function = getattr(librosa.sequence, name)
        monkeypatch.setattr(librosa.sequence, name, getattr(function, "py_func", function))


def neighbours(squares: NDArray[np.float64], stack: int, kappa: float) -> NDArray[np.float64]:
    """Mutual nearest neighbours by sorting."""
    n, m = (size - stack + 1 for size in squares.shape)
    embedded = sum(squares[k : k + n, k : k + m] for k in range(stack))
    rows = np.sort(embedded, axis=1)[:, max(1, int(kappa * m)) - 1]
    columns = np.sort(embedded, axis=0)[max(1, int(kappa * n)) - 1]
    near = (embedded <= rows[:, None]) & (embedded <= columns[None])
    return near.astype(np.float64)


def longest(near: NDArray[np.float64], gap: float, wide: bool) -> NDArray[np.float64]:
    """The recursions of Qmax (Serra et al. 2009) and Dmax (Chen et al. 2017), cell by cell."""
    scores = np.zeros_like(near)

    def at(array: NDArray[np.float64], i: int, j: int) -> float:
        return float(array[i, j]) if i >= 0 and j >= 0 else 0.0

    for i in range(near.shape[0]):
        for j in range(near.shape[1]):
            steps = [(1, 1, 0.0)]
            above, left = at(near, i - 1, j), at(near, i, j - 1)
            steps += [(2, 1, above if wide else 0.0), (1, 2, left if wide else 0.0)]
            if wide:
                steps += [(3, 1, at(near, i - 2, j) + above), (1, 3, at(near, i, j - 2) + left)]
            values = [at(scores, i - a, j - b) + more for a, b, more in steps]
            scores[i, j] = max(values) + 1 if near[i, j] else max(0.0, max(values) - gap)
    return scores


def test_distances_are_those_of_frames(songs: ChromaSet, distances: NDArray[np.float64]) -> None:
    shift = optimal_transposition(songs.frames[0], songs.frames[1])
    np.testing.assert_allclose(distance_matrix(songs, 0, 1, shift), distances, atol=1e-6)


def test_a_song_is_at_no_distance_from_itself(songs: ChromaSet) -> None:
    assert np.diag(distance_matrix(songs, 0, 0, 0)).max() == 0


def test_mean_and_dtw_agree_with_librosa(
    songs: ChromaSet, distances: NDArray[np.float64], uncompiled: None
) -> None:
    columns = Aligner(songs, ["mean", "dtw"]).columns(PAIR)[0]
    assert columns[kernel.MEAN] == pytest.approx(distances.mean(), rel=1e-5)
    total = librosa.sequence.dtw(C=distances, backtrack=False)[-1, -1]
    assert columns[kernel.DTW] == pytest.approx(total / sum(distances.shape), rel=1e-5)


def test_qmax_is_librosas_recurrence(
    songs: ChromaSet, distances: NDArray[np.float64], uncompiled: None
) -> None:
    near = neighbours(distances**2, stack=4, kappa=0.2)
    near[1, 1] = 1  # librosa takes another gap there: it negates a number as bits
    scores, _ = librosa.sequence.rqa(near, gap_onset=0.5, gap_extend=0.5, knight_moves=True)
    padded = np.zeros((near.shape[0] + 3, near.shape[1] + 3), np.float32)
    padded[3:, 3:] = near
    found = np.zeros_like(padded)
    largest = kernel.longest_alignment(padded, *near.shape, 0.5, 0.5, False, found)
    np.testing.assert_allclose(found[3:, 3:], scores, atol=1e-6)
    assert largest == pytest.approx(scores.max())


def test_qmax_is_essentias() -> None:
    standard = pytest.importorskip("essentia.standard")
    near = (np.random.default_rng(5).random((30, 35)) < 0.4).astype(np.float32)
    near[:2] = near[:, :2] = 0  # essentia begins at the third row and column
    similarity = standard.CoverSongSimilarity(disOnset=0.7, disExtension=0.2)
    scores, distance = similarity(near)
    padded = np.pad(near, ((3, 0), (3, 0)))
    found = np.zeros_like(padded)
    largest = kernel.longest_alignment(padded, *near.shape, 0.7, 0.2, False, found)
    np.testing.assert_allclose(found[3:, 3:], scores, atol=1e-5)
    assert distance == pytest.approx(np.sqrt(35) / largest)


def test_gaps_that_begin_and_go_on_cost_differently_as_in_librosa(uncompiled: None) -> None:
    near = (np.random.default_rng(5).random((20, 25)) < 0.4).astype(np.float64)
    near[1, 1] = 1
    scores, _ = librosa.sequence.rqa(near, gap_onset=0.7, gap_extend=0.2, knight_moves=True)
    padded = np.zeros((23, 28), np.float32)
    padded[3:, 3:] = near
    found = np.zeros_like(padded)
    kernel.longest_alignment(padded, 20, 25, 0.7, 0.2, False, found)
    np.testing.assert_allclose(found[3:, 3:], scores, atol=1e-5)


@pytest.mark.parametrize("wide", [False, True])
def test_qmax_and_dmax_from_end_to_end(
    songs: ChromaSet, distances: NDArray[np.float64], wide: bool
) -> None:
    near = neighbours(distances**2, stack=4, kappa=0.095)
    expected = longest(near, 0.5, wide).max()
    columns = Aligner(songs, ["qmax", "dmax"]).columns(PAIR)[0]
    assert columns[kernel.DMAX if wide else kernel.QMAX] == pytest.approx(expected)
    first, second = Aligner(songs, ["dmax" if wide else "qmax"]).score(
        PAIR, "dmax" if wide else "qmax"
    )
    # Divided by the root of the reference's length.
    assert first[0] == pytest.approx(expected / np.sqrt(33))
    assert second[0] == pytest.approx(expected / np.sqrt(40))


@pytest.mark.parametrize("values", [np.zeros(9), np.arange(9.0), np.repeat([2.0, 1.0, 3.0], 3)])
@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_a_limit_takes_the_k_smallest_and_what_ties_with_them(
    values: NDArray[np.float64], k: int
) -> None:
    limit = kernel._limit(values.astype(np.float32), k, -1.0)
    expected = (values <= np.sort(values)[k - 1]).sum()
    assert (values <= limit).sum() == expected


def test_simple_is_the_median_of_the_nearest_windows(songs: ChromaSet) -> None:
    window = 10
    clean = smoothed(songs.frames, 4).astype(np.float64)
    shift = optimal_transposition(songs.frames[0], songs.frames[1])
    x = clean[0, :40]
    y = np.roll(clean[1, :33], shift, axis=1)

    def profile(query: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
        least = [
            min(
                ((query[i : i + window] - reference[j : j + window]) ** 2).sum()
                for j in range(len(reference) - window + 1)
            )
            for i in range(len(query) - window + 1)
        ]
        return float(np.median(least))

    of_first, of_second = Aligner(songs, ["simple"]).score(PAIR, "simple")
    assert of_first[0] == pytest.approx(-profile(x, y), rel=1e-4)
    assert of_second[0] == pytest.approx(-profile(y, x), rel=1e-4)
    assert of_first[0] != of_second[0]


@pytest.mark.parametrize("measure", MEASURES)
def test_no_key_matters(measure: str) -> None:
    songs = random_songs(2, 30)
    moved = ChromaSet(np.stack([songs.frames[0], transposed(songs.frames[1], 5)]), songs.lengths)
    for each, other in zip(
        Aligner(songs, [measure]).score(PAIR, measure),
        Aligner(moved, [measure]).score(PAIR, measure),
        strict=True,
    ):
        np.testing.assert_allclose(each, other, rtol=1e-5)


def test_without_transposition_keys_matter() -> None:
    song = random_songs(1, 30).frames[0]
    both = ChromaSet(np.stack([song, transposed(song, 5)]), np.array([30, 30]))
    apart = Aligner(both, ["dtw"], Alignment(shifts=0)).score(PAIR, "dtw")[0]
    assert apart < -0.1
    assert Aligner(both, ["dtw"]).score(PAIR, "dtw")[0] == pytest.approx(0, abs=1e-6)


def test_pairs_that_share_buffers_do_not_see_each_other(songs: ChromaSet) -> None:
    # A long pair before a short one leaves numbers behind the short one's end.
    more = chroma_set(np.concatenate([songs.frames, random_songs(1, 40, 9).frames]))
    alone = Aligner(more, MEASURES).columns(np.array([[0, 1]]))
    after = Aligner(more, MEASURES).columns(np.array([[0, 2], [0, 1]]))[1:]
    np.testing.assert_array_equal(alone, after)


def test_distances_and_alignments_do_not_depend_on_the_order_of_a_pair(songs: ChromaSet) -> None:
    there = Aligner(songs, ["mean", "dtw", "qmax", "dmax"]).columns(PAIR)[0]
    back = Aligner(songs, ["mean", "dtw", "qmax", "dmax"]).columns(PAIR[:, ::-1].copy())[0]
    wanted = [kernel.MEAN, kernel.DTW, kernel.QMAX, kernel.DMAX]
    np.testing.assert_allclose(there[wanted], back[wanted], rtol=1e-5)


def test_more_keys_never_score_less() -> None:
    songs = random_songs(6, 30)
    one = Aligner(songs, ["qmax"]).all_pairs()["qmax"]
    three = Aligner(songs, ["qmax"], Alignment(shifts=3)).all_pairs()["qmax"]
    off = ~np.eye(6, dtype=bool)
    assert (three[off] >= one[off]).all()
    assert (three[off] > one[off]).any()


def test_batches_hold_every_pair_once() -> None:
    found = np.concatenate(list(pair_batches(23, 50)))
    assert len(found) == 23 * 22 // 2
    assert (found[:, 0] < found[:, 1]).all()
    assert len(np.unique(found, axis=0)) == len(found)


def test_a_song_that_is_too_short_is_named() -> None:
    raw = np.random.default_rng(0).random((3, 30, 12))
    raw[2, 8:] = 0
    with pytest.raises(InputError, match="song 2: has 8 frames"):
        Aligner(chroma_set(raw), ["dtw"])


def test_the_path_runs_through_the_passage_that_two_songs_share() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 60, 12))
    second[20:50] = np.roll(first[10:40], 4, axis=1)
    match = best_match(chroma_set(np.stack([first, second])), 0, 1)
    assert match.shift == 8
    offsets = match.path[:, 1] - match.path[:, 0]
    assert np.median(offsets) == 10
    assert len(match.path) >= 24
    assert (np.diff(match.path, axis=0) > 0).all()
    assert match.score == pytest.approx(
        Aligner(chroma_set(np.stack([first, second])), ["qmax"]).columns(PAIR)[0, kernel.QMAX]
    )
