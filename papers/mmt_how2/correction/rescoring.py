"""Which of a corrector's candidates to take: Choe et al. 2019, section 3.3.

    S_tot = (1 - alpha - beta) S_ppl + alpha S_JE + beta S_LM

over the n best hypotheses of a beam search. The paper adds perplexities to log-probabilities; here
all three are natural log-probabilities, so that more is better for each: the corrector's own, the
joint embedding's and the language model's. Either all three are sums over the sentence or all are
means (:data:`Length`), so that none favours short candidates alone; the paper does not state it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from papers.mmt_how2.translation.scoring import word_errors_each

Length = Literal["sum", "mean"]

#: Word errors S + D + I of each hypothesis: hypotheses, references -> counts.
ErrorCounts = Callable[[Sequence[str], Sequence[str]], Sequence[int]]


class Candidate(NamedTuple):
    """A hypothesis and the sums of its log-probabilities.

    Attributes:
        tokens: number of log-probabilities that ``corrector`` sums, the end of sentence included.
    """

    text: str
    corrector: float
    tokens: int
    joint: float = 0.0
    language: float = 0.0

    def scores(self, length: Length) -> tuple[float, float, float]:
        """S_ppl, S_JE, S_LM; a mean is over the corrector's tokens, and else over words and end."""
        if length == "sum":
            return self.corrector, self.joint, self.language
        words = len(self.text.split()) + 1
        return self.corrector / self.tokens, self.joint / words, self.language / words


class Choice(NamedTuple):
    """Weights, the beam whose candidates they choose among, and the choice's word error rate."""

    alpha: float
    beta: float
    beam: int
    wer_pct: float


class NBestLists:
    """The candidates of a set of sentences, with the errors of each.

    Args:
        candidates: of each sentence, one at least.
        references: one for each sentence.
        errors: counts word errors; jiwer's unless given.

    Raises:
        InputError: not one list for each reference, an empty one, a reference without words, or
            a score that is no finite number.
    """

    def __init__(
        self,
        candidates: Sequence[Sequence[Candidate]],
        references: Sequence[str],
        length: Length = "mean",
        errors: ErrorCounts | None = None,
    ) -> None:
        check_candidates(candidates, references)
        self.candidates = candidates
        sizes = np.array([len(one) for one in candidates])
        self.present = np.arange(sizes.max()) < sizes[:, None]
        self.scores = np.zeros((*self.present.shape, 3))
        self.scores[self.present] = [one.scores(length) for row in candidates for one in row]
        if not np.isfinite(self.scores).all():
            raise InputError("a candidate's score is no finite number")
        self.errors = np.zeros(self.present.shape, dtype=np.int64)
        self.errors[self.present] = (errors or word_errors_each)(
            [one.text for row in candidates for one in row],
            [text for text, size in zip(references, sizes, strict=True) for _ in range(size)],
        )
        self.words = sum(len(text.split()) for text in references)

    def totals(self, alpha: float, beta: float) -> npt.NDArray[np.float64]:
        """S_tot (sentences, candidates), of absent candidates minus infinity.

        Raises:
            InputError: a weight, or what they leave to the corrector, is negative.
        """
        own = 1 - alpha - beta
        if min(alpha, beta) < 0 or own < -1e-9:
            raise InputError(
                f"alpha {alpha}, beta {beta}; allowed: from 0, with a sum of 1 at most"
            )
        total = self.scores @ np.array([max(own, 0.0), alpha, beta])
        return np.where(self.present, total, -np.inf)

    def order(self, alpha: float, beta: float) -> npt.NDArray[np.int64]:
        """Places (sentences, candidates), best first; equals keep their order, absent ones end."""
        return np.argsort(-self.totals(alpha, beta), axis=1, kind="stable")

    def best(self, alpha: float, beta: float) -> list[str]:
        """The chosen candidate of each sentence."""
        places = self.order(alpha, beta)[:, 0]
        return [row[place].text for row, place in zip(self.candidates, places, strict=True)]

    def wer_pct(self, alpha: float, beta: float) -> float:
        """Word error rate of the chosen candidates."""
        chosen = self.order(alpha, beta)[:, :1]
        return float(100 * np.take_along_axis(self.errors, chosen, 1).sum() / self.words)

    @property
    def oracle_wer_pct(self) -> float:
        """Word error rate of the candidates with the fewest errors: no choice has a lower one."""
        fewest = np.where(self.present, self.errors, np.iinfo(np.int64).max).min(1)
        return float(100 * fewest.sum() / self.words)


def check_candidates(candidates: Sequence[Sequence[Candidate]], references: Sequence[str]) -> None:
    """Raises InputError unless each reference has words and candidates."""
    if len(candidates) != len(references):
        raise InputError(
            f"{len(candidates)} n-best lists for {len(references)} references; one for each"
        )
    if not references:
        raise InputError("0 references; one at least is needed")
    for number, (row, text) in enumerate(zip(candidates, references, strict=True), start=1):
        if not row or not text.split():
            raise InputError(
                f"sentence {number}: {len(row)} candidates for the reference {text!r}; "
                "a candidate and a word at least are needed"
            )


def grid_search(
    lists: Mapping[int, NBestLists], alphas: Sequence[float], betas: Sequence[float]
) -> list[Choice]:
    """Word error rates of all weights with a sum of 1 at most, at each beam, the best first.

    Among equal rates the corrector's own order comes first: the smallest weights, then the
    smallest beam. The paper searched all three on validation and found 0.1, 0.2 and 13.

    Args:
        lists: of the validation set, by the beam that found them.

    Raises:
        InputError: no lists, or 0 is not among the weights, so that rescoring could do harm on
            the very set that it was chosen on.
    """
    if not lists or 0 not in alphas or 0 not in betas:
        raise InputError(
            f"beams {list(lists)}, alphas {list(alphas)}, betas {list(betas)}; "
            "a beam at least is needed, and 0 among the weights"
        )
    found = [
        Choice(alpha, beta, beam, of_beam.wer_pct(alpha, beta))
        for beam, of_beam in lists.items()
        for alpha in alphas
        for beta in betas
        if alpha + beta <= 1 + 1e-9
    ]
    return sorted(found, key=lambda one: (one.wer_pct, one.alpha + one.beta, one.beam, one.alpha))
