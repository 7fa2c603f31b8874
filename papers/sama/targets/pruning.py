"""What the table and the figure of data pruning share: accuracies relative to all data, by seed."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.results.records import Results

TRAINING: Final = "pruned_training"
SEARCH: Final = "pruning_scores"
FULL: Final = "full"
Values = NDArray[np.float64]
#: (experiment, arm, metric).
Measured = tuple[str, str, str]


def arms_by_case(results: Results) -> dict[str, list[str]]:
    """Methods that run at the scale of ``results``, the full training aside."""
    found: dict[str, list[str]] = {}
    for case, arm in results.paper.experiments[TRAINING].runs(results.scale):
        found.setdefault(case, []).extend([arm] if arm != FULL else [])
    return found


def pruned_shares(results: Results, case: str, arm: str) -> list[int]:
    """Shares (%) that a method leaves out, as its settings say."""
    settings = results.paper.settings(TRAINING, case, arm, results.scale)
    return list(settings["pruned_pct"])


def accuracy_metric(pct: int) -> str:
    """The metric of a share."""
    return f"accuracy_pruned_{pct}_pct"


def ratios(results: Results, case: str, top: Measured, bottom: Measured) -> Values:
    """One value a seed, of the seeds that have both."""
    above, below = (
        results.metric(experiment, arm, metric, case) for experiment, arm, metric in (top, bottom)
    )
    return np.array([above[seed] / below[seed] for seed in above if seed in below])


def relative_accuracy_pct(results: Results, case: str, arm: str, pct: int) -> Values:
    """Accuracy with ``pct`` per cent pruned, in per cent of that with all data of the same seed."""
    top, bottom = (TRAINING, arm, accuracy_metric(pct)), (TRAINING, FULL, accuracy_metric(0))
    return 100 * ratios(results, case, top, bottom)


def relative_search_time(results: Results, case: str, arm: str) -> Values:
    """Time of the search over that of one full training of the same seed; empty without search."""
    if arm not in results.paper.experiments[SEARCH].arms:
        return np.array([])
    return ratios(results, case, (SEARCH, arm, "search_s"), (TRAINING, FULL, "train_s"))
