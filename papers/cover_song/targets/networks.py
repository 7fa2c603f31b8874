"""Networks: their sizes, pair classification, and how training went."""

from __future__ import annotations

import matplotlib.pyplot as plt

from common.results.figures import COLOURS, FigureWithCaption
from common.results.records import Results
from common.results.tables import Measure, Table, grid
from papers.cover_song.ranking.rankings import BY_ROWS

NETWORK = "network"


def table_network(results: Results) -> Table:
    """Parameters, and accuracy on pairs of works that were not trained on."""
    measures = [
        Measure("parameters", "Trainable parameters"),
        Measure("validation_accuracy", "Pair accuracy", "%", 100),
        Measure("validation_loss", "Validation loss"),
        Measure("best_epoch", "Epoch kept"),
        Measure("samples", "Pairs seen"),
    ]
    return Table(
        row_header="Songs and network",
        cells=grid(results, NETWORK, measures, columns="measures"),
        notes=[
            "A comment in the authors' scripts gives 85 % for a network of three blocks in a"
            " cross-validation over pairs, whose songs are in several folds; here no work is on"
            " both sides. The published network has 171,490 parameters at 180 frames by the table"
            " of two re-implementations, 57,314 by the authors' script, ResNeXt-50 23,011,842."
            " Validation has as many non-covers as covers: the loss and accuracy of what learns"
            " from more non-covers count its prior against it.",
        ],
    )


def figure_training(results: Results) -> FigureWithCaption:
    """Validation loss by pairs seen, a line a seed."""
    figure, axes = plt.subplots()
    study = results.paper.experiments[NETWORK]
    for number, (case, arm) in enumerate(study.runs(results.scale)):
        for stored in results.records(NETWORK, arm, case):
            history = stored.read_csv("history.csv")
            seen = stored.record.metrics["samples"] / len(history) * (history["epoch"] + 1)
            label = f"{study.cases[case].title_at(results.scale)}: {study.arms[arm].title}"
            axes.plot(
                seen,
                history["validation_loss"],
                color=COLOURS[number % len(COLOURS)],
                label=label
                if stored.record.seed == results.records(NETWORK, arm, case)[0].record.seed
                else None,
            )
    axes.axhline(0.6931, color="0.6", linewidth=0.8)
    axes.set_xlabel("pairs seen")
    axes.set_ylabel("validation loss")
    axes.legend(fontsize="x-small")
    return FigureWithCaption(
        figure,
        "Validation loss, a line a seed; the grey line is a network that knows nothing.",
        "Lines that fall below that of chance as more pairs are seen",
    )


def table_epochs(results: Results) -> Table:
    """MAP of each ranking by the epoch that was kept, and by the last one."""
    measures = [
        *(
            Measure(f"map_{ranking}_{moment}", f"MAP, {ranking}, {told}")
            for moment, told in (("kept", "epoch kept"), ("last", "last epoch"))
            for ranking in ("raw", *BY_ROWS)
        ),
        Measure("gain_correlation_kept", "Gain by correlation, epoch kept"),
        Measure("gain_correlation_last", "Gain by correlation, last epoch"),
        Measure("best_epoch", "Epoch kept"),
        Measure("validation_loss", "Validation loss"),
        Measure("last_validation_loss", "of the last epoch"),
    ]
    return Table(
        row_header="Songs and network",
        cells=grid(results, "along_epochs", measures, columns="measures"),
        notes=[
            "The epoch kept is that of the lowest validation loss. By an independent thesis, of"
            " other songs, correlation is best with it and loses with one that trained too long."
        ],
    )


def figure_epochs(results: Results) -> FigureWithCaption:
    """MAP of raw scores and of correlation after each epoch, a line a seed; a panel a training."""
    study = results.paper.experiments["along_epochs"]
    runs = study.runs(results.scale)
    figure, axes = plt.subplots(
        1, len(runs), figsize=(1 + 4.2 * len(runs), 3.6), sharey=True, squeeze=False
    )
    for ax, (case, arm) in zip(axes[0], runs, strict=True):
        for number, stored in enumerate(results.records("along_epochs", arm, case)):
            rows = stored.read_csv("rankings.csv")
            for colour, ranking in zip(COLOURS, ("raw", "correlation"), strict=False):
                label = ranking if number == 0 else None
                ax.plot(rows["epoch"], rows[f"map_{ranking}"], color=colour, label=label)
            kept = int(stored.record.metrics["best_epoch"])
            ax.plot(kept, rows["map_correlation"][kept - 1], "o", color=COLOURS[1])
        ax.set(xlabel="epoch", title=study.cases[case].title_at(results.scale))
    axes[0, 0].set(ylabel="MAP")
    axes[0, 0].legend()
    return FigureWithCaption(
        figure,
        "MAP of the network's raw scores and of their correlation after each epoch, a line a seed;"
        " the dot is the epoch of the lowest validation loss.",
        "Lines of MAP against epochs, two colours, a panel a training.",
    )
