"""Claims of a paper as inequalities over records: each holds, fails or is undecided.

The interval (95 %) is Student's, of the mean over seeds of what each seed gives alone: its value,
its own difference or the logarithm of its own ratio, so that what a seed does to both operands
cancels out. A ratio is therefore the geometric mean of the seeds' own. Fieller's interval, of the
ratio of means, has no bounds where Student's of the denominator holds zero: it would decide nothing
on workloads of 4,870, 2,026 and 2,992 s that all get about a third shorter.

Assumed is that seeds are independent and that what is averaged is normal over them. Then the
coverage is exact for any number of seeds: a claim whose true value is its threshold is found to
hold in 2.5 % of cases and to fail in 2.5 %. With a long tail it is less, and the misses lie on one
side: 88 % with three to five seeds of an exponential distribution, 11 % of them below the mean.

Where every seed gives the same value there is nothing to estimate: the interval has no width. So it
is of metrics that do not depend on the seed (bytes); a coarse one (a share of thirty images) can
tie by chance, which no interval tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator
from scipy.special import stdtrit

from common.errors import InputError
from common.experiments.documents import read_yaml
from common.experiments.schema import NAME, SCALES, Paper, Scale, load_paper
from common.experiments.settings import Settings, validated
from common.results.lineage import Runs
from common.results.records import Results

Statistic = Literal["mean", "difference", "ratio", "reduction"]
Verdict = Literal["holds", "fails", "undecided"]
COVERAGE: Final = 0.95
#: With fewer an interval rests on its assumption alone.
FEWEST_SEEDS: Final = 3

Array = NDArray[np.float64]
_STATISTICS: Final[dict[str, Callable[[Array, Array], Array]]] = {
    "mean": lambda a, b: a,
    "difference": lambda a, b: a - b,
    "ratio": lambda a, b: a / b,
    "reduction": lambda a, b: 1 - a / b,
}


class Operand(Settings):
    """One metric of one arm in one case, which may be left out where there is one."""

    experiment: str
    case: str = ""
    arm: str
    metric: str


class Claim(Settings):
    """A sentence of the paper: ``statistic`` of ``a`` (and ``b``) lies above or below a number."""

    claim: str = Field(pattern=NAME)
    statement: str = Field(min_length=1)
    source: str = Field(min_length=1)
    statistic: Statistic
    a: Operand
    b: Operand | None = None
    above: float | None = None
    below: float | None = None
    published: str = ""
    explanation: str | dict[Scale, str] = Field(
        "", description="why it fails or stays undecided; by scale where the reasons differ"
    )
    scales: list[Scale] = Field(
        list(SCALES), min_length=1, description="where it is judged: real data lie at one scale"
    )
    deterministic: bool = Field(
        False, description="nothing in the runs is random: one seed decides, without an interval"
    )

    @model_validator(mode="after")
    def _check(self) -> Claim:
        if (self.above is None) == (self.below is None):
            raise ValueError("one of 'above' and 'below' is needed")
        if (self.statistic == "mean") != (self.b is None):
            raise ValueError(f"'b' is needed by all statistics but mean, not by {self.statistic}")
        return self

    def explained(self, scale: Scale) -> str:
        """The explanation that goes for ``scale``."""
        if isinstance(self.explanation, str):
            return self.explanation
        return self.explanation.get(scale, "")

    @property
    def threshold(self) -> float:
        """The number to compare with."""
        return float(self.below if self.above is None else self.above)  # type: ignore[arg-type]

    def satisfied(self, value: float) -> bool:
        """Whether ``value`` is on the side that the claim allows; on the threshold it is not."""
        return value > self.above if self.above is not None else value < self.threshold

    @property
    def inequality(self) -> str:
        """The claim as a formula."""
        sides = {"mean": "a", "difference": "a − b", "ratio": "a / b", "reduction": "1 − a / b"}
        return f"{sides[self.statistic]} {'<' if self.above is None else '>'} {self.threshold:g}"


class ClaimsFile(Settings):
    """``papers/<paper>/claims.yaml``."""

    claims: list[Claim] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> ClaimsFile:
        names = [claim.claim for claim in self.claims]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"claim {twice[0]!r} is given twice")
        return self


class Judged(Settings):
    """A claim, its statistic over seeds, the interval and the verdict.

    ``by_seed`` is what each seed gives alone, None where that divides by zero; ``agree`` of these
    satisfy the inequality. ``reason`` says why a claim is undecided.
    """

    paper: str
    claim: str
    statement: str
    verdict: Verdict
    reason: str
    value: float | None
    interval: tuple[float, float] | None
    n: int
    by_seed: dict[int, float | None]
    agree: int
    statistic: Statistic
    above: float | None
    below: float | None
    inequality: str
    a: Operand
    b: Operand | None
    source: str
    published: str
    explanation: str
    deterministic: bool

    @property
    def by_chance(self) -> bool:
        """Whether seeds differ, so that chance has a part in the verdict."""
        if self.interval is None or self.n < FEWEST_SEEDS:
            return False
        low, high = self.interval
        return low < high

    @property
    def runs(self) -> list[Runs]:
        """The records that it was judged by."""
        seeds = list(self.by_seed)
        sides = (self.a, self.b or self.a) if seeds else ()
        places = dict.fromkeys((side.experiment, side.case, side.arm) for side in sides)
        return [
            Runs(experiment=experiment, case=case, arm=arm, seeds=seeds)
            for experiment, case, arm in places
        ]


def read_claims(folder: Path) -> list[Claim]:
    """Claims of the paper in ``folder``.

    Raises:
        InputError: ``claims.yaml`` is absent or has an unknown key, experiment, case or arm.
    """
    path = folder / "claims.yaml"
    claims = validated(ClaimsFile, read_yaml(path), str(path)).claims
    paper = load_paper(folder)
    return [_with_cases(claim, paper, f"{path}: claim {claim.claim}") for claim in claims]


def _with_cases(claim: Claim, paper: Paper, where: str) -> Claim:
    """The claim with its operands' cases. Raises InputError for what the paper does not have."""

    def checked(operand: Operand) -> Operand:
        study = paper.experiments.get(operand.experiment)
        if study is None:
            known = ", ".join(paper.experiments)
            raise InputError(f"{where}: no experiment {operand.experiment!r}; known: {known}")
        case = study.case(operand.case or None, f"{where}: {operand.experiment}")
        if operand.arm not in study.arms:
            known = ", ".join(study.arms)
            raise InputError(
                f"{where}: {operand.experiment} has no arm {operand.arm!r}; known: {known}"
            )
        if not any((case, operand.arm) in study.runs(scale) for scale in claim.scales):
            raise InputError(
                f"{where}: {operand.experiment}: {operand.arm} does not run in case {case} at"
                f" {', '.join(claim.scales)}: it would never be judged"
            )
        seeds = [paper.seeds(operand.experiment, case, scale) for scale in study.cases[case].at]
        if claim.deterministic and max(map(len, seeds)) > 1:
            raise InputError(
                f"{where}: deterministic, but {operand.experiment} has several seeds;"
                " allowed: one at every scale"
            )
        return operand.model_copy(update={"case": case})

    b = claim.b and checked(claim.b)
    return claim.model_copy(update={"a": checked(claim.a), "b": b})


