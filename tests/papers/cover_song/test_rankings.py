"""Rankings and what they are worth, on matrices that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchmetrics.functional.retrieval as torchmetrics
from sklearn.metrics import average_precision_score

from common.errors import InputError
from papers.cover_song.ranking.metrics import retrieval
from papers.cover_song.ranking.rankings import RANKINGS, rank_sum, ranked


def matrix(count: int = 20, seed: int = 0) -> np.ndarray:
    """Scores without ties."""
    scores = np.random.default_rng(seed).normal(size=(count, count))
    np.fill_diagonal(scores, np.nan)
    return scores


def test_metrics_of_a_ranking_made_by_hand() -> None:
    works = np.array([0, 0, 0, 1, 2])
    scores = np.zeros((5, 5))
    # Query 0 finds its covers at ranks 1 and 3, query 1 at 2 and 3, query 2 at 1 and 2.
    scores[0] = [9, 4, 2, 3, 1]
    scores[1] = [3, 9, 2, 4, 1]
    scores[2] = [4, 3, 9, 2, 1]
    judged = retrieval(scores, works)
    assert judged.queries == 3
    precisions = [(1 / 1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2, 1.0]
    assert judged.map == pytest.approx(np.mean(precisions))
    assert judged.mr1 == pytest.approx((1 + 2 + 1) / 3)
    assert judged.mnit10 == 2
    assert judged.top1 == pytest.approx(2 / 3)
    assert judged.top10 == 1


def test_map_is_that_of_scikit_learn() -> None:
    scores, works = matrix(), np.arange(20) % 6
    expected = []
    for query in range(20):
        others = np.arange(20) != query
        expected.append(
            average_precision_score((works == works[query])[others], scores[query][others])
        )
    assert retrieval(scores, works).map == pytest.approx(np.mean(expected))


def test_the_other_metrics_are_those_of_torchmetrics() -> None:
    # Above 0: torchmetrics finds no cover at a score below.
    scores, works = np.exp(matrix(40, seed=4)), np.arange(40) % 6
    first, among_ten, hits = [], [], []
    for query in range(40):
        others = np.arange(40) != query
        given = (
            torch.from_numpy(scores[query][others]),
            torch.from_numpy((works == works[query])[others]),
        )
        first.append(1 / torchmetrics.retrieval_reciprocal_rank(*given).item())
        among_ten.append(10 * torchmetrics.retrieval_precision(*given, top_k=10).item())
        hits.append([torchmetrics.retrieval_hit_rate(*given, top_k=k).item() for k in (1, 10)])
    judged = retrieval(scores, works)
    assert judged.mr1 == pytest.approx(np.mean(first))
    assert judged.mnit10 == pytest.approx(np.mean(among_ten))
    assert (judged.top1, judged.top10) == pytest.approx(np.mean(hits, axis=0))
    assert 0 < judged.top1 < judged.top10 < 1


def test_ten_of_ten_is_the_most_that_can_be_found_among_ten() -> None:
    works = np.repeat(np.arange(3), 11)
    scores = (works[:, None] == works[None]) + 1e-3 * np.random.default_rng(0).random((33, 33))
    judged = retrieval(scores, works)
    assert (judged.map, judged.mnit10, judged.mr1) == (1, 10, 1)


def test_ties_are_no_help() -> None:
    judged = retrieval(np.zeros((6, 6)), np.array([0, 0, 1, 2, 3, 4]))
    assert judged.mr1 == 5  # behind the four others


def test_a_query_is_no_candidate_of_its_own() -> None:
    scores = matrix(4)
    np.fill_diagonal(scores, np.inf)
    works = np.array([0, 0, 1, 1])
    again = scores.copy()
    np.fill_diagonal(again, -np.inf)
    assert retrieval(scores, works) == retrieval(again, works)


def test_queries_may_be_some_of_the_songs() -> None:
    scores, works = matrix(), np.arange(20) % 6
    each = [retrieval(scores, works, [query]).map for query in (3, 7)]
    assert retrieval(scores, works, [3, 7]).map == pytest.approx(np.mean(each))


@pytest.mark.parametrize(
    ("scores", "works", "queries", "said"),
    [
        (np.zeros((3, 3)), [0, 1, 2], None, "none has a cover"),
        (np.zeros((3, 3)), [0, 0, 1], [2], "query 2: no other song"),
        (np.full((3, 3), np.nan), [0, 0, 1], None, "NaN off the diagonal"),
        (np.zeros((3, 4)), [0, 0, 1], None, r"\(3, 4\)"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    scores: np.ndarray, works: list[int], queries: list[int] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        retrieval(scores, works, queries)


def test_correlation_is_pearsons_of_rows() -> None:
    scores = matrix()
    rows = scores.copy()
    np.fill_diagonal(rows, np.nanmax(scores))
    expected = np.corrcoef(rows)
    np.fill_diagonal(expected, np.nan)
    np.testing.assert_allclose(ranked(scores, "correlation"), expected, atol=1e-12)


def test_cosine_is_that_of_rows() -> None:
    scores = np.abs(matrix())
    rows = scores.copy()
    np.fill_diagonal(rows, np.nanmax(scores))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = ranked(scores, "cosine")
    np.testing.assert_allclose(found[2, 5], unit[2] @ unit[5])
    np.testing.assert_allclose(found, found.T)


def test_standardised_scores_of_a_reference_have_mean_zero_and_deviation_one() -> None:
    found = ranked(matrix(), "zscore")
    np.testing.assert_allclose(np.nanmean(found, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(found, axis=0), 1)


def test_a_hub_is_nobodys_first_after_standardisation() -> None:
    scores = matrix(seed=2)
    scores[:, 4] += 100  # near to all
    off = ~np.eye(20, dtype=bool)

    def first(found: np.ndarray) -> np.ndarray:
        return np.where(off, found, -np.inf).argmax(axis=1)

    assert (first(scores) == 4).sum() == 19
    for ranking in ("zscore", "proximity"):
        assert (first(ranked(scores, ranking)) == 4).sum() < 5


def test_proximity_is_the_share_of_songs_that_are_farther_from_both() -> None:
    scores = matrix(6, seed=3)
    off = ~np.eye(6, dtype=bool)
    row = (scores[1, 2] > scores[1][off[1]]).sum() + 1
    column = (scores[1, 2] > scores[:, 2][off[:, 2]]).sum() + 1
    assert ranked(scores, "proximity")[1, 2] == pytest.approx(row * column / 25, abs=1e-8)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_rankings_leave_scores_alone_and_never_name_a_song_itself(ranking: str) -> None:
    scores = matrix()
    before = scores.copy()
    found = ranked(scores, ranking)
    np.testing.assert_array_equal(scores, before)
    assert np.isnan(np.diag(found)).all()
    assert np.isfinite(found[~np.eye(20, dtype=bool)]).all()


def test_fusion_sums_ranks() -> None:
    first, second = matrix(4, 1), matrix(4, 2)
    found = rank_sum(first, second)

    def rank(row: np.ndarray, place: int) -> int:
        return int((np.delete(row, 0) > row[place]).sum())

    assert found[0, 2] == -(rank(first[0], 2) + rank(second[0], 2))


def test_scores_that_are_no_numbers_are_named() -> None:
    scores = matrix(5)
    scores[3, 1] = np.inf
    with pytest.raises(InputError, match=r"scores\[3, 1\] is inf"):
        ranked(scores, "raw")
    with pytest.raises(InputError, match="at least 3 songs"):
        ranked(np.zeros((2, 2)), "zscore")
    assert np.isnan(ranked(np.zeros((1, 1)), "raw")).all()
    with pytest.raises(InputError, match="ranking 'best'"):
        ranked(matrix(), "best")  # type: ignore[arg-type]
