"""When a problem's inner loop begins and ends, and which lower loops it waits for."""

from __future__ import annotations

from collections.abc import Iterable

from common.errors import InputError
from papers.betty.configs import Config


class InnerLoop:
    """The own steps of a problem between two steps of its upper ones.

    Attributes:
        count: own training steps so far, micro-batches counted.
        starts: whether the next step is the first of a loop, or none was taken yet.
        ready: whether the loop of each lower problem is over and has yet to be read.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.count, self.starts = 0, True
        self.ready: dict[str, bool] = {}

    def wait_for(self, lowers: Iterable[str]) -> None:
        """Be ready when the loops of all ``lowers`` are over."""
        self.ready = dict.fromkeys(lowers, False)

    @property
    def waits(self) -> bool:
        """Whether the loop of a lower problem is not over."""
        return not all(self.ready.values())

    @property
    def fills(self) -> bool:
        """Whether the steps so far are whole loops; in warm-up, that does not end one."""
        return self.count % (self._config.unroll_steps * self._config.gradient_accumulation) == 0

    @property
    def ends(self) -> bool:
        """Whether the step just taken was a loop's last one."""
        return self.fills and self.count > self._config.warmup_steps

    @property
    def between(self) -> bool:
        """Whether the loop is over, and no loop of a lower problem waits for another's."""
        return self.starts and not any(self.ready.values())

    def refuse_within(self, name: str) -> None:
        """Raise InputError that says why no state of problem ``name`` can be taken now."""
        if self.between:
            return
        why = "is inside its inner loop"
        waiting = [lower for lower, ready in self.ready.items() if ready]
        if waiting:
            still = ", ".join(lower for lower in self.ready if lower not in waiting)
            why = f"has yet to read the loop of {', '.join(waiting)} and waits for {still}"
        raise InputError(
            f"problem {name!r}: {why} (its step {self.count}), which no state holds;"
            " allowed: a state where engine.between_loops is true"
        )
