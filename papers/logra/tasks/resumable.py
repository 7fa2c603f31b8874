"""Loops over parts of a run that go on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from common.training.checkpoint import Checkpoint

Outcome = TypeVar("Outcome")


def compute_parts(
    parts: Iterable[Callable[[], Outcome]],
    checkpoint: Checkpoint,
    done: Callable[[], object] | None = None,
) -> list[Outcome]:
    """Outcomes of all parts, without computing again those that a killed process had kept.

    Args:
        parts: in the same order each time; outcomes are tensors, numbers, or tuples of them.
        checkpoint: where they are kept.
        done: called after each part, for a progress bar.
    """
    found: list[Outcome] = (checkpoint.read() or {"outcomes": []})["outcomes"]
    kept = len(found)
    for place, compute in enumerate(parts):
        if place >= kept:
            found.append(compute())
            checkpoint.write(len(found), lambda: {"outcomes": found})
        if done is not None:
            done()
    return found
