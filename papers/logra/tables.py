"""The paper's tables, from records, and Figure 4 in numbers."""

from __future__ import annotations

from typing import Any, Final

from common.results.records import Results
from common.results.tables import Cell, Table, cell

#: Methods of Figure 4 in the order of tables and figures: arm, name.
METHODS: Final = {
    "ekfac": "EKFAC",
    "logra_pca": "LoGra-PCA",
    "logra_random": "LoGra-random",
    "relatif": "LoGra-random, l-RelatIF",
    "no_hessian": "LoGra-random without H",
    "gradient_dot": "Gradient dot product",
    "trak": "TRAK (one model)",
    "representation": "Representation similarity",
    "random": "Random",
}
#: What arms of other data begin with, and what they are called.
PREFIXES: Final = {
    "": "",
    "cifar-": "CIFAR-10, ",
    "few-": "FMNIST on a CPU, ",
    "ptb-": "Penn Treebank on a CPU, ",
}
MEGABYTE: Final = 1e-6


def methods(results: Results, experiment: str) -> list[tuple[str, str]]:
    """(arm, name) of an experiment's arms that run at this scale, in order."""
    present = results.paper.experiments[experiment].arms_of(results.scale)
    return [
        (prefix + arm, name + method)
        for prefix, name in PREFIXES.items()
        for arm, method in METHODS.items()
        if prefix + arm in present
    ]


#: Table 1: arm, row here, row in published.csv.
JOBS: Final = (
    ("ekfac", "EKFAC", "EKFAC"),
    ("logra_1_4", "LoGra, batches of 1 and 4", "LoGra (log batch 1; test batch 4)"),
    ("logra_16_256", "LoGra, batches of 16 and 256", "LoGra (log batch 16; test batch 256)"),
)
#: Columns of Table 1: phase, label, metric, unit, factor, (column, metric) in published.csv.
COSTS: Final = (
    ("Logging", "throughput", "log_tokens_per_s", "tokens/s", 1.0, ("logging", "throughput")),
    ("Logging", "memory", "log_peak_bytes", "MB", MEGABYTE, ("logging", "gpu_memory")),
    ("Logging", "storage", "storage_bytes", "MB", MEGABYTE, ("logging", "storage")),
    ("Influence", "throughput", "pairs_per_s", "pairs/s", 1.0, ("influence", "throughput")),
    ("Influence", "memory", "influence_peak_bytes", "MB", MEGABYTE, ("influence", "gpu_memory")),
)
#: Passes of EKFAC's logging, which the paper gives one by one.
PASSES: Final = (
    ("EKFAC, factors", "kfac_tokens_per_s", "logging KFAC-fit subphase"),
    (
        "EKFAC, eigenvalues",
        "eigenvalue_tokens_per_s",
        "logging corrected-eigenvalue subphase",
    ),
)


def table1(results: Results) -> Table:
    """Throughput, memory and storage of both phases."""

    def entry(arm: str, row: str, theirs: str, column: tuple[Any, ...]) -> Cell:
        phase, label, metric, unit, factor, key = column
        made = cell(
            results,
            row,
            phase,
            experiment="efficiency",
            arm=arm,
            metric=metric,
            label=label,
            unit=unit,
            factor=factor,
            published=("Table 1", theirs, *key),
        )
        found = results.published_value("Table 1", theirs, *key)
        if found is None or found.unit == unit:
            return made
        # The paper's are of another order: as text, lest they be taken for a difference.
        text = f"{found.text} {found.unit}"
        return made.model_copy(update={"published": None, "published_text": text})

    cells = [entry(arm, row, theirs, column) for arm, row, theirs in JOBS for column in COSTS]
    for row, metric, key in PASSES:
        column = ("Logging", "throughput", metric, "tokens/s", 1.0, (key, "throughput"))
        cells.append(entry("ekfac", row, "EKFAC", column))
    return Table(
        row_header="Method",
        cells=cells,
        notes=[
            "Batches of LoGra are sequences logged and queries scored at once; EKFAC's are 1 and 4."
            " EKFAC recomputes the training gradients for each batch of queries.",
            "Memory is the most bytes in tensors that a phase makes, without the model; the"
            " paper's is all of the GPU's. EKFAC's storage is its factors.",
            crossover(results),
        ],
    )


