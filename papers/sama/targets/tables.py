"""The paper's tables, from records."""

from __future__ import annotations

from common.results.lineage import Runs, list_runs
from common.results.records import Results
from common.results.tables import Cell, Measure, Table, cell, grid, make_cell
from papers.sama.targets import pruning


def table_identity(results: Results) -> Table:
    """Cosine to the exact meta gradient, and what descent along it reaches."""
    measures = [
        Measure("cosine", "Cosine to the exact meta gradient"),
        Measure("least_cosine", "least along the descent"),
        Measure("start_meta_loss", "Meta loss at the start"),
        Measure("final_meta_loss", "after the last step"),
    ]
    cells = grid(results, "identity_approximation", measures, columns="measures")
    return Table(row_header="Meta gradient", cells=cells)


def table_pruning(results: Results) -> Table:
    """Test accuracy by pruned share, a row for each method and data set; time of the search."""
    cells: list[Cell] = []
    for case, arms in pruning.arms_by_case(results).items():
        cells.append(_accuracy(results, case, pruning.FULL, 0))
        for arm in arms:
            shares = pruning.pruned_shares(results, case, arm)
            cells += [_accuracy(results, case, arm, pct) for pct in shares]
            times = pruning.relative_search_time(results, case, arm)
            if len(times):
                cells.append(
                    make_cell(
                        results,
                        _pruning_row(results, case, arm),
                        "Search",
                        times,
                        label="time relative to full training",
                        runs=_runs(results, case, arm),
                    )
                )
    return Table(
        row_header="Data and method",
        cells=cells,
        notes=[
            "Times are of this process alone: processor seconds on a CPU, seconds on the wall on a"
            " GPU. Those of the search are of the proxy's training and of scoring."
        ],
    )


def _accuracy(results: Results, case: str, arm: str, pct: int) -> Cell:
    return cell(
        results,
        _pruning_row(results, case, arm),
        f"{pct} % pruned" if pct else "All data",
        experiment=pruning.TRAINING,
        case=case,
        arm=arm,
        metric=pruning.accuracy_metric(pct),
        label="Accuracy",
        unit="%",
    )


def _pruning_row(results: Results, case: str, arm: str) -> str:
    study = results.paper.experiments[pruning.TRAINING]
    return f"{study.cases[case].title_at(results.scale)}: {study.arms[arm].title}"


def _runs(results: Results, case: str, arm: str) -> list[Runs]:
    """Records that a relative time is of."""
    found = results.records(pruning.SEARCH, arm, case)
    return list_runs([*found, *results.records(pruning.TRAINING, pruning.FULL, case)])


def table_rater(results: Results) -> Table:
    """What choosing and training read until the goal; whether it was reached, what was kept."""
    measures = [
        Measure("train_tokens", "Training", "million characters", 1e-6),
        Measure("search_tokens", "Search", "million characters", 1e-6),
        Measure("total_tokens", "Both", "million characters", 1e-6),
        Measure("reached", "Reached the goal", "share of seeds"),
        Measure("clean_among_kept_pct", "Uncorrupted among the kept", "%"),
    ]
    return Table(
        row_header="Texts to train on",
        cells=grid(results, "data_rater", measures, columns="measures"),
        notes=[
            "A meta step counts as three passes over a batch, choosing as one over all texts. A"
            " training that did not reach the goal counts with all that it read."
        ],
    )


TABLES = {
    "table_identity": table_identity,
    "table_pruning": table_pruning,
    "table_rater": table_rater,
}
