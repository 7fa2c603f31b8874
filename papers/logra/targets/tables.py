"""The paper's tables, from records, and Figure 4 in numbers."""

from __future__ import annotations

from typing import Any, Final

from common.results.lineage import list_runs
from common.results.records import Published, Results
from common.results.tables import Cell, Measure, Table, cell, grid


def running(results: Results, experiment: str) -> dict[str, list[str]]:
    """Arms that run at the scale of ``results``, by case."""
    found: dict[str, list[str]] = {}
    for case, arm in results.paper.experiments[experiment].runs(results.scale):
        found.setdefault(case, []).append(arm)
    return found


def name_row(results: Results, experiment: str, case: str, arm: str) -> str:
    """A row's name as :func:`grid` gives it: the arm's, and the case's where several run."""
    study = results.paper.experiments[experiment]
    name = study.arms[arm].title
    return (
        f"{study.cases[case].title_at(results.scale)}: {name}"
        if len(running(results, experiment)) > 1
        else name
    )


#: Columns of Table 1: phase, label, metric, unit (MB are GB at paper scale), (column, metric) in
#: published.csv.
COSTS: Final = (
    ("Logging", "throughput", "log_tokens_per_s", "tokens/s", ("logging", "throughput")),
    ("Logging", "memory", "log_memory_bytes", "MB", ("logging", "gpu_memory")),
    ("Logging", "storage", "storage_bytes", "MB", None),
    (
        "Logging",
        "storage of 1B tokens (extrapolated)",
        "storage_of_1b_tokens_extrapolated_bytes",
        "GB",
        ("logging", "storage"),
    ),
    ("Influence", "throughput", "pairs_per_s", "pairs/s", ("influence", "throughput")),
    ("Influence", "memory", "influence_memory_bytes", "MB", ("influence", "gpu_memory")),
)
#: What one is in the units that bytes are shown or published in.
BYTES: Final = {"MB": 1e6, "GB": 1e9, "TB": 1e12}
#: Passes of EKFAC's logging, which the paper gives one by one.
PASSES: Final = (
    ("factors", "kfac_tokens_per_s", "logging KFAC-fit subphase"),
    ("eigenvalues", "eigenvalue_tokens_per_s", "logging corrected-eigenvalue subphase"),
)


def table1(results: Results) -> Table:
    """Throughput, memory and storage of both phases.

    The paper's numbers stand beside those of the first model that runs at a scale.
    """
    study, models = results.paper.experiments["efficiency"], running(results, "efficiency")
    compared = next(iter(models))

    def entry(model: str, arm: str, row: str, column: tuple[Any, ...]) -> Cell:
        phase, label, metric, unit, key = column
        if unit == "MB" and results.scale == "paper":
            unit = "GB"
        theirs = study.arms[arm].published or study.arms[arm].title
        published = ("Table 1", theirs, *key) if key and model == compared else None
        made = cell(
            results,
            row,
            phase,
            experiment="efficiency",
            case=model,
            arm=arm,
            metric=metric,
            label=label,
            unit=unit,
            factor=1 / BYTES.get(unit, 1.0),
            published=published,
        )
        found = results.published_value(*published) if published else None
        return made if found is None else beside(made, found, results.scale)

    cells = []
    for model, arms in models.items():
        rows = {arm: name_row(results, "efficiency", model, arm) for arm in arms}
        cells += [entry(model, arm, rows[arm], column) for arm in arms for column in COSTS]
        for part, metric, key in PASSES:
            column = ("Logging", "throughput", metric, "tokens/s", (key, "throughput"))
            cells.append(entry(model, "ekfac", f"{rows['ekfac']}, {part}", column))
    return Table(
        row_header="Method",
        cells=cells,
        notes=[
            "Batches of LoGra are sequences logged and queries scored at once; EKFAC's are 1 and 4."
            " EKFAC recomputes the training gradients for each batch of queries.",
            "Memory is the most bytes that tensors take, the model's where the phase runs it; the"
            " paper's is all of the GPU's. EKFAC's storage is its factors, LoGra's grows with the"
            " tokens: that of 1B is computed from what a sequence takes.",
            *(crossover(results, model) for model in models),
        ],
    )


def beside(made: Cell, found: Published, scale: str) -> Cell:
    """A cell with the paper's number in our unit; as text alone where it is of another model."""
    if found.unit not in BYTES or found.value is None:
        return made
    text = f"{found.text} {found.unit}"
    if scale != "paper":
        # The paper's are of another order: as text, lest they be taken for a difference.
        return made.model_copy(update={"published": None, "published_text": text})
    value = found.value * BYTES[found.unit] / BYTES[made.unit]
    return made.model_copy(update={"published": value, "published_text": text})


