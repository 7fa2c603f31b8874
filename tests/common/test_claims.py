"""Facts of claims: the bootstrap interval and the verdict drawn from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.results.claims import Claim, bootstrap, judge, judge_all, read_claims, verdict
from common.results.records import Results
from tests.common.example_results import CLAIMS, write_paper, write_records


def claim_of(**limits: float) -> Claim:
    operand = {"experiment": "search", "arm": "slow", "metric": "city_cost"}
    return Claim.model_validate(
        {"claim": "c", "statement": "s", "source": "t", "statistic": "mean", "a": operand} | limits
    )


def test_a_constant_difference_has_an_interval_of_no_width() -> None:
    a = np.array([1.0, 5.0, 2.0, 8.0])
    value, interval = bootstrap("difference", a + 3, a)
    assert value == pytest.approx(3)
    assert interval == pytest.approx((3, 3))


def test_a_constant_ratio_has_an_interval_of_no_width() -> None:
    b = np.array([1.0, 5.0, 2.0, 8.0])
    assert bootstrap("ratio", 0.6 * b, b)[1] == pytest.approx((0.6, 0.6))
    assert bootstrap("reduction", 0.6 * b, b)[1] == pytest.approx((0.4, 0.4))


def test_the_interval_of_a_mean_approaches_the_normal_one() -> None:
    sample = np.random.default_rng(1).normal(size=400)
    _, interval = bootstrap("mean", sample, sample)
    half = 1.96 * sample.std() / np.sqrt(len(sample))
    assert interval == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.01)


def test_the_interval_is_the_same_every_time() -> None:
    sample = [1.0, 2.0, 4.0]
    assert bootstrap("mean", sample, sample) == bootstrap("mean", sample, sample)


def test_a_division_by_zero_and_an_empty_sample_are_undefined() -> None:
    assert bootstrap("ratio", [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]) == (None, None)
    assert bootstrap("mean", [], []) == (None, None)


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
    assert verdict(claim_of(**limits), interval, 3) == expected
    assert verdict(claim_of(**limits), interval, 2) == "undecided"


def test_only_seeds_that_both_operands_have_are_paired(tmp_path: Path) -> None:
    folder = write_paper(tmp_path)
    paths = write_records(folder, tmp_path / "results")
    claim = read_claims(folder)[0]
    results = Results.load(folder, "laptop", tmp_path / "results", root=tmp_path)
    assert judge(claim, results).verdict == "holds"
    assert judge(claim, results).n == 4
    next(path for path in paths if "fast/seed3" in str(path)).unlink()
    fewer = Results.load(folder, "laptop", tmp_path / "results", root=tmp_path, complete=False)
    assert judge(claim, fewer).n == 3


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
    assert verdict(claim_of(above=1), interval, 1) == "undecided"
    assert verdict(claim_of(above=1, deterministic=True), interval, 1) == "holds"
    assert verdict(claim_of(above=2, deterministic=True), interval, 1) == "fails"


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
