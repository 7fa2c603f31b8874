"""Claims of a paper as inequalities over records: each holds, fails or is undecided.

The interval is a percentile interval (95 %) of the statistic of means over resampled seeds; both
operands are resampled by the same seeds, so what a seed does to both cancels out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, FiniteFloat, model_validator

from common.config import NAME, SCALES, Scale, Settings, load_paper, read_yaml, validated
from common.errors import InputError
from common.results.records import Results

Statistic = Literal["mean", "difference", "ratio", "reduction"]
Verdict = Literal["holds", "fails", "undecided"]
RESAMPLES: Final = 10_000
#: With fewer seeds an interval says nothing.
FEWEST_SEEDS: Final = 3

Array = NDArray[np.float64]
_STATISTICS: Final[dict[str, Callable[[Array, Array], Array]]] = {
    "mean": lambda a, b: a,
    "difference": lambda a, b: a - b,
    "ratio": lambda a, b: a / b,
    "reduction": lambda a, b: 1 - a / b,
}


class Operand(Settings):
    """One metric of one arm."""

    experiment: str
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
    above: FiniteFloat | None = None
    below: FiniteFloat | None = None
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
    """A claim, its statistic over seeds, the interval and the verdict."""

    paper: str
    claim: str
    statement: str
    verdict: Verdict
    value: float | None
    interval: tuple[float, float] | None
    n: int
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


def read_claims(folder: Path) -> list[Claim]:
    """Claims of the paper in ``folder``.

    Raises:
        InputError: ``claims.yaml`` is absent or has an unknown key, experiment or arm.
    """
    path = folder / "claims.yaml"
    claims = validated(ClaimsFile, read_yaml(path), str(path)).claims
    paper = load_paper(folder)
    for claim in claims:
        for operand in (claim.a, claim.b or claim.a):
            where = f"{path}: claim {claim.claim}"
            study = paper.experiments.get(operand.experiment)
            if study is None:
                known = ", ".join(paper.experiments)
                raise InputError(f"{where}: no experiment {operand.experiment!r}; known: {known}")
            if operand.arm not in study.arms:
                known = ", ".join(study.arms)
                raise InputError(
                    f"{where}: {operand.experiment} has no arm {operand.arm!r}; known: {known}"
                )
            if claim.deterministic and any(len(seeds) > 1 for seeds in study.seeds.values()):
                raise InputError(
                    f"{where}: deterministic, but {operand.experiment} has several seeds;"
                    " allowed: one at every scale"
                )
    return claims


def experiments_of(claims: list[Claim]) -> list[str]:
    """Names of the experiments that claims speak of."""
    operands = (operand for claim in claims for operand in (claim.a, claim.b or claim.a))
    return list(dict.fromkeys(operand.experiment for operand in operands))


def judge_all(claims: list[Claim], results: Results) -> list[Judged]:
    """Verdicts on those of ``claims`` that go for the scale of ``results``."""
    return [judge(claim, results) for claim in claims if results.scale in claim.scales]


def judge(claim: Claim, results: Results) -> Judged:
    """The verdict on ``claim`` by the seeds that both operands have."""
    left = results.metric(claim.a.experiment, claim.a.arm, claim.a.metric)
    right = left
    if claim.b is not None:
        right = results.metric(claim.b.experiment, claim.b.arm, claim.b.metric)
    seeds = sorted(left.keys() & right.keys())
    a, b = ([side[seed] for seed in seeds] for side in (left, right))
    value, interval = bootstrap(claim.statistic, a, b)
    return Judged(
        paper=results.paper.paper,
        verdict=verdict(claim, interval, len(seeds)),
        value=value,
        interval=interval,
        n=len(seeds),
        inequality=claim.inequality,
        explanation=claim.explained(results.scale),
        **claim.model_dump(exclude={"explanation", "scales"}),
    )


def bootstrap(
    statistic: Statistic, a: ArrayLike, b: ArrayLike, resamples: int = RESAMPLES
) -> tuple[float | None, tuple[float, float] | None]:
    """Statistic of the means of paired samples and its 95 % percentile interval.

    Args:
        a, b: values by seed, shape (n,), paired.

    Returns:
        (value, (low, high)); None for what is undefined: no seeds, or a division by zero.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = len(a)
    if n == 0:
        return None, None
    chosen = np.random.default_rng(0).integers(n, size=(resamples, n))
    function = _STATISTICS[statistic]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = function(a.mean(), b.mean())
        resampled = function(a[chosen].mean(axis=1), b[chosen].mean(axis=1))
    if not (np.isfinite(value) and np.isfinite(resampled).all()):
        return (float(value) if np.isfinite(value) else None), None
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(value), (float(low), float(high))


def verdict(claim: Claim, interval: tuple[float, float] | None, n: int) -> Verdict:
    """``holds`` if all of ``interval`` satisfies the inequality, ``fails`` if none of it does."""
    if interval is None or (n < FEWEST_SEEDS and not claim.deterministic):
        return "undecided"
    low, high = interval
    if claim.above is not None:
        satisfied, violated = low > claim.above, high <= claim.above
    else:
        satisfied, violated = high < claim.threshold, low >= claim.threshold
    return "holds" if satisfied else "fails" if violated else "undecided"
