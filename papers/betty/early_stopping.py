"""Stop when a validation metric has not become better for some validations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import InputError
from papers.betty.configs import EngineConfig


class EarlyStopping:
    """Counts validations without a better value."""

    def __init__(self, metric: str, mode: str, tolerance: int) -> None:
        self.metric, self.sign, self.tolerance = metric, 1 if mode == "max" else -1, tolerance
        self.best = float("-inf")
        self.waited = 0

    @classmethod
    def from_config(cls, config: EngineConfig) -> EarlyStopping | None:
        """What ``config`` asks for; None if it does not."""
        if not config.early_stopping:
            return None
        return cls(
            config.early_stopping_metric,
            config.early_stopping_mode,
            config.early_stopping_tolerance,
        )

    def __call__(self, stats: Mapping[str, Any]) -> bool:
        """Whether to stop. Raises InputError if the metric is not there."""
        if self.metric not in stats:
            known = ", ".join(stats) or "nothing"
            raise InputError(f"early_stopping_metric {self.metric!r}: validation returned {known}")
        value = self.sign * float(stats[self.metric])
        if value > self.best:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited >= self.tolerance

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and how many validations ago it was."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.best, self.waited = float(state["best"]), int(state["waited"])
