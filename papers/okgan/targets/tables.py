"""The paper's table, its fairness, and comparisons of ours, from records."""

from __future__ import annotations

from typing import Final

from common.results.records import Results
from common.results.tables import Measure, Table, grid

MODES = Measure("modes", "Modes")
QUALITY = Measure("high_quality_pct", "High quality", "%")
BALANCE = Measure("reverse_kl", "Reverse KL", "nats")
BALANCE_OF_ALL = Measure("reverse_kl_all", "Reverse KL, all samples", "nats")
#: Of each mixture: what published.csv calls its modes.
_GRID = MODES._replace(published="modes (max 25)")
_RING = MODES._replace(published="modes (max 8)")
_CIRCLE = Measure("centre", "Centre captured", published="center captured")
MIXTURES: Final = {
    "grid": _GRID,
    "grid_long": _GRID,
    "grid_published": _GRID,
    "ring": _RING,
    "ring_long": _RING,
    "ring_published": _RING,
    "circle": _CIRCLE,
    "circle_long": _CIRCLE,
    "circle_published": _CIRCLE,
}
#: Arms with more or less memory of past samples.
MEMORIES: Final = (
    *("okgan_batch", "okgan", "okgan_long"),
    *("drifting", "drifting_past", "gmmn", "gmmn_past"),
)
#: What Table 1 leaves to the tables of memories and of fairness.
ELSEWHERE: Final = {"okgan_batch", "okgan_long", "drifting_past", "gmmn_past", "okgan_constant"}
ABOUT = (
    "High quality: within three standard deviations of a mode. Reverse KL is that of the shares of"
    " high-quality samples, as published; of all samples, each counts to its nearest mode. A"
    " perfect sampler's is about 0.0048 on the grid, 0.0014 on the ring, 0.0002 on the circle."
)


def table1(results: Results) -> Table:
    """Modes, quality and balance by method and mixture."""
    quality = QUALITY._replace(published="high quality")
    balance = BALANCE._replace(published="reverse KL")
    arms = [arm for arm in results.paper.experiments["plane"].arms if arm not in ELSEWHERE]
    cells = []
    for case, modes in MIXTURES.items():
        cells += grid(
            results,
            "plane",
            [modes, quality, balance, BALANCE_OF_ALL],
            columns="cases",
            table="Table 1",
            cases=[case],
            arms=arms,
        )
    return Table(row_header="Method", cells=cells, notes=[ABOUT, *diverged(results)])


def table_october(results: Results) -> Table:
    """What the authors' revision of October 2020 adds: a mixture of weights, and curves."""
    divergence = Measure(
        "neighbour_kl", "Reverse KL", "nats", published="reverse KL (kNN estimate k=10)"
    )
    uneven = grid(
        results,
        "plane",
        [MODES, QUALITY, BALANCE_OF_ALL],
        columns="cases",
        cases=["uneven_ring"],
    )
    curves = grid(
        results,
        "plane",
        [divergence],
        columns="cases",
        table="Table 1, October revision",
        cases=["gaussians", "swiss_roll", "two_spirals"],
    )
    return Table(
        row_header="Method",
        cells=[*uneven, *curves],
        notes=[
            "Of curves, the reverse KL is estimated from ten nearest neighbours.",
            *diverged(results),
        ],
    )


def table_fairness(results: Results) -> Table:
    """OKGAN beside a GAN: the same schedule for both, falling or constant, and each its own."""
    measures = [
        MODES,
        QUALITY,
        BALANCE,
        BALANCE_OF_ALL,
        Measure("generator_steps", "Generator steps"),
        Measure("train_s", "Time", "s"),
    ]
    cells = grid(
        results,
        "plane",
        measures,
        columns="measures",
        cases=["ring", "ring_long", "grid", "grid_long", "circle_long"],
        arms=["okgan", "okgan_constant", "gan_falling", "gan_even", "gan"],
    )
    return Table(
        row_header="Method",
        cells=cells,
        notes=[
            "The published table sets OKGAN, with 400,000 steps of a generator under a falling"
            " learning rate, beside a BourGAN of 4,001 and a PacGAN quoted from its own paper.",
            "On the ring the other schedule of each has rate and own setting that were best with"
            " it; grid and circle have the GAN's of the ring, and a bandwidth of a prototype.",
            "But for three steps of its own, a GAN's network takes one for three of the generator;"
            " OKGAN updates its kernel by four mini-batches.",
            *diverged(results),
        ],
    )


