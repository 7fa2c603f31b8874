"""What a trainer's loss is over, found by comparing samples alone with their part of a batch.

A sum over samples gives each sample the gradient that it has alone, a mean over n samples 1/n of
it, and a mean over labels the share of the batch's labels that are the sample's own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from common.errors import InputError

LOGGER = logging.getLogger("logra")

Declared = Literal["auto", "mean", "sum"]

#: Samples of a batch that are looked at alone.
ALONE = 8
#: Relative error of a ratio of two gradients that rounding explains, where nothing tells more.
ROUNDING = 1e-3
#: A sample whose gradient alone points elsewhere by this much depends on the others, or on chance.
ELSEWHERE = 0.05


class Example(NamedTuple):
    """A batch: its ids, the mask of its tokens, how many terms a mean loss has, a call that runs it
    forward and backward, and one that gives the batch of some of its samples, if it can be cut."""

    ids: list[str]
    mask: Tensor | None
    terms: int
    backward: Callable[[], None]
    part: Callable[[Sequence[int]], Example | None] | None = None


class LossReduction:
    """How a trainer's loss is reduced, checked on batches 1, 2, 4, 8... since :meth:`begin`.

    Args:
        declared: by the user; ``auto`` to find out.
        over: what a mean is thought to be over, for messages.
        allowed: what to change where it is neither, for messages.
    """

    def __init__(self, declared: Declared, over: str, allowed: str) -> None:
        self.kind: Declared = declared
        self._over, self._allowed = over, allowed
        self._seen, self._told = 0, False

    def begin(self) -> None:
        """Other batches begin: the next one is checked."""
        self._seen = 0

    def scale(self, terms: int) -> float:
        """What the loss of a batch was multiplied by, beside a sum over its terms."""
        return 1.0 if self.kind == "sum" else 1.0 / max(terms, 1)

    def check(self, example: Example, gradients: Callable[[Callable[[], None]], Tensor]) -> None:
        """Look at some samples of a batch alone, if it is the batch's turn.

        Args:
            gradients: per-sample gradients (n, width) of what a call runs forward and backward.

        Raises:
            InputError: the loss is not as declared, neither a sum nor a mean, or it cannot be found
                out and nothing was declared.
        """
        self._seen += 1
        if self._seen & (self._seen - 1):
            return
        n = len(example.ids)
        # A batch of one sample says nothing; twice the same one is a batch of two.
        whole = example if n > 1 else _part(example, [0, 0])
        if whole is None:
            self._leave_open("the batch cannot be cut into samples")
            return
        together = gradients(whole.backward)[:n].double()
        # Where there is no gradient there is nothing to scale, and nothing to see.
        told = together.norm(dim=1).nonzero().flatten().tolist()
        if not told:
            self._seen = 0
            return
        several = min(len(told), ALONE)
        places = [told[place * len(told) // several] for place in range(several)]
        alone = [_part(example, [place]) for place in places]
        singles = [single for single in alone if single is not None]
        if not singles:
            self._leave_open("the batch cannot be cut into samples")
            return
        together = together[places]
        found, off = [], 0.0
        for row, single in zip(together, singles, strict=True):
            if single.terms < 1:
                continue  # a mean over nothing
            own = gradients(single.backward)[0].double()
            length = float(own @ own)
            if length == 0:  # it has one beside others
                off = math.inf
                continue
            ratio = float(row @ own) / length
            off = max(off, float((row - ratio * own).norm() / row.norm().clamp_min(1e-300)))
            found.append((ratio, single.terms / whole.terms))
        if off > ELSEWHERE:
            self._leave_open(
                "a sample's gradient alone and beside others differ by more than a factor: its loss"
                " depends on the others, or on chance"
            )
            return
        if not found:
            self._leave_open("no sample that was looked at has terms of its own")
            return
        self._judge(found, max(ROUNDING, 3 * off), n)

    def _judge(self, found: list[tuple[float, float]], error: float, n: int) -> None:
        fits = {
            "mean": all(math.isclose(ratio, share, rel_tol=error) for ratio, share in found),
            "sum": all(math.isclose(ratio, 1.0, rel_tol=error) for ratio, _ in found),
        }
        if self.kind == "auto":
            matches: list[Declared] = [kind for kind in ("mean", "sum") if fits[kind]]  # type: ignore[misc]
            if len(matches) == 1:
                self.kind = matches[0]
                LOGGER.info("the loss is a %s over %s", self.kind, self._over)
                return
        elif fits[self.kind]:
            return
        ratio, share = found[0]
        expected = {"mean": f"{share:.4g} for a mean over {self._over}", "sum": "1 for a sum"}
        wanted = expected.values() if self.kind == "auto" else [expected[self.kind]]
        other = "" if self.kind == "auto" else f", loss_reduction '{_other(fits)}'"
        raise InputError(
            f"loss_reduction {self.kind!r}: in a batch of {n} a sample has {ratio:.4g} of the"
            f" gradient that it has alone; it should be {' or '.join(wanted)}; allowed:"
            f" {self._allowed}{other if any(fits.values()) else ''}"
        )

    def _leave_open(self, why: str) -> None:
        if self.kind == "auto":
            raise InputError(
                f"loss_reduction 'auto': {why}; allowed: loss_reduction 'mean' or 'sum', whichever"
                " the loss is"
            )
        if not self._told:
            self._told = True
            LOGGER.warning(
                "loss_reduction %r is taken on trust, for it cannot be checked: %s", self.kind, why
            )


def _other(fits: Mapping[str, bool]) -> str:
    return next((kind for kind, fit in fits.items() if fit), "")


def _part(example: Example, places: Sequence[int]) -> Example | None:
    return None if example.part is None else example.part(places)