def crossover(results: Results) -> str:
    """After how many queries LoGra's logging has paid for itself, against EKFAC, in words."""
    logging, scoring = {}, {}
    for arm, batch in (("ekfac", 4), ("logra_1_4", 4), ("logra_16_256", 256)):
        logging[arm] = float(results.values("efficiency", arm, "log_s").mean())
        scoring[arm] = float(results.values("efficiency", arm, "score_s").mean()) / batch
    parts = []
    for arm in ("logra_1_4", "logra_16_256"):
        extra = logging[arm] - logging["ekfac"]
        queries = max(0.0, extra / (scoring["ekfac"] - scoring[arm]))
        since = f"from {queries:.0f} queries on" if queries >= 1 else "from the first query on"
        parts.append(f"{since} with batches of {arm.removeprefix('logra_').replace('_', ' and ')}")
    return f"Logging and scoring together, LoGra is faster than EKFAC {', '.join(parts)}."


#: Table 2: row, and the setting's place; ours are read from the records.
HYPERPARAMETERS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Model", ("network",)),
    ("Optimizer", ("training", "optimiser")),
    ("LR Scheduler", ("training", "schedule")),
    ("Learning Rate", ("training", "lr")),
    ("Weight Decay", ("training", "weight_decay")),
    ("Batch Size", ("training", "batch_size")),
    ("Sequence Length", ("corpus", "length")),
    ("Epochs", ("training", "epochs")),
)
#: Columns: name here, experiment, arm, column in published.csv.
BENCHMARKS: Final = (
    ("FMNIST", "datamodeling", "logra_random"),
    ("CIFAR-10", "datamodeling", "cifar-logra_random"),
    ("WikiText", "language_datamodeling", "logra_random"),
)


def table2(results: Results) -> Table:
    """The paper's hyper-parameters beside those of this scale's runs."""
    cells, words = [], []
    for benchmark, experiment, arm in BENCHMARKS:
        ours = results.paper.settings(experiment, arm, results.scale)
        present = arm in results.paper.experiments[experiment].arms_of(results.scale)
        for row, place in HYPERPARAMETERS:
            theirs = results.published_value("Table 2", row, benchmark, "hyperparameter")
            value = setting(ours, place) if present else None
            number = number_of(value)
            if number is None and value is not None:
                words.append(f"{benchmark}: {row.lower()} {value}")
            cells.append(
                Cell(
                    row=row,
                    column=benchmark,
                    metric="",
                    mean=number,
                    n=0 if number is None else 1,
                    published=theirs.value if theirs else None,
                    published_text=theirs.text if theirs else "",
                    confidence=theirs.confidence if theirs else None,
                )
            )
    return Table(
        row_header="",
        cells=cells,
        notes=[
            f"Ours where it is no number: {'; '.join(words)}.",
            "Ours are settings of this scale's runs. Momentum, 0.9, is not in the paper but in the"
            " published experiment's code; hidden layers of its MLP are 512, 256 and 128 wide.",
            "At paper scale all are trained as published. GPT-2 is fine-tuned without dropout,"
            " as the published script does.",
        ],
    )


def setting(settings: Any, place: tuple[str, ...]) -> Any:
    """A raw setting; None where there is none."""
    for name in place:
        settings = settings.get(name) if isinstance(settings, dict) else None
    if isinstance(settings, dict):
        return ", ".join(f"{name} {value}" for name, value in settings.items())
    return settings


