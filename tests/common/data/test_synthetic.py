"""Seeded damage does what it says: counts, rates, accuracies, and the same bytes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.images import digits
from common.data.synthetic import long_tailed, noisy_labels, scene_pictures, weak_labels
from common.errors import InputError

LABELS = np.repeat(np.arange(10), 200)
PROTOTYPES = np.eye(4, 64)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: long_tailed(LABELS, 50, seed),
        lambda seed: noisy_labels(LABELS, 0.6, 10, seed),
        lambda seed: weak_labels(LABELS, 10, [0.4, 0.8], 0.3, seed),
        lambda seed: scene_pictures(LABELS % 4, PROTOTYPES, 0.3, seed, quality=0.5),
    ],
)
def test_a_seed_and_its_generator_give_the_same_bytes_and_another_seed_does_not(
    make: Callable[[Any], Any],
) -> None:
    assert make(3).tobytes() == make(np.random.default_rng(3)).tobytes()
    assert make(3).tobytes() != make(4).tobytes()


def test_long_tail_is_the_published_profile_in_class_order() -> None:
    kept = long_tailed(LABELS, 100, 0, largest=100, order="index")
    # 100 * 100^(-r / 9) rounded, r = 0 ... 9
    assert np.bincount(LABELS[kept]).tolist() == [100, 60, 36, 22, 13, 8, 5, 3, 2, 1]


@given(imbalance=st.floats(1, 200), seed=st.integers(0, 2**32 - 1), largest=st.integers(1, 200))
def test_long_tail_in_random_order_is_a_permutation_of_the_same_sizes(
    imbalance: float, seed: int, largest: int
) -> None:
    kept = long_tailed(LABELS, imbalance, seed, largest)
    in_order = long_tailed(LABELS, imbalance, seed, largest, order="index")
    sizes, ordered = (np.bincount(LABELS[some], minlength=10) for some in (kept, in_order))
    assert sorted(sizes, reverse=True) == ordered.tolist()
    assert ordered[0] == largest
    assert len(np.unique(kept)) == len(kept)


def test_long_tail_defaults_to_the_smallest_class_of_real_digits() -> None:
    labels = digits().labels
    sizes = np.bincount(labels[long_tailed(labels, 20, 1)])
    assert sizes.max() == np.bincount(labels).min() == 174
    assert sizes.min() == round(174 / 20)


@given(rate=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_noise_to_another_class_makes_exactly_the_share_wrong(rate: float, seed: int) -> None:
    noisy = noisy_labels(LABELS, rate, 10, seed)
    assert np.sum(noisy != LABELS) == round(rate * len(LABELS))
    assert noisy.min() >= 0
    assert noisy.max() <= 9


def test_noise_is_uniform_over_the_other_classes_and_to_any_class_keeps_a_tenth_right() -> None:
    zeros = np.zeros(90_000, dtype=np.int64)
    other = np.bincount(noisy_labels(zeros, 1.0, 10, 0), minlength=10)
    assert other[0] == 0
    assert np.abs(other[1:] - 10_000).max() < 500  # five standard deviations of a binomial
    right = np.mean(noisy_labels(zeros, 1.0, 10, 0, to="any") == 0)
    assert right == pytest.approx(0.1, abs=0.005)


def test_weak_labels_have_the_accuracy_and_coverage_asked_for() -> None:
    labels = np.tile(np.arange(5), 8000)
    accuracy, coverage = np.array([0.4, 0.6, 0.8, 1.0]), np.array([0.1, 0.3, 0.5, 1.0])
    votes = weak_labels(labels, 5, accuracy, coverage, 0)
    voted = votes != -1
    assert np.mean(voted, axis=0) == pytest.approx(coverage, abs=0.015)
    right = np.sum(votes == labels[:, None], axis=0) / voted.sum(axis=0)
    assert right == pytest.approx(accuracy, abs=0.04)
    assert voted[:, 3].all()
    assert (votes[:, 3] == labels).all()


def test_votes_of_two_functions_are_independent_given_the_class() -> None:
    labels = np.zeros(40_000, dtype=np.int64)
    right = weak_labels(labels, 2, [0.7, 0.6], 1.0, 0) == 0
    assert np.mean(right[:, 0] & right[:, 1]) == pytest.approx(0.7 * 0.6, abs=0.012)


def test_pictures_without_noise_are_prototypes_and_noise_has_the_norm_asked_for() -> None:
    scenes = np.arange(4000) % 4
    clean = scene_pictures(scenes, PROTOTYPES, 0.0, 0)
    assert (clean == PROTOTYPES[scenes]).all()
    noisy = scene_pictures(scenes, PROTOTYPES, 0.3, 0)
    norms = np.linalg.norm(noisy - clean, axis=1)
    assert np.sqrt(np.mean(norms**2)) == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize(("quality", "shown"), [(0.0, 1 / 4), (0.5, 5 / 8), (1.0, 1.0)])
def test_a_picture_of_quality_q_shows_its_scene_with_chance_q_and_chance(
    quality: float, shown: float
) -> None:
    scenes = np.arange(20_000) % 4
    pictures = scene_pictures(scenes, PROTOTYPES, 0.0, 0, quality)
    assert np.mean(pictures.argmax(axis=1) == scenes) == pytest.approx(shown, abs=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: long_tailed(LABELS, 0.5, 0), r"imbalance 0\.5"),
        (lambda: long_tailed(LABELS, 10, 0, largest=201), "largest 201; allowed 1 to 200"),
        (lambda: long_tailed(LABELS[:0], 10, 0), "largest 0"),
        (lambda: noisy_labels(LABELS, 1.2, 10, 0), r"rate 1\.2"),
        (lambda: noisy_labels(LABELS, 0.2, 9, 0), "labels must be 0 to classes - 1 = 8"),
        (lambda: weak_labels(LABELS, 10, [0.4, -0.1], 0.3, 0), "accuracy"),
        (lambda: weak_labels(LABELS, 10, 0.4, 3.0, 0), r"coverage 3\.0"),
        (lambda: scene_pictures(LABELS % 4, PROTOTYPES, -1.0, 0), r"noise -1\.0"),
        (lambda: scene_pictures(LABELS % 4, PROTOTYPES, 0.1, 0, 2.0), r"quality 2\.0"),
    ],
)
def test_what_is_not_allowed_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