def crossover(results: Results, model: str) -> str:
    """After how many queries LoGra has paid for its logging, in words.

    Times are of one training sequence, as arms value different numbers of them.
    """
    name = results.paper.experiments["efficiency"].cases[model].title_at(results.scale)
    logging, scoring, batches = {}, {}, {}
    for arm in ("ekfac", "logra_1_4", "logra_16_256"):
        raw = results.paper.settings("efficiency", model, arm, results.scale)
        tokens, pairs = (
            results.values("efficiency", arm, metric, model)
            for metric in ("log_tokens_per_s", "pairs_per_s")
        )
        if not len(tokens):
            return f"{name}: no crossover, for {arm} was not run."
        logging[arm], scoring[arm] = raw["length"] / float(tokens.mean()), 1 / float(pairs.mean())
        batches[arm] = f"{raw['log_batch']} and {raw['test_batch']}"
    parts = []
    for arm in ("logra_1_4", "logra_16_256"):
        saved = scoring["ekfac"] - scoring[arm]
        queries = max(0.0, (logging[arm] - logging["ekfac"]) / saved)
        since = f"from {queries:.0f} queries on" if queries >= 1 else "from the first query on"
        parts.append(
            f"{since} with batches of {batches[arm]} (from {logging[arm] / saved:.0f} on if EKFAC's"
            " factors cost nothing)"
        )
    return f"{name}, logging and scoring together: LoGra is faster than EKFAC {', '.join(parts)}."


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
#: Columns: experiment, its cases. The first names the column; of those that run the first is ours.
BENCHMARKS: Final = (
    ("datamodeling", ("images",)),
    ("datamodeling", ("cifar10",)),
    ("language_datamodeling", ("wikitext", "topics")),
)
#: Whose settings are shown: the methods of a case are of one model and training.
SHOWN: Final = "logra_random"


def table2(results: Results) -> Table:
    """The paper's hyper-parameters beside those of this scale's runs."""
    cells, words = [], []
    for experiment, cases in BENCHMARKS:
        named = results.paper.experiments[experiment].cases[cases[0]]
        benchmark = named.published or named.title_at(results.scale)
        present = running(results, experiment)
        case = next((name for name in cases if SHOWN in present.get(name, ())), None)
        ours, runs = {}, []
        if case is not None:
            ours = results.paper.settings(experiment, case, SHOWN, results.scale)
            runs = list_runs(results.records(experiment, SHOWN, case))
        for row, place in HYPERPARAMETERS:
            theirs = results.published_value("Table 2", row, benchmark, "hyperparameter")
            value = setting(ours, place)
            number = parse_number(value)
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
                    runs=runs,
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


def parse_number(value: Any) -> float | None:
    """A raw setting that is a number, if it is one; YAML reads 3e-2 as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


#: Columns of the scores in numbers, by experiment.
SCORED: Final = {
    "datamodeling": (
        Measure("lds", "LDS by margin"),
        Measure("lds_by_loss", "LDS by loss"),
        Measure("outlier_share", "Listed: of large gradients", "%", 100),
        Measure("same_class_share", "Listed: of the query's class", "%", 100),
        Measure("listed_samples", "Different samples listed"),
    ),
    "language_datamodeling": (
        Measure("lds_by_loss", "Sequences: LDS by loss"),
        Measure("lds_by_margin", "Sequences: LDS by margin"),
    ),
}


def table_datamodeling(results: Results) -> Table:
    """Datamodeling score of each method, and what its lists of ten hold."""
    cells = [
        made
        for experiment, measures in SCORED.items()
        for made in grid(results, experiment, measures, columns="measures")
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
    cells = [
        cell(
            results,
            name_row(results, experiment, case, arm),
            f"{count} {removed} removed",
            experiment=experiment,
            case=case,
            arm=arm,
            metric=f"{label}_{count}",
            label=label,
        )
        for experiment, removed, labels in (
            ("brittleness", "images", ("flipped", "loss")),
            ("language_brittleness", "sequences", ("perplexity",)),
        )
        for case, arms in running(results, experiment).items()
        for arm in arms
        for count in results.paper.settings(experiment, case, arm, results.scale)["removals"]
        for label in labels
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


#: Columns of what fewer bits do to scores.
REDUCED: Final = (
    Measure("stored_bytes", "Stored", "MB", 1e-6),
    Measure("mean_error", "Mean error", "%", 100),
    Measure("largest_error", "Largest error", "%", 100),
    Measure("mean_rank_correlation", "Rank correlation"),
    Measure("worst_rank_correlation", "Its lowest"),
    Measure("top_10_overlap", "Top ten shared", "%", 100),
    Measure("lds", "LDS by margin"),
)


def table_precision(results: Results) -> Table:
    """What fewer bits of stored gradients do to scores."""
    return Table(
        row_header="Stored as",
        cells=grid(results, "precision", REDUCED, columns="measures"),
        notes=[
            "LoGra-random; H and queries are of gradients as they were computed. Errors are"
            " relative to the root mean square of a query's scores; rank correlation is Spearman's"
            " with the scores of gradients that were not stored, for each query.",
        ],
    )


#: Columns of how wrong labels are found.
FOUND: Final = (
    Measure("auc", "Area under the ROC curve"),
    Measure("found_at_10_pct", "Found in the first 10 %", "%"),
    Measure("found_at_20_pct", "Found in the first 20 %", "%"),
)


def table_mislabels(results: Results) -> Table:
    """Area under the curve and wrong labels found, by what samples are ranked by."""
    return Table(
        row_header="Ranked by",
        cells=grid(results, "mislabels", FOUND, columns="measures"),
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
    "table_precision": table_precision,
    "table_mislabels": table_mislabels,
}