def number_of(value: Any) -> float | None:
    """A raw setting that is a number, if it is one; YAML reads 3e-2 as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


#: Columns of the scores in numbers: experiment, title, metric, unit, factor.
SCORED: Final = (
    ("datamodeling", "LDS by margin", "lds", "", 1.0),
    ("datamodeling", "LDS by loss", "lds_by_loss", "", 1.0),
    ("datamodeling", "Listed: of large gradients", "outlier_share", "%", 100.0),
    ("datamodeling", "Listed: of the query's class", "same_class_share", "%", 100.0),
    ("datamodeling", "Different samples listed", "listed_samples", "", 1.0),
    ("language_datamodeling", "Sequences: LDS by loss", "lds_by_loss", "", 1.0),
    ("language_datamodeling", "Sequences: LDS by margin", "lds_by_margin", "", 1.0),
)


def table_datamodeling(results: Results) -> Table:
    """Datamodeling score of each method, and what its lists of ten hold."""
    cells = [
        cell(
            results,
            name,
            column,
            experiment=experiment,
            arm=arm,
            metric=metric,
            label="",
            unit=unit,
            factor=factor,
        )
        for experiment, column, metric, unit, factor in SCORED
        for arm, name in methods(results, experiment)
    ]
    return Table(
        row_header="Method",
        cells=cells,
        notes=[
            "The paper prints no numbers, a plot alone. LDS is Spearman's correlation over half"
            " subsets, meant over test images or sequences; deviations are over attributed models.",
            "Of GPT-2 on WikiText-2 kronfluence reports 0.44 with EKFAC, 0.12 without H (upstream"
            " README; 100 subsets, 5 retrainings of each).",
            "Lists are the ten training samples with the highest scores for each test image. Large"
            " gradients are the 2 % of training samples with the largest; chance is 2 %.",
        ],
    )


def table_brittleness(results: Results) -> Table:
    """Share of images flipped, their loss, and perplexity, by number removed."""
    cells = []
    for experiment, removed, kinds in (
        ("brittleness", "images", (("flipped_{}", "flipped"), ("loss_{}", "loss"))),
        ("language_brittleness", "sequences", (("perplexity_{}", "perplexity"),)),
    ):
        for arm, name in methods(results, experiment):
            removals = results.paper.settings(experiment, arm, results.scale)["removals"]
            cells += [
                cell(
                    results,
                    name,
                    f"{count} {removed} removed",
                    experiment=experiment,
                    arm=arm,
                    metric=metric.format(count),
                    label=label,
                )
                for count in removals
                for metric, label in kinds
            ]
    return Table(
        row_header="Method",
        cells=cells,
        notes=[
            "Flipped: share of the tested images that the retrained models misclassify after"
            " removing at most so many. On digits, nearest neighbours (representation similarity)"
            " flip more images than any influence function; the paper's sets have more data.",
        ],
    )


def table_mislabels(results: Results) -> Table:
    """Area under the curve and wrong labels found, by what samples are ranked by."""
    columns = (
        ("Area under the ROC curve", "auc", ""),
        ("Found in the first 10 %", "found_at_10_pct", "%"),
        ("Found in the first 20 %", "found_at_20_pct", "%"),
    )
    rows = (
        ("self_influence", "Self-influence, LoGra-random"),
        ("gradient_norm", "Gradient norm"),
        ("loss", "Loss"),
    )
    cells = [
        cell(
            results,
            name,
            column,
            experiment="mislabels",
            arm=arm,
            metric=metric,
            label=column,
            unit=unit,
        )
        for arm, name in rows
        for column, metric, unit in columns
    ]
    return Table(
        row_header="Ranked by",
        cells=cells,
        notes=[
            "A tenth of the labels is wrong. kronfluence's CIFAR-10 example reports about 80 % in"
            " the first 10 % and 97 % in the first 20 % (upstream README).",
        ],
    )


TABLES = {
    "table1": table1,
    "table2": table2,
    "table_datamodeling": table_datamodeling,
    "table_brittleness": table_brittleness,
    "table_mislabels": table_mislabels,
}
