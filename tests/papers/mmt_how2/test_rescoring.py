"""Rescoring: what the weights' corners are, and what no grid can go below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from papers.mmt_how2.correction.rescoring import Candidate, NBestLists, grid_search
from papers.mmt_how2.translation.scoring import word_errors_each

GRID = [0.0, 0.1, 0.2, 0.5, 1.0]


def unequal_words(hypotheses: Sequence[str], references: Sequence[str]) -> list[int]:
    """Errors of hypotheses as long as their references: each wrong word is a substitution."""
    return [
        sum(a != b for a, b in zip(reference.split(), text.split(), strict=True))
        for reference, text in zip(references, hypotheses, strict=True)
    ]


def drawn(seed: int, sentences: int = 20, most: int = 6) -> tuple[list[list[Candidate]], list[str]]:
    """N-best lists of different sizes, the corrector's best first, and references."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(rng.choice(["pike", "pipe", "a", "the"], 3))

    def scores() -> list[float]:
        return [float(value) for value in -rng.exponential(3, 3)]

    lists = []
    for _ in range(sentences):
        row = [(text(), scores()) for _ in range(rng.integers(1, most + 1))]
        found = [Candidate(text, s[0], 4, s[1], s[2]) for text, s in row]
        lists.append(sorted(found, key=lambda one: -one.corrector))
    return lists, [text() for _ in range(sentences)]


def scored(seed: int) -> NBestLists:
    return NBestLists(*drawn(seed), errors=unequal_words)


seeds = st.integers(0, 1000)


@settings(max_examples=25)
@given(seeds)
def test_without_weights_the_corrector_keeps_its_order(seed: int) -> None:
    lists = scored(seed)
    order = lists.order(0, 0)
    for row, candidates in zip(order, lists.candidates, strict=True):
        assert row[: len(candidates)].tolist() == list(range(len(candidates)))


@settings(max_examples=25)
@given(seeds)
def test_all_weight_on_the_language_model_or_the_picture_is_its_order(seed: int) -> None:
    lists = scored(seed)
    by_language = [max(row, key=lambda one: one.language).text for row in lists.candidates]
    by_picture = [max(row, key=lambda one: one.joint).text for row in lists.candidates]
    assert lists.best(0, 1) == by_language
    assert lists.best(1, 0) == by_picture


@settings(max_examples=25)
@given(seeds, st.floats(-50, 50), st.sampled_from(GRID[:4]), st.sampled_from(GRID[:4]))
def test_a_constant_on_every_picture_score_of_a_list_changes_nothing(
    seed: int, constant: float, alpha: float, beta: float
) -> None:
    candidates, references = drawn(seed)
    moved = [
        [one._replace(joint=one.joint + (row + 1) * constant) for one in found]
        for row, found in enumerate(candidates)
    ]
    before = NBestLists(candidates, references, errors=unequal_words)
    after = NBestLists(moved, references, errors=unequal_words)
    assert before.best(alpha, beta) == after.best(alpha, beta)


@settings(max_examples=25)
@given(seeds)
def test_no_choice_beats_the_oracle_and_the_search_does_no_harm_where_it_searched(
    seed: int,
) -> None:
    candidates, references = drawn(seed)
    lists = {
        beam: NBestLists([row[:beam] for row in candidates], references, errors=unequal_words)
        for beam in (1, 6)
    }
    found = grid_search(lists, GRID, GRID)
    best = found[0]
    assert lists[best.beam].oracle_wer_pct <= best.wer_pct
    assert all(best.wer_pct <= of_beam.wer_pct(0, 0) for of_beam in lists.values())
    assert lists[best.beam].wer_pct(best.alpha, best.beta) == best.wer_pct
    assert lists[1].oracle_wer_pct == lists[1].wer_pct(0.5, 0.5)  # one candidate, no choice


def test_the_search_visits_each_pair_of_weights_that_leaves_the_corrector_a_part() -> None:
    weights = [round(0.1 * step, 1) for step in range(11)]
    found = grid_search({5: scored(0), 13: scored(0)}, weights, weights)
    assert len(found) == 2 * 66
    assert found == sorted(found, key=lambda one: one.wer_pct)
    assert found[0].beam == 5  # the same lists: the smaller beam


def test_sums_favour_short_candidates_and_means_do_not() -> None:
    lists = [[Candidate("the pike", -3.3, 3), Candidate("the pike swims", -3.6, 4)]]
    reference = ["the pike swims"]

    def errors(hypotheses: Sequence[str], _: Sequence[str]) -> list[int]:
        return [3 - len(text.split()) for text in hypotheses]

    assert NBestLists(lists, reference, "sum", errors).wer_pct(0, 0) == pytest.approx(100 / 3)
    assert NBestLists(lists, reference, "mean", errors).wer_pct(0, 0) == 0


def test_the_mean_of_a_score_is_over_words_and_the_end() -> None:
    candidate = Candidate("the pike", corrector=-6, tokens=8, joint=-9, language=-12)
    assert candidate.scores("mean") == (-0.75, -3, -4)
    assert candidate.scores("sum") == (-6, -9, -12)
    assert Candidate("", -1, 1, 0, -2).scores("mean") == (-1, 0, -2)


def test_word_errors_are_those_of_jiwer() -> None:
    jiwer = pytest.importorskip("jiwer")
    references = ["the pike swims", "a b c", "one", "a b c d"]
    hypotheses = ["the pipe swims now", "", "one", "b x d d"]
    found = word_errors_each(hypotheses, references)
    assert found == [2, 3, 0, 3]
    words = sum(len(text.split()) for text in references)
    assert sum(found) / words == pytest.approx(jiwer.wer(references, hypotheses))


def test_what_cannot_be_rescored_is_refused() -> None:
    one = [[Candidate("a", -1, 2)]]
    with pytest.raises(InputError, match="1 n-best lists for 2 references"):
        NBestLists(one, ["a", "b"], errors=unequal_words)
    with pytest.raises(InputError, match="sentence 1: 0 candidates"):
        NBestLists([[]], ["a"], errors=unequal_words)
    with pytest.raises(InputError, match="sentence 1: 1 candidates for the reference ''"):
        NBestLists(one, [""], errors=unequal_words)
    with pytest.raises(InputError, match="no finite number"):
        NBestLists([[Candidate("a", float("nan"), 2)]], ["a"], errors=unequal_words)
    lists = NBestLists(one, ["a"], errors=unequal_words)
    with pytest.raises(InputError, match=r"alpha 0.6, beta 0.5; allowed"):
        lists.totals(0.6, 0.5)
    with pytest.raises(InputError, match="0 among the weights"):
        grid_search({1: lists}, [0.1], [0])
