"""Songs of 180 s by the network, by Qmax and by both; candidates of the index."""

from __future__ import annotations

from common.results.records import Results
from common.results.tables import Measure, Table, grid


def table_long(results: Results) -> Table:
    """Retrieval at 180 s: every ranking of the network, of Qmax in the same keys, of their sum."""
    measures = [
        Measure("map_raw", "Network, raw"),
        Measure("map_zscore", "Network, standardised"),
        Measure("map_correlation", "Network, correlation"),
        Measure("qmax_map_raw", "Qmax, raw"),
        Measure("qmax_map_zscore", "Qmax, standardised"),
        Measure("qmax_map_correlation", "Qmax, correlation"),
        Measure("map_fused_raw", "Sum of standardised"),
        Measure("map_fused_correlation", "Sum, correlation"),
        Measure("mr1_fused_raw", "MR1 of the sum"),
        Measure("map_four_raw", "Sum with DTW and SiMPle"),
        Measure("mr1_four_raw", "MR1 of that sum"),
        Measure("map_reranked", "Network sorts Qmax's best 50"),
    ]
    return Table(
        row_header="Songs and training",
        cells=grid(results, "long_ranking", measures, columns="measures"),
        notes=["MAP, but for MR1. Each pair in the key that Qmax prefers of the best two."],
    )


def table_features(results: Results) -> Table:
    """covers80 by two features: seconds and beats, by Qmax and by the network."""
    runs = results.paper.experiments["long_ranking"].runs(results.scale)
    if ("covers80", "every_work") not in runs:
        fused = [Measure("map_fused_raw", "Network and Qmax of seconds")]
        return Table(
            row_header="Songs and training",
            cells=grid(results, "long_ranking", fused, columns="measures"),
            notes=["Beats are those of covers80, at scale paper."],
        )
    titles = {
        "seconds": "Qmax of seconds",
        "beats": "Qmax of beats",
        "qmax_of_both": "Qmax of both",
        "network_and_beats": "Network, and Qmax of beats",
        "all": "All three",
        "network_of_beats": "Network of beats",
        "networks": "Network of both",
        "networks_and_qmax": "Network and Qmax of both",
        "eight": "Network, Qmax, DTW and SiMPle of both",
    }
    measures = [
        Measure(f"{metric}_both_{name}_raw", f"{title}, {label}")
        for name, title in titles.items()
        for metric, label in (("map", "MAP"), ("mr1", "MR1"))
    ]
    return Table(
        row_header="Songs and training",
        cells=grid(results, "long_ranking", measures, columns="measures", cases=["covers80"]),
        notes=[
            "The 162 tracks that lie in both features; sums of scores standardised per reference,"
            " each with the same weight. A frame of beats is the mean of four."
        ],
    )


def table_long_network(results: Results) -> Table:
    """How training for 180 s went."""
    measures = [
        Measure("works", "Works learned from"),
        Measure("cover_pairs", "Cover pairs of these"),
        Measure("samples", "Pairs seen"),
        Measure("validation_accuracy", "Pair accuracy", "%", 100),
        Measure("validation_loss", "Validation loss"),
        Measure("best_epoch", "Epoch kept"),
    ]
    return Table(
        row_header="Songs and training",
        cells=grid(results, "long_network", measures, columns="measures"),
        notes=["Validation works are those of the paper's layout in both trainings."],
    )


def table_candidates(results: Results) -> Table:
    """Recall of the index, and what a query takes."""
    counts = results.paper.experiments["candidates"]
    case, arm = counts.runs(results.scale)[0]
    metrics = results.first("candidates", arm, case).record.metrics
    looked_at = sorted(
        int(name.removeprefix("recall_"))
        for name in metrics
        if name.startswith("recall_") and not name.endswith("_real")
    )
    measures = [
        Measure("songs", "Songs"),
        *(Measure(f"recall_{count}", f"Recall of {count:,}", "%", 100) for count in looked_at),
        *(
            Measure(f"recall_{count}_real", f"of {count:,}, without filling", "%", 100)
            for count in looked_at
        ),
        Measure(f"filling_{looked_at[-1]}", "Filling among them", "%", 100),
        Measure("filling", "Filling", "%", 100),
        Measure("query_s", "A query", "ms", 1e3),
    ]
    return Table(
        row_header="Songs and vectors",
        cells=grid(results, "candidates", measures, columns="measures"),
        notes=[
            "Recall: mean share of a query's covers among its candidates. Filling: vectors from a"
            " normal distribution with the mean and covariance of real songs' vectors. Queries are"
            " of works that no discriminant was learned on."
        ],
    )
