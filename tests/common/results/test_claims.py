"""Facts of claims: the interval over seeds and the verdict drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from common.errors import InputError
from common.results.claims import (
    Claim,
    chance,
    estimate,
    judge,
    judge_all,
    read_claims,
    student_interval,
    verdict,
)
from common.results.records import Results
from tests.common.results.example_results import CLAIMS, write_paper, write_records


def claim_of(**limits: float) -> Claim:
    operand = {"experiment": "search", "arm": "slow", "metric": "city_cost"}
    return Claim.model_validate(
        {"claim": "c", "statement": "s", "source": "t", "statistic": "mean", "a": operand} | limits
    )


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    a = np.array([1.0, 5.0, 2.0, 8.0])
    found = estimate("difference", a + 3, a)
    assert (found.value, found.interval) == (3, (3, 3))


def test_a_constant_ratio_has_an_interval_of_no_width() -> None:
    b = np.array([1.0, 5.0, 2.0, 8.0])
    assert estimate("ratio", 0.6 * b, b).interval == pytest.approx((0.6, 0.6), rel=1e-14)
    assert estimate("reduction", 0.6 * b, b).interval == pytest.approx((0.4, 0.4), rel=1e-14)


def test_the_interval_of_paired_differences_is_that_of_the_paired_t_test() -> None:
    draws = np.random.default_rng(1).normal(size=(2, 5))
    expected = stats.ttest_rel(*draws).confidence_interval(0.95)
    assert estimate("difference", *draws).interval == pytest.approx(tuple(expected))
    expected = stats.ttest_1samp(draws[0], 0).confidence_interval(0.95)
    assert estimate("mean", draws[0], draws[0]).interval == pytest.approx(tuple(expected))


def test_a_ratio_is_judged_by_the_t_test_of_logarithms() -> None:
    a, b = np.random.default_rng(2).lognormal(size=(2, 4))
    logarithms = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    low, high = np.exp(logarithms)
    found = estimate("ratio", a, b)
    assert found.value == pytest.approx(stats.gmean(a / b))
    assert found.interval == pytest.approx((low, high))
    assert estimate("ratio", b, a).interval == pytest.approx((1 / high, 1 / low))
    found = estimate("reduction", a, b)
    assert found.value == pytest.approx(1 - stats.gmean(a / b))
    assert found.interval == pytest.approx((1 - high, 1 - low))


def test_what_scales_both_operands_does_not_widen_the_interval_of_their_ratio() -> None:
    a, b = np.array([0.7, 0.65, 0.63]), np.ones(3)
    workloads = np.array([4870.0, 2026.0, 2992.0])
    assert student_interval(workloads)[0] < 0  # so Fieller's interval has no bounds
    alone, scaled = estimate("ratio", a, b), estimate("ratio", a * workloads, b * workloads)
    assert scaled.interval == pytest.approx(alone.interval)
    assert scaled.interval is not None
    assert scaled.interval[1] < 0.8


TRIALS = 20_000
#: Four standard deviations of a share of 0.95 and of 0.025 among the trials.
SPREAD, TAIL_SPREAD = 4 * np.sqrt([0.95 * 0.05 / TRIALS, 0.025 * 0.975 / TRIALS])


@pytest.mark.parametrize("n", [3, 5, 10])
def test_95_of_100_intervals_cover_and_a_claim_on_its_threshold_holds_in_2_5_percent(
    n: int,
) -> None:
    generator = np.random.default_rng(n)
    shared = generator.normal(size=(TRIALS, n))  # what a seed does to both operands
    a, b = (
        mean + shared + noise * generator.normal(size=(TRIALS, n))
        for mean, noise in ((6.0, 0.7), (10.0, 0.5))
    )
    scale = np.exp(0.5 * shared)
    ratios = 0.6 * scale * np.exp(0.2 * generator.normal(size=(TRIALS, n))) / scale
    for truth, (low, high) in (
        (6.0, student_interval(a)),
        (-4.0, student_interval(a - b)),
        (0.6, np.exp(student_interval(np.log(ratios)))),
    ):
        covered = np.mean((low <= truth) & (truth <= high))
        assert covered == pytest.approx(0.95, abs=SPREAD)
        assert np.mean(low > truth) == pytest.approx(0.025, abs=TAIL_SPREAD)
        assert np.mean(high < truth) == pytest.approx(0.025, abs=TAIL_SPREAD)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_ratio_of_normal_values_is_covered_all_the_same(n: int) -> None:
    generator = np.random.default_rng(n)
    a, b = (1 + 0.1 * generator.normal(size=(TRIALS, n)) for _ in range(2))
    low, high = np.exp(student_interval(np.log(a / b)))
    assert np.mean((low <= 1) & (high >= 1)) == pytest.approx(0.95, abs=SPREAD)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_with_a_long_tail_the_coverage_is_less_and_the_misses_lie_on_one_side(n: int) -> None:
    low, high = student_interval(np.random.default_rng(n).exponential(size=(TRIALS, n)))
    assert 0.87 < np.mean((low <= 1) & (high >= 1)) < 0.91
    assert np.mean(low > 1) < 0.01
    assert np.mean(high < 1) > 0.09


def test_the_interval_is_not_that_of_resampled_seeds() -> None:
    found = estimate("mean", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).interval
    half = 4.302653 / np.sqrt(3)  # Student's t of two degrees of freedom
    assert found == pytest.approx((2 - half, 2 + half), rel=1e-6)


def test_nothing_is_said_of_no_seeds_and_no_interval_is_given_of_one() -> None:
    assert estimate("mean", [], []).value is None
    found = estimate("mean", [2.0], [2.0])
    assert (found.value, found.interval) == (2.0, None)


@pytest.mark.parametrize("statistic", ["ratio", "reduction"])
@pytest.mark.parametrize("b", [[1.0, 0.0, 1.0], [1.0, -2.0, 1.0], [0.0, 0.0, 0.0]])
def test_a_ratio_to_what_is_not_positive_is_refused(statistic: Any, b: list[float]) -> None:
    found = estimate(statistic, [1.0, 1.0, 1.0], b)
    assert (found.value, found.interval) == (None, None)
    assert "b is not positive in every seed" in found.reason


def test_without_a_logarithm_the_interval_is_that_of_the_seeds_own_ratios() -> None:
    shares, of = np.array([0.0, 0.01, 0.02]), np.array([0.5, 0.4, 0.5])
    found = estimate("ratio", shares, of)
    expected = stats.ttest_1samp(shares / of, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(shares / of))
    assert found.interval == pytest.approx(tuple(expected))
    low, high = expected
    assert estimate("reduction", shares, of).interval == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("limits", "interval", "expected"),
    [
        ({"above": 1}, (1.1, 2.0), "holds"),
        ({"above": 1}, (1.0, 2.0), "undecided"),
        ({"above": 1}, (0.5, 1.0), "fails"),
        ({"below": 1}, (0.5, 0.9), "holds"),
        ({"below": 1}, (0.5, 1.0), "undecided"),
        ({"below": 1}, (1.0, 2.0), "fails"),
    ],
)
def test_the_verdict_flips_at_the_threshold(
    limits: dict[str, float], interval: tuple[float, float], expected: str
) -> None:
    assert verdict(claim_of(**limits), interval, 3)[0] == expected
    few = verdict(claim_of(**limits), interval, 2)
    assert few == ("undecided", "2 of the 3 seeds that an interval needs")


def test_only_seeds_that_both_operands_have_are_paired(tmp_path: Path) -> None:
    folder = write_paper(tmp_path)
    paths = write_records(folder, tmp_path / "results")
    claim = read_claims(folder)[0]
    results = Results.load(folder, "laptop", tmp_path / "results", root=tmp_path)
    judged = judge(claim, results)
    assert (judged.verdict, judged.n, judged.agree) == ("holds", 4, 4)
    assert judged.by_seed[2] == pytest.approx(1 - 12.5 / 14.5)
    next(path for path in paths if "fast/seed3" in str(path)).unlink()
    fewer = Results.load(folder, "laptop", tmp_path / "results", root=tmp_path, complete=False)
    assert sorted(judge(claim, fewer).by_seed) == [0, 1, 2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arm: slow", "arm: slo", "search has no arm 'slo'; known: slow, fast, greedy"),
        ("experiment: search", "experiment: serch", "no experiment 'serch'; known: search"),
        ("above: 0.05", "above: 0.05\n    below: 1", "one of 'above' and 'below'"),
        ("above: 0.05", "over: 0.05", "unknown key 'claims.0.over'"),
        ("above: 0.05", "above: .nan", "'claims.0.above': .* finite number, got nan"),
        ("above: 0.05", "below: .inf", "'claims.0.below': .* finite number, got inf"),
        ("statistic: mean", "statistic: median", "statistic"),
        ("statistic: mean", "statistic: ratio", "'b' is needed"),
        ("greedy_is_cheap", "slow_beats_fast", "given twice"),
    ],
)
def test_a_broken_claim_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    folder = write_paper(tmp_path)
    (folder / "claims.yaml").write_text(CLAIMS.replace(old, new, 1), encoding="utf8")
    with pytest.raises(InputError, match=message):
        read_claims(folder)


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    folder = write_paper(tmp_path)
    write_records(folder, tmp_path / "results")
    (folder / "claims.yaml").write_text(CLAIMS.replace("city_cost", "cost"), encoding="utf8")
    results = Results.load(folder, "laptop", tmp_path / "results", root=tmp_path)
    with pytest.raises(InputError, match="no metric 'cost'; it has city_cost, grid_cost"):
        judge(read_claims(folder)[0], results)


def test_one_seed_decides_only_where_nothing_is_random() -> None:
    interval = (1.5, 1.5)
    assert verdict(claim_of(above=1), interval, 1)[0] == "undecided"
    assert verdict(claim_of(above=1, deterministic=True), interval, 1) == ("holds", "")
    assert verdict(claim_of(above=2, deterministic=True), interval, 1) == ("fails", "")


def test_a_deterministic_claim_on_an_experiment_of_several_seeds_is_refused(tmp_path: Path) -> None:
    folder = write_paper(tmp_path)
    path = folder / "claims.yaml"
    path.write_text(CLAIMS.rstrip() + "\n    deterministic: true\n")
    with pytest.raises(InputError, match="deterministic, but search has several seeds"):
        read_claims(folder)


def test_a_claim_is_judged_at_its_scales_alone(tmp_path: Path) -> None:
    folder = write_paper(tmp_path)
    write_records(folder, tmp_path / "results")
    path = folder / "claims.yaml"
    path.write_text(CLAIMS.rstrip() + "\n    scales: [paper]\n", encoding="utf8")
    results = Results.load(folder, "laptop", tmp_path / "results", root=tmp_path)
    all_but_the_last = ["slow_beats_fast", "greedy_is_cheap"]
    assert [item.claim for item in judge_all(read_claims(folder), results)] == all_but_the_last
    results.scale = "paper"
    assert len(judge_all(read_claims(folder), results)) == 3


def test_an_explanation_by_scale_speaks_of_that_scale_alone(tmp_path: Path) -> None:
    folder = write_paper(tmp_path)
    path = folder / "claims.yaml"
    text = path.read_text(encoding="utf8")
    whole = "explanation: Our problems have more local optima than the paper's."
    path.write_text(text.replace(whole, "explanation: {laptop: Too small.}"), encoding="utf8")
    claim = next(item for item in read_claims(folder) if item.claim == "greedy_is_cheap")
    assert claim.explained("laptop") == "Too small."
    assert claim.explained("paper") == ""


def test_seeds_agree_whose_own_pair_satisfies_the_inequality(tmp_path: Path) -> None:
    folder = write_paper(tmp_path)
    write_records(folder, tmp_path / "results")
    results = Results.load(folder, "laptop", tmp_path / "results", root=tmp_path)
    judged = {item.claim: item for item in judge_all(read_claims(folder), results)}
    found = judged["greedy_differs_little"]
    ratios = [5.0 / 4.0, 3.9 / 4.1, 5.2 / 4.2, 4.1 / 4.3]
    assert list(found.by_seed.values()) == pytest.approx(ratios)
    assert (found.agree, found.n, found.verdict) == (2, 4, "undecided")
    assert found.reason == "the interval contains the threshold"
    assert judged["greedy_is_cheap"].agree == 0


def test_chance_alone_decides_a_fortieth_either_way_of_what_is_random(tmp_path: Path) -> None:
    folder = write_paper(tmp_path)
    write_records(folder, tmp_path / "results")
    results = Results.load(folder, "laptop", tmp_path / "results", root=tmp_path)
    judged = judge_all(read_claims(folder), results)
    same = judged[0].model_copy(update={"interval": (1.0, 1.0)})  # no seed changes it
    few = judged[0].model_copy(update={"n": 2})
    assert chance([same, few]).startswith("0 of 2 claims")
    many = chance([*judged[:1] * 80, same, few])
    assert many.startswith("80 of 82 claims")
    assert "about 2.0 of them hold and as many fail" in many
