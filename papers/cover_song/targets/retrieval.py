"""How well songs are ranked: by method, by way to rank, by works learned from."""

from __future__ import annotations

from typing import Final

from common.results.records import Results
from common.results.tables import Cell, Measure, Table, cell, grid

BASELINES: Final = "baselines"
NETWORK: Final = "network_ranking"
#: Where the published numbers belong.
PUBLISHED_CASE: Final = "shs100k"
RANKINGS: Final = {
    "raw": "raw scores",
    "cosine": "cosine of rows",
    "correlation": "correlation of rows",
    "zscore": "standardised per reference",
    "proximity": "mutual proximity",
}


def cases_at(results: Results, experiment: str) -> list[str]:
    """Cases that run at the scale, in the file's order."""
    return list(
        dict.fromkeys(case for case, _ in results.paper.experiments[experiment].runs(results.scale))
    )


def table_results(results: Results) -> Table:
    """MAP, MNIT10 and MR1 of raw scores, of the network by correlation too."""
    cells: list[Cell] = []
    names = {"map": "MAP", "mnit10": "MNIT10", "mr1": "MR1"}
    for experiment, ways in ((BASELINES, ("raw",)), (NETWORK, ("raw", "correlation"))):
        study = results.paper.experiments[experiment]
        for case, arm in study.runs(results.scale):
            if case.startswith("works"):
                continue  # table_works
            for way in ways:
                title = study.arms[arm].title
                row = title if experiment == BASELINES else f"{title}, {RANKINGS[way]}"
                told = study.arms[arm].published if way == "raw" else ""
                for metric, name in names.items():
                    cells.append(
                        cell(
                            results,
                            row,
                            study.cases[case].title_at(results.scale),
                            experiment=experiment,
                            case=case,
                            arm=arm,
                            metric=f"{metric}_{way}",
                            label=name,
                            published=("results table", told, study.cases[case].published, name)
                            if told and case == PUBLISHED_CASE
                            else None,
                        )
                    )
    return Table(
        row_header="Method",
        cells=_by_method(cells),
        notes=[
            "The songs of the published row, 1,000 of Korean pop, are not public; its other"
            " rows and the network's MR1 were in no text that could be read.",
            "MNIT10 is the mean number of covers among the first ten: at most 10 with 11 versions"
            " of a work, 5 with six, 1 on covers80. Ties count against a method.",
        ],
    )


def _by_method(cells: list[Cell]) -> list[Cell]:
    """Cells of one row together, rows in the order of their first cell."""
    rows = list(dict.fromkeys(item.row for item in cells))
    return sorted(cells, key=lambda item: rows.index(item.row))


def table_rankings(results: Results) -> Table:
    """MAP of each way to rank, for each method that has an idea."""
    cells: list[Cell] = []
    for experiment in (NETWORK, BASELINES):
        study = results.paper.experiments[experiment]
        several = len(cases_at(results, experiment)) > 1
        for case, arm in study.runs(results.scale):
            if arm == "random" or case.startswith("works"):
                continue
            place = study.cases[case].title_at(results.scale)
            row = f"{place}: {study.arms[arm].title}" if several else study.arms[arm].title
            for way, column in RANKINGS.items():
                best = experiment == NETWORK and case == PUBLISHED_CASE and way == "correlation"
                cells.append(
                    cell(
                        results,
                        row,
                        column,
                        experiment=experiment,
                        case=case,
                        arm=arm,
                        metric=f"map_{way}",
                        label="MAP",
                        published=("rankings table", "best ranking", "1000-song eval", "MAP")
                        if best and arm == "published"
                        else None,
                    )
                )
    return Table(
        row_header="Songs and method",
        cells=cells,
        notes=[
            "Rows are compared as Lee et al. 2018 do: those of probabilities for the network, of"
            " scores for the others. Of the paper the best MAP alone was read; that it is of the"
            " correlation is our guess.",
        ],
    )


def table_works(results: Results) -> Table:
    """Retrieval by number of works trained on, in trainings on as many pairs."""
    measures = [
        Measure("map_raw", "MAP, raw"),
        Measure("map_correlation", "MAP, correlation"),
        Measure("pair_auc", "Area under the curve of pairs"),
    ]
    cases = [
        case
        for case in ("works30", "works60", "works120", "shs100k_64")
        if case in cases_at(results, NETWORK)
    ]
    arms = ["narrow_warm"] if cases else ["narrow"]
    cells = grid(results, NETWORK, measures, columns="measures", cases=cases or None, arms=arms)
    return Table(
        row_header="Songs",
        cells=cells,
        notes=[
            "Each training sees as many pairs and keeps the epoch of the lowest validation loss;"
            " the last has 254 works."
        ]
        if cases
        else ["Other numbers of works are at scale paper."],
    )


def table_fusion(results: Results) -> Table:
    """The network and Qmax, alone and together."""
    cells: list[Cell] = []
    study = results.paper.experiments[NETWORK]
    baselines = results.paper.experiments[BASELINES].runs(results.scale)
    ways = {
        "map_raw": "network",
        "map_correlation": "network, correlation",
        "map_fused_raw": "sum of ranks",
        "map_fused_correlation": "sum of ranks, both by correlation",
        "map_fused_sum": "sum of standardised scores",
        "map_reranked": "network sorts Qmax's best 50",
    }
    for case, arm in study.runs(results.scale):
        row = f"{study.cases[case].title_at(results.scale)}: {study.arms[arm].title}"
        if (case, "qmax") in baselines:
            cells.append(
                cell(
                    results,
                    row,
                    "Qmax",
                    experiment=BASELINES,
                    case=case,
                    arm="qmax",
                    metric="map_raw",
                    label="MAP",
                )
            )
        for metric, column in ways.items():
            cells.append(
                cell(
                    results,
                    row,
                    column,
                    experiment=NETWORK,
                    case=case,
                    arm=arm,
                    metric=metric,
                    label="MAP",
                )
            )
    return Table(row_header="Songs and network", cells=cells, columns=["Qmax", *ways.values()])