def chance(judged: Sequence[Judged]) -> str:
    """How many verdicts chance alone would give among so many claims, as a sentence."""
    random = sum(item.by_chance for item in judged)
    expected = random * (1 - COVERAGE) / 2
    return (
        f"{random} of {len(judged)} claims are judged by an interval over random seeds: were each"
        f" exactly on its threshold, chance alone would let about {expected:.1f} of them hold and"
        " as many fail."
    )


def name_experiments(claims: list[Claim]) -> list[str]:
    """Names of the experiments that claims speak of."""
    operands = (operand for claim in claims for operand in (claim.a, claim.b or claim.a))
    return list(dict.fromkeys(operand.experiment for operand in operands))


def judge_all(claims: list[Claim], results: Results) -> list[Judged]:
    """Verdicts on those of ``claims`` that go for the scale of ``results``."""
    return [judge(claim, results) for claim in claims if results.scale in claim.scales]


def judge(claim: Claim, results: Results) -> Judged:
    """The verdict on ``claim`` by the seeds that both operands have."""
    left = results.metric(claim.a.experiment, claim.a.arm, claim.a.metric, claim.a.case)
    right = left
    if claim.b is not None:
        right = results.metric(claim.b.experiment, claim.b.arm, claim.b.metric, claim.b.case)
    seeds = sorted(left.keys() & right.keys())
    a, b = ([side[seed] for seed in seeds] for side in (left, right))
    found = estimate(claim.statistic, a, b)
    interval = found.interval
    if claim.deterministic and found.value is not None and not found.reason:
        interval = found.value, found.value
    decision, reason = verdict(claim, interval, len(seeds))
    return Judged(
        paper=results.paper.paper,
        verdict=decision,
        reason=found.reason or reason,
        value=found.value,
        interval=interval,
        n=len(seeds),
        by_seed=dict(zip(seeds, found.by_seed, strict=True)),
        agree=sum(value is not None and claim.satisfied(value) for value in found.by_seed),
        inequality=claim.inequality,
        explanation=claim.explained(results.scale),
        **claim.model_dump(exclude={"explanation", "scales"}),
    )


