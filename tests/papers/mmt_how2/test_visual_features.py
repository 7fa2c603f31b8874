"""Spectra of features, and what moves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from papers.mmt_how2.corpora.heard_speech import HeardSpeech
from papers.mmt_how2.corpora.picture_vectors import (
    Pictures,
    picture_vectors,
    prototypes,
    scenes_of_videos,
    shared_directions,
)
from papers.mmt_how2.corpora.visual_features import (
    cumulative_shares_pct,
    scene_accuracy,
    variance_shares,
)
from papers.mmt_how2.translation.fairseq_start import start_fairseq

SCENES = 50


def top10_and_accuracy(seed: int = 1, **knobs: float) -> tuple[float, float]:
    """Percent of variance of the ten leading directions, and share of scenes told."""
    pictures = Pictures(size=256, directions=3, **knobs)  # type: ignore[arg-type]
    looks = prototypes(SCENES, pictures.size, 100 + seed)
    rng = np.random.default_rng(200 + seed)
    scenes = scenes_of_videos(3000, SCENES, pictures.per_video, rng)
    vectors = picture_vectors(scenes, looks, pictures, 300 + seed)
    share = cumulative_shares_pct(variance_shares(vectors))[10]
    return share, scene_accuracy(vectors, looks, scenes)


def test_shares_are_of_all_dimensions_and_not_of_those_kept() -> None:
    deviations = np.array([4.0, 3.0, 2.0, 1.0])
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    # Rows at plus and minus each deviation along its own axis have that covariance exactly.
    rows = np.concatenate([np.diag(deviations), -np.diag(deviations)]) @ rotation + 100
    wanted = deviations**2 / (deviations**2).sum()
    np.testing.assert_allclose(variance_shares(rows, 2), wanted[:2], rtol=1e-10)
    np.testing.assert_allclose(variance_shares(rows), wanted, rtol=1e-10)


def test_shares_are_those_of_singular_values_for_features_in_half_precision() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float16) + np.float16(5)
    exact = rows.astype(np.float64)
    squares = np.linalg.svd(exact - exact.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(variance_shares(rows), squares / squares.sum(), rtol=1e-9)


def test_shares_add_up() -> None:
    found = cumulative_shares_pct(np.full(100, 0.01))
    assert found == pytest.approx({10: 10, 20: 20, 50: 50, 100: 100})
    assert cumulative_shares_pct(np.array([0.7, 0.3]))[10] == pytest.approx(100)


@pytest.mark.parametrize("rows", [np.ones((5, 3)), np.ones((1, 3))], ids=["alike", "single"])
def test_features_that_do_not_vary_are_refused(rows: np.ndarray) -> None:
    with pytest.raises(InputError, match="do not vary"):
        variance_shares(rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_no_numbers_are_named(value: float) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8))
    rows[[7, 30], 2] = value
    with pytest.raises(InputError, match="row 8 of the features holds NaN or infinity"):
        variance_shares(rows)


def test_features_are_checked_in_float32_and_block_by_block(tmp_path: Path) -> None:
    start_fairseq()
    from papers.mmt_how2.fairseq_plugin.visual_features import VisualFeatures, check_finite

    path = tmp_path / "train.npy"
    good = np.random.default_rng(0).standard_normal((30, 3, 4))
    for row, value in ((0, np.nan), (16, -np.inf), (29, 1e39)):  # float32 ends at 3.4e38
        bad = good.copy()
        bad[row, 1, 2] = value
        np.save(path, bad)
        with pytest.raises(InputError, match=rf"^{path}: row {row + 1} holds NaN or infinity"):
            VisualFeatures(path, 30, 4)
        for rows in (1, 7, 16, 100):
            with pytest.raises(InputError, match=rf"^{path}: row {row + 1} holds NaN"):
                check_finite(path, bad, rows)
    np.save(path, good)
    found = VisualFeatures(path, 30, 4).rows(np.array([29, 0]))
    np.testing.assert_array_equal(found.numpy(), good[[29, 0]].astype(np.float32))


def test_pictures_of_speech_are_checked(tmp_path: Path) -> None:
    speech = HeardSpeech({}, {}, tmp_path)
    with pytest.raises(InputError, match=r"train\.npy: no such file"):
        speech.read_pictures("train")
    np.save(tmp_path / "train.npy", np.array([[0.5, 1.0], [np.nan, 2.0]]))
    with pytest.raises(InputError, match=r"train\.npy: row 2 holds NaN or infinity"):
        speech.read_pictures("train")
    np.save(tmp_path / "train.npy", np.array([[0.5, 1.0]]))
    np.testing.assert_array_equal(speech.read_pictures("train"), np.float32([[0.5, 1.0]]))


def test_the_leading_share_rises_with_common_directions_though_scenes_stay_visible() -> None:
    (plain, sure), (half, _), (strong, still) = (
        top10_and_accuracy(common=common) for common in (0.0, 0.5, 1.0)
    )
    assert plain + 10 < half < strong - 10
    assert sure == 1
    assert still > 0.98


def test_the_leading_share_rises_with_sentences_that_share_a_picture() -> None:
    once, ten, sixty = (top10_and_accuracy(per_video=count)[0] for count in (1, 10, 60))
    assert once < ten < sixty


def test_noise_lowers_the_share_and_the_accuracy() -> None:
    (plain, sure), (noisy, unsure) = (top10_and_accuracy(noise=noise) for noise in (0.3, 5.0))
    assert noisy < plain / 2
    assert unsure < sure - 0.1


def test_unrelated_pictures_have_the_spectrum_of_good_ones() -> None:
    (good, sure), (unrelated, told) = (top10_and_accuracy(quality=q) for q in (1.0, 0.0))
    assert unrelated == pytest.approx(good, abs=2)
    assert sure == 1
    assert told == pytest.approx(1 / SCENES, abs=0.01)


def test_common_directions_are_orthonormal_and_the_same_for_every_corpus() -> None:
    shared = shared_directions(64, 2)
    np.testing.assert_allclose(shared @ shared.T, np.eye(2), atol=1e-12)
    looks = prototypes(4, 64, 0)
    scenes = np.zeros(2000, dtype=np.int64)
    for seed in (1, 2):
        vectors = picture_vectors(scenes, looks, Pictures(common=2.0, noise=0.0), seed)
        clutter = (vectors - looks[0]) @ shared.T
        np.testing.assert_allclose(clutter @ shared, vectors - looks[0], atol=1e-5)
        np.testing.assert_allclose(clutter.std(0), [2, 2], atol=0.15)
