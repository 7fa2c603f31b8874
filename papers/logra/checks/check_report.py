"""What a check of logged gradients found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

CauseKind = Literal[
    "batch dependence", "padding", "reduction", "second path", "tied weights", "dropout", "refusal"
]


class Cause(NamedTuple):
    """Why gradients differ.

    Attributes:
        kind: of cause.
        where: modules that it is about, where that is known.
        text: what is wrong and what to do.
    """

    kind: CauseKind
    where: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class CheckReport:
    """What was compared and found.

    Attributes:
        samples: how many were compared.
        errors: by layer, the largest over samples of a gradient's relative error; empty where a
            batch could not be logged.
        tolerance: of errors.
        causes: probable ones, none if all is well.
    """

    samples: int
    errors: Mapping[str, float]
    tolerance: float
    causes: tuple[Cause, ...]

    @property
    def ok(self) -> bool:
        """Whether every logged gradient is that of its sample."""
        return not self.causes and not self.differing

    @property
    def differing(self) -> dict[str, float]:
        """Errors above the tolerance."""
        return {name: error for name, error in self.errors.items() if not error <= self.tolerance}

    def __str__(self) -> str:
        about = f"{self.samples} samples, {len(self.errors)} layers"
        if self.ok:
            worst = max(self.errors.values(), default=0.0)
            return f"gradients are those of each sample alone: {about}, largest error {worst:.1e}"
        lines = [f"gradients are not those of each sample alone: {about}"]
        wrong = sorted(self.differing.items(), key=lambda pair: -pair[1])
        lines += [f"  layer {name}: relative error {error:.1e}" for name, error in wrong[:5]]
        if len(wrong) > 5:
            lines.append(f"  and {len(wrong) - 5} more layers")
        lines += [f"{cause.kind}: {cause.text}" for cause in self.causes]
        if not self.causes:
            lines.append("no cause was found")
        return "\n".join(lines)
