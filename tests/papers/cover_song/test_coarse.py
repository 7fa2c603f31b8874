"""Networks for longer songs: coarser matrices, the key that Qmax prefers, pairs drawn anew."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.hpcp import Songs
from common.errors import InputError
from papers.cover_song.experiments.rank_by_coarse_network import sums_with_beats
from papers.cover_song.network import keyed_scoring
from papers.cover_song.network.architectures import published_network
from papers.cover_song.network.coarse import (
    CoarseMatrices,
    PairNetwork,
    begin_as,
    coarse_network,
    load_pair_network,
    save_coarse_network,
)
from papers.cover_song.network.keyed_scoring import (
    all_keyed_log_odds,
    chosen_keys,
    fitted,
    preselected_log_odds,
)
from papers.cover_song.network.matrices import cross_similarity
from papers.cover_song.network.scoring import pair_log_odds, save_network
from papers.cover_song.ranking.rankings import ranked
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import Aligner, Alignment, pair_shifts
from papers.cover_song.tasks import drawn_pairs
from papers.cover_song.tasks.collections import CollectionSettings, draw_layout
from papers.cover_song.tasks.drawn_pairs import DrawnPairs, sounding, with_every_work
from papers.cover_song.tasks.network_songs import TrainingSet, TrainingSongs
from tests.papers.cover_song.songs import random_songs
from tests.papers.runs import PaperRuns

PAPER = PaperRuns("cover_song")


def test_a_coarse_cell_is_a_mean_of_diagonals_and_blocks() -> None:
    given = torch.randn(2, 1, 13, 13, generator=torch.Generator().manual_seed(0))
    coarser = CoarseMatrices(factor=4, diagonal=3)
    found = coarser(given)
    assert found.shape[-1] == coarser.side(13) == 3
    for matrix, small in zip(given[:, 0].double().numpy(), found[:, 0].numpy(), strict=True):
        along = sum(matrix[k : k + 11, k : k + 11] for k in range(3))
        blocks = np.array(
            [[along[i : i + 4, j : j + 4].mean() for j in (0, 4, 8)] for i in (0, 4, 8)]
        )
        np.testing.assert_allclose(small, (blocks - blocks.mean()) / blocks.std(), atol=1e-5)


def test_a_matrix_without_spread_stays_zero() -> None:
    assert not CoarseMatrices(2, 3)(torch.zeros(1, 1, 40, 40)).any()


def test_a_stripe_outlasts_noise_better_along_diagonals() -> None:
    """The contrast of a diagonal stripe among noise, with and without means along diagonals."""
    noise = torch.randn(50, 1, 60, 60, generator=torch.Generator().manual_seed(1))
    contrast = {}
    for diagonal in (1, 3):
        small = CoarseMatrices(2, diagonal)(noise + torch.eye(60))
        contrast[diagonal] = small.diagonal(dim1=-2, dim2=-1).mean().item()
    assert contrast[3] > 1.3 * contrast[1]


def test_without_coarsening_it_is_the_published_network() -> None:
    torch.manual_seed(0)
    plain = published_network(32, 4).eval()
    network = coarse_network(32, factor=1, diagonal=1, filters=4).eval()
    begin_as(network, plain)
    songs, pairs = random_songs(4, 32), np.array([[0, 1], [2, 3]])
    found = pair_log_odds(network, songs, pairs, shifts=pair_shifts(songs, pairs, 1)[:, 0])
    np.testing.assert_allclose(found, pair_log_odds(plain, songs, pairs), atol=1e-5)
    with pytest.raises(InputError, match="do not fit"):
        begin_as(coarse_network(64, 1, 1, 4), plain)


def test_a_network_of_either_form_is_read_back(tmp_path: Path) -> None:
    coarse = coarse_network(66, factor=2, diagonal=3, filters=4).eval()
    path = tmp_path / "coarse.safetensors"
    save_coarse_network(coarse, path, frames=66, filters=4, keys=3)
    found = load_pair_network(path)
    assert (found.frames, found.keys) == (66, 3)
    given = torch.randn(2, 1, 66, 66)
    torch.testing.assert_close(found.network(given), coarse(given))
    plain = published_network(32, 4)
    save_network(plain, path, architecture="published", frames=32, filters=4)
    assert load_pair_network(path)[1:] == (32, 1)
    save_network(plain, path, architecture="coarse", frames=66, filters=4, factor=2)
    with pytest.raises(InputError, match="needed: frames, factor, diagonal, keys, filters"):
        load_pair_network(path)
    told = {"frames": 66, "filters": 4, "factor": 2, "diagonal": 3, "keys": 1}
    save_network(plain, path, architecture="coarse", **told)
    with pytest.raises(InputError, match="do not fit its metadata"):
        load_pair_network(path)
    path.write_text("none")
    with pytest.raises(InputError, match="no weights in safetensors form"):
        load_pair_network(path)


def in_another_key(shift: int) -> ChromaSet:
    """A song, and the same moved down; more songs."""
    songs = random_songs(4, 40)
    frames = songs.frames.copy()
    frames[1] = np.roll(frames[0], -shift, axis=1)
    return ChromaSet(frames, songs.lengths)


@pytest.mark.parametrize("shift", [0, 5, 11])
def test_qmax_prefers_the_key_in_which_songs_match(shift: int) -> None:
    songs = in_another_key(shift)
    assert chosen_keys(songs, np.array([[0, 1]]), 12).tolist() == [shift]


def some_network() -> PairNetwork:
    """Without any training, for 40 s and two keys."""
    torch.manual_seed(0)
    return PairNetwork(coarse_network(40, 1, 3, 4).eval(), 40, 2)


def test_both_scores_are_those_of_single_pairs() -> None:
    given, songs = some_network(), in_another_key(7)
    told: list[int] = []
    log_odds, qmax = all_keyed_log_odds(given, songs, advance=told.append)
    assert sum(told) == 6
    expected = Aligner(songs, ["qmax"], Alignment(shifts=2)).all_pairs()["qmax"]
    np.testing.assert_array_equal(qmax, expected)
    np.testing.assert_array_equal(log_odds, log_odds.T)
    pair = np.array([[1, 3]])
    single = pair_log_odds(given.network, songs, pair, shifts=chosen_keys(songs, pair, 2))
    np.testing.assert_allclose(log_odds[1, 3], single[0], atol=1e-5)


@pytest.mark.parametrize("candidates", [9, 50])
def test_with_all_songs_as_candidates_the_network_sees_all_pairs(candidates: int) -> None:
    given, songs = some_network(), random_songs(10, 40)
    found = preselected_log_odds(given, songs, candidates)
    np.testing.assert_allclose(found, all_keyed_log_odds(given, songs).log_odds, atol=1e-5)


@pytest.mark.parametrize("candidates", [1, 3])
def test_what_the_network_did_not_see_follows_in_the_order_of_qmax(candidates: int) -> None:
    given, songs = some_network(), random_songs(10, 40)
    told: list[int] = []
    found = preselected_log_odds(given, songs, candidates, advance=told.append)
    log_odds, qmax = all_keyed_log_odds(given, songs)
    best = np.array(
        [[places[row] < candidates for row in range(10)] for places in map(ranks, qmax)]
    )
    seen = best | best.T
    np.testing.assert_allclose(found[seen], log_odds[seen], atol=1e-5)
    rest = ~seen & ~np.eye(10, dtype=bool)
    assert rest.any(axis=1).all()
    assert found[rest].max() <= min(found[seen].min(), 0) - 1
    for row, where, by_qmax in zip(found, rest, qmax, strict=True):
        np.testing.assert_array_equal(np.argsort(row[where]), np.argsort(by_qmax[where]))
    # Each pair once, by Qmax and then by the network.
    assert sum(told) == 45 + np.triu(seen).sum()


def ranks(row: np.ndarray) -> np.ndarray:
    """The place of each candidate, from 0 on; the query, NaN, is last."""
    return np.argsort(np.argsort(-row))


def test_one_song_has_no_candidates() -> None:
    assert np.isnan(preselected_log_odds(some_network(), random_songs(1, 40), 5)).all()


def test_few_candidates_need_little_memory_beside_the_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_seen(_: object, __: ChromaSet, pairs: np.ndarray, *___: object, **____: object):  # type: ignore[no-untyped-def]
        return np.zeros(len(pairs))

    monkeypatch.setattr(keyed_scoring, "pair_log_odds", none_seen)
    given, peaks = some_network(), []
    for count in (150, 300):
        songs = random_songs(count, 14)
        preselected_log_odds(given, songs, 2)
        tracemalloc.start()
        preselected_log_odds(given, songs, 2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Scores take 8 bytes a pair of songs, keys 1, and which pairs are seen 1 to 3.
    assert peaks[1] - peaks[0] < 16 * (300**2 - 150**2)


def test_short_songs_end_in_silence_and_long_ones_are_cut() -> None:
    songs = random_songs(3, 40)
    longer = fitted(songs, 50)
    assert longer.frames.shape == (3, 50, 12)
    assert not longer.frames[:, 40:].any()
    np.testing.assert_array_equal(longer.lengths, songs.lengths)
    assert fitted(songs, 33).seconds == 33


def some_data() -> TrainingSet:
    """Four works of three versions, of which the last is held out; one song is silent."""
    songs = random_songs(12, 36)
    frames, lengths = songs.frames.copy(), songs.lengths.copy()
    frames[4], lengths[4] = 0, 0
    works = np.repeat(np.arange(4), 3)
    return TrainingSet(ChromaSet(frames, lengths), works, np.arange(9), np.arange(9, 12))


def test_silent_songs_are_not_trained_on() -> None:
    found = sounding(some_data())
    assert len(found.songs) == 11
    assert (found.songs.lengths > 0).all()
    assert found.works[found.train].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert found.works[found.validation].tolist() == [3, 3, 3]


def test_an_epoch_has_its_own_pairs_and_half_of_them_exchanged() -> None:
    data = sounding(some_data())
    pairs = DrawnPairs(data, 12, keys=2, seed=3)
    assert pairs.cover_count == 7
    epochs = []
    for epoch in (0, 1, 0):
        pairs.set_epoch(epoch)
        labels = [pairs[index][1] for index in range(len(pairs))]
        assert labels == [1] * 6 + [0] * 6
        works = data.works[data.train][pairs._pairs]
        assert ((works[:, 0] == works[:, 1]) == np.array(labels, bool)).all()
        epochs.append(pairs._pairs.tolist())
    assert epochs[0] == epochs[2] != epochs[1]
    assert 0 < pairs._exchanged.sum() < 12
    for index, exchanged in enumerate(pairs._exchanged):
        part = slice(index, index + 1)
        plain = cross_similarity(pairs._songs, pairs._pairs[part], pairs._shifts[part])[0]
        expected = plain.transpose(-1, -2) if exchanged else plain
        torch.testing.assert_close(pairs[index][0], expected, rtol=0, atol=0)
    with pytest.raises(InputError, match="pairs 3: allowed: even"):
        DrawnPairs(data, 3, keys=2, seed=3)


def test_every_work_leaves_out_what_is_judged_validated_on_or_leaking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.papers.cover_song.test_experiments import some_songs

    songs: Songs = some_songs()
    np.save(tmp_path / "leaks.npy", np.array([5, 6]))
    held_out = CollectionSettings(data="shs100k", seconds=64, works=3, versions=8, singles=5)
    settings = TrainingSongs(
        data="shs100k", seconds=40, works=254, validation=0.1, held_out=held_out
    )

    class OnlyLeaks:
        seed = 0

        def needed(self, _name: str) -> list[Path]:
            return [tmp_path]

    monkeypatch.setattr(drawn_pairs, "shs100k_hpcp", lambda: songs)
    validated = np.array([8, 9])
    places = np.flatnonzero(np.isin(songs.set_id, validated))
    given = TrainingSet(
        random_songs(len(places), 40), songs.set_id[places], places[:0], np.arange(len(places))
    )
    found = with_every_work(given, settings, OnlyLeaks())  # type: ignore[arg-type]
    judged = draw_layout(songs, held_out, 0, np.array([5, 6])).evaluation
    banned = {5, 6, 8, 9} | set(songs.set_id[judged].tolist())
    trained = set(found.works[found.train].tolist())
    assert trained == set(songs.set_id.tolist()) - banned
    assert set(found.works[found.validation].tolist()) == {8, 9}
    np.testing.assert_array_equal(found.songs.frames[found.validation], given.songs.frames)
    other = TrainingSongs(data="synthetic", seconds=40, works=2, versions=2, validation=0.1)
    with pytest.raises(InputError, match="every_work"):
        with_every_work(given, other, OnlyLeaks())  # type: ignore[arg-type]


def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PAPER.settings(
        "long_network", "paper_works", warm=False, epochs=2, core={"save_every": 1}
    )
    found = PAPER.metrics("long_network", settings, tmp_path / "whole")
    again = PAPER.metrics_after_a_stop(
        "long_network", settings, tmp_path / "stopped", monkeypatch, saves=3
    )
    assert again == found
    first, second = (
        (tmp_path / name / "out" / "network.safetensors").read_bytes()
        for name in ("whole", "stopped")
    )
    assert first == second
    assert load_pair_network(tmp_path / "whole" / "out" / "network.safetensors").frames == 66


def test_sums_with_beats_hold_every_part_with_equal_weight() -> None:
    rng = np.random.default_rng(0)
    names = ("network", "qmax", "dtw", "simple")
    seconds, beats = ({name: rng.random((5, 5)) for name in names} for _ in range(2))
    sums = sums_with_beats(seconds, beats)
    off = ~np.eye(5, dtype=bool)
    one_by_one = sum(ranked(part, "zscore") for part in [*seconds.values(), *beats.values()])
    np.testing.assert_allclose(sums["eight"][off], one_by_one[off])
    # A scale of its own does not give a part another weight.
    stretched = sums_with_beats({**seconds, "qmax": 7 * seconds["qmax"] + 3}, beats)
    for name, scores in sums.items():
        np.testing.assert_allclose(stretched[name][off], scores[off])