def table_memory(results: Results) -> Table:
    """Does the memory of past samples help over the batch's own field?"""
    cells = grid(
        results,
        "plane",
        [MODES, QUALITY, BALANCE, BALANCE_OF_ALL],
        columns="measures",
        cases=["ring", "grid"],
        arms=MEMORIES,
    )
    return Table(
        row_header="Method",
        cells=cells,
        notes=[
            "OKGAN keeps two batches of 128 real and 128 generated points (512 keys) on the ring,"
            " four on the grid unless said otherwise; the batch alone is 256 keys. GMMN and"
            " Drifting compare with the batch, or with past samples beside it.",
            *diverged(results),
        ],
    )


def table_cycling(results: Results) -> Table:
    """Numbers of the discriminator's path."""
    measures = [
        Measure("planarity", "Variance in two components"),
        Measure("swing", "Swing of the share told real"),
        Measure("turns", "Turns"),
        BALANCE_OF_ALL,
    ]
    cells = grid(results, "cycling", measures, columns="measures")
    return Table(
        row_header="Discriminator",
        cells=cells,
        notes=[
            "Turns mean little of a path that jitters: see the variance beside them. Swing: largest"
            " less smallest share of 500 real points told real, over the second half.",
            *diverged(results),
        ],
    )


def table_search(results: Results) -> Table:
    """What each method's search tried and came to, on a seed that no comparison uses."""
    return _searched(
        results,
        "search",
        [
            Measure("best", "Best reverse KL, all samples", "nats"),
            Measure("worst", "Worst", "nats"),
            Measure("high_quality_of_best_pct", "High quality of the best", "%"),
            Measure("chosen_0", "Rate chosen"),
            Measure("chosen_1", "Last rate over first"),
            Measure("chosen_2", "Own setting chosen"),
        ],
        "Rates of the generator, whether they fall or stay (1), and three values of a setting"
        " of the method's own, each with each, of every method on one seed; the lowest reverse"
        " KL over all samples is chosen, and Table 1 has it on other seeds.",
    )


def table_image_search(results: Results) -> Table:
    """The same on images."""
    return _searched(
        results,
        "image_search",
        [
            Measure("best", "Best Fréchet distance"),
            Measure("worst", "Worst"),
            Measure("classes_of_best", "Classes of the best"),
            *(Measure(f"chosen_{place}", f"{place + 1}. setting chosen") for place in range(3)),
        ],
        "Values of three settings, each with each, as many of both methods, on one seed; the"
        " lowest Fréchet distance is chosen, and images are made with it on other seeds.",
    )


def _searched(results: Results, experiment: str, measures: list[Measure], said: str) -> Table:
    """Candidates, what they came to, and values chosen, whose settings the notes name."""
    study = results.paper.experiments[experiment]
    settings = results.paper.settings
    tried = [
        f"{study.cases[case].title}, {study.arms[arm].title}: "
        + ", ".join(settings(experiment, case, arm, results.scale)["tried"])
        for case, arm in study.runs(results.scale)
    ]
    every = [Measure("candidates", "Candidates"), *measures]
    return Table(
        row_header="Method",
        cells=grid(results, experiment, every, columns="measures"),
        notes=[said, "Settings: " + "; ".join(tried) + "."],
    )


def table_images(results: Results) -> Table:
    """Images by distance in a classifier's features, and by the classes that it reads."""
    measures = [
        Measure("frechet", "Fréchet distance"),
        Measure("kernel", "Kernel distance"),
        Measure("precision_pct", "Precision", "%"),
        Measure("recall_pct", "Recall", "%"),
        Measure("classes", "Classes"),
        Measure("class_kl", "Reverse KL of classes", "nats"),
        Measure("train_s", "Time", "s"),
    ]
    return Table(
        row_header="Method",
        cells=grid(results, "images", measures, columns="measures"),
        notes=[
            "Features and classes are those of a small classifier trained for this (experiment"
            " image_reader): distances compare within a data set here, not with FID and KID in"
            " print. Of strips of digits, classes are the numbers that they spell.",
            *diverged(results),
        ],
    )


def diverged(results: Results) -> list[str]:
    """A note that names the runs that diverged, if any did."""
    names = [item.name for item in results.stored if item.record.metrics.get("diverged")]
    if not names:
        return []
    return [f"Diverged, their numbers are those of the last look before: {', '.join(names)}."]


TABLES = {
    "table1": table1,
    "table_october": table_october,
    "table_fairness": table_fairness,
    "table_memory": table_memory,
    "table_cycling": table_cycling,
    "table_search": table_search,
    "table_image_search": table_image_search,
    "table_images": table_images,
}
