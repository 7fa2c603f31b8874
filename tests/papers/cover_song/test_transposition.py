"""The optimal transposition index, and what public code gets wrong in it."""

from __future__ import annotations

import numpy as np
import pytest

from papers.cover_song.similarity.transposition import (
    best_shifts,
    global_profile,
    optimal_transposition,
    shift_products,
    transposed,
)


def frames(seed: int = 0) -> np.ndarray:
    """A song in which pitch classes differ."""
    rng = np.random.default_rng(seed)
    return (rng.random((40, 12)) * rng.random(12)).astype(np.float32)


@pytest.mark.parametrize("semitones", range(12))
def test_a_song_moved_down_is_moved_up_again(semitones: int) -> None:
    song = frames()
    assert optimal_transposition(song, transposed(song, -semitones)) == semitones


def test_a_song_and_itself_need_no_shift() -> None:
    assert optimal_transposition(frames(), frames()) == 0


def test_frames_move_along_pitches_and_not_along_time() -> None:
    # Rolled without an axis, the last pitch of a frame would move into the next frame.
    song = frames()
    moved = transposed(song, 1)
    np.testing.assert_array_equal(moved[:, 1:], song[:, :-1])
    np.testing.assert_array_equal(moved[:, 0], song[:, -1])
    np.testing.assert_allclose(moved.sum(axis=1), song.sum(axis=1), rtol=1e-6)


def test_the_index_is_the_place_of_the_largest_product_and_not_its_value() -> None:
    x, y = (global_profile(frames(seed)) for seed in (1, 2))
    products = [float(x @ np.roll(y, k)) for k in range(12)]
    np.testing.assert_allclose(shift_products(x, y), products)
    assert best_shifts(x, y, 1)[0] == int(np.argmax(products))
    assert best_shifts(x, y, 3).tolist() == np.argsort(products)[::-1][:3].tolist()


def test_scaling_a_song_changes_nothing() -> None:
    x, y = frames(3), frames(4)
    assert optimal_transposition(x, y) == optimal_transposition(100 * x, 0.01 * y)


def test_of_equal_products_the_lowest_shift_is_taken() -> None:
    # Period 3: shifts 0, 3, 6 and 9 are the same.
    song = np.tile([1.0, 0, 0], 4)[None].repeat(5, axis=0)
    assert optimal_transposition(song, song) == 0


def test_pairs_are_broadcast() -> None:
    songs = np.stack([frames(seed) for seed in range(3)])
    profiles = global_profile(songs)
    found = best_shifts(profiles[:, None], profiles[None])[..., 0]
    expected = [[optimal_transposition(x, y) for y in songs] for x in songs]
    np.testing.assert_array_equal(found, expected)


def test_other_numbers_of_pitch_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="12 pitch classes"):
        shift_products(np.ones(11), np.ones(11))
    with pytest.raises(ValueError, match="count 13"):
        best_shifts(np.ones(12), np.ones(12), 13)
