"""The index: candidates among very many songs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from papers.cover_song.experiments.find_candidates import _filling, _recall
from papers.cover_song.similarity import cover_index
from papers.cover_song.similarity.cover_index import CoverIndex, learn_work_space
from tests.papers.runs import PaperRuns

PAPER = PaperRuns("cover_song")


def unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found.astype(np.float32)


def test_the_nearest_are_those_of_sorting_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((90, 6)))
    queries = np.array([3, 40, 89, 7])
    likeness = vectors[queries] @ vectors.T
    likeness[np.arange(4), queries] = -np.inf
    expected = np.argsort(-likeness, axis=1, kind="stable")[:, :20]
    index = CoverIndex(vectors)
    for block in (1, 200, 1 << 20):  # one query at a time, two, all
        monkeypatch.setattr(cover_index, "_BLOCK", block)
        np.testing.assert_array_equal(index.nearest(vectors[queries], 20, queries), expected)
    one = index.nearest(vectors[:1], 20)[0]
    np.testing.assert_array_equal(one, np.argsort(-vectors @ vectors[0], kind="stable")[:20])
    assert index.nearest(vectors[:1], 1).tolist() == [[0]]  # itself, if it is not left out
    with pytest.raises(InputError, match="count 90: allowed: 1 to 89"):
        index.nearest(vectors[:1], 90, np.array([0]))
    with pytest.raises(InputError, match="finite"):
        CoverIndex(np.full((2, 3), np.nan, np.float32))


def works_in_noise(rng: np.random.Generator, works: int) -> tuple[np.ndarray, np.ndarray]:
    """Roots whose first four columns tell works; the others vary a lot and tell nothing."""
    labels = np.repeat(np.arange(works), 4)
    of_work = rng.random((works, 4))[labels] + 0.02 * rng.random((len(labels), 4))
    return np.concatenate([of_work, 2 * rng.random((len(labels), 12))], axis=1) ** 2, labels


def test_a_space_learned_on_some_works_finds_versions_of_others() -> None:
    rng = np.random.default_rng(0)
    space = learn_work_space(*works_in_noise(rng, 60), dimensions=4)
    given, labels = works_in_noise(rng, 40)
    everyone = np.arange(len(labels))
    found = {
        name: _recall(CoverIndex(vectors).nearest(vectors, 5, everyone), labels, everyone)
        for name, vectors in (("learned", space(given)), ("plain", unit(given)))
    }
    assert found["learned"] > 0.9 > 0.2 > found["plain"]


@pytest.mark.parametrize(
    ("works", "dimensions"), [([0, 0, 1, 1], 2), ([0, 1, 2, 3], 1), ([0, 0, 1, 1], 0)]
)
def test_a_space_needs_works_with_versions(works: list[int], dimensions: int) -> None:
    with pytest.raises(InputError, match=f"dimensions {dimensions}"):
        learn_work_space(np.ones((4, 6)), works, dimensions)


def test_recall_counts_covers_and_no_filling() -> None:
    works = np.array([0, 0, 0, 1, 1])
    found = np.array([[1, 7, 3], [4, 9, 0]])  # songs from 5 on are filling
    assert _recall(found, works, np.array([0, 3])) == pytest.approx((0.5 + 1) / 2)


def test_filling_is_spread_as_what_it_stands_for() -> None:
    rng = np.random.default_rng(1)
    like = unit(rng.standard_normal((4000, 3)) * [1, 0.3, 0.1] + [4, 0, 0])
    drawn = _filling(like, 4000, rng)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(drawn.mean(axis=0), like.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(like.T), atol=1e-3)


def test_covers_of_made_up_works_are_among_the_candidates(tmp_path: Path) -> None:
    settings = PAPER.settings("candidates", "learned", candidates=[4, 10, 400])
    found = PAPER.metrics("candidates", settings, tmp_path)
    assert found["songs"] == 500
    shares = [found[f"recall_{count}"] for count in (4, 10, 400)]
    assert shares == sorted(shares)
    assert found["recall_10_real"] > 0.4 > 10 / 35  # chance among 35 others
    assert 0.8 < found["filling_400"] / found["filling"] < 1.2
    with pytest.raises(InputError, match="songs 20: 36 are real"):
        PAPER.metrics("candidates", settings.model_copy(update={"songs": 20}), tmp_path / "few")