@dataclass(frozen=True)
class Estimate:
    """A statistic over seeds, its 95 % interval, and what each seed gives alone.

    ``interval`` is None with fewer than two seeds, and where ``reason`` says why there is none.
    """

    value: float | None
    interval: tuple[float, float] | None
    by_seed: list[float | None]
    reason: str = ""


def estimate(statistic: Statistic, a: ArrayLike, b: ArrayLike) -> Estimate:
    """``statistic`` of paired samples over seeds, with its interval.

    A ratio or reduction is of the geometric mean of the seeds' own ratios. It asks for a ``b`` that
    is positive in every seed: "twice as much" as nothing or as a loss says nothing. Where ``a`` is
    not positive in one (a share of none), there is no logarithm, and it is of their mean.

    Args:
        a, b: values by seed, shape (n,), paired.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(a) == 0:
        return Estimate(None, None, [])
    with np.errstate(divide="ignore", invalid="ignore"):
        own = _STATISTICS[statistic](a, b)
    by_seed = [float(each) if np.isfinite(each) else None for each in own]
    divides = statistic in ("ratio", "reduction")
    if divides and b.min() <= 0:
        return Estimate(None, None, by_seed, "b is not positive in every seed: no ratio to it")
    if own.min() == own.max():
        same = float(own[0])
        return Estimate(same, (same, same) if len(own) > 1 else None, by_seed)
    if divides and a.min() > 0:
        logarithms = np.log(a / b)
        centre, ends = np.exp(logarithms.mean()), np.exp(student_interval(logarithms))
        if statistic == "reduction":
            centre, ends = 1 - centre, 1 - ends[::-1]
    else:
        centre, ends = own.mean(), student_interval(own)
    return Estimate(float(centre), (float(ends[0]), float(ends[1])), by_seed)


def student_interval(values: Array) -> Array:
    """Student's 95 % interval of the mean of independent normal values.

    Args:
        values: shape (..., n), n >= 2.

    Returns:
        Its low and high ends, shape (2, ...).
    """
    n = values.shape[-1]
    centre = values.mean(axis=-1)
    half = stdtrit(n - 1, (1 + COVERAGE) / 2) * values.std(axis=-1, ddof=1) / np.sqrt(n)
    return np.array([centre - half, centre + half])


def verdict(claim: Claim, interval: tuple[float, float] | None, n: int) -> tuple[Verdict, str]:
    """The verdict, and why if it is ``undecided``.

    ``holds`` if all of ``interval`` satisfies the inequality, ``fails`` if none of it does.
    """
    if n == 0:
        return "undecided", "no seed of both operands was run at this scale"
    if n < FEWEST_SEEDS and not claim.deterministic:
        return "undecided", f"{n} of the {FEWEST_SEEDS} seeds that an interval needs"
    if interval is None:
        return "undecided", "not defined"
    satisfied = [claim.satisfied(end) for end in interval]
    if all(satisfied):
        return "holds", ""
    low, high = interval
    violated = high <= claim.threshold if claim.above is not None else low >= claim.threshold
    if violated:
        return "fails", ""
    return "undecided", "the interval contains the threshold"
