"""The paper's tables, from records, and Figure 4 in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from common.results.lineage import runs_of
from common.results.records import Published, Results
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


def methods(results: Results, experiment: str) -> list[tuple[str, str]]:
    """(arm, name) of an experiment's arms that ran, in order: an archive need not hold all."""
    return arms_named(results, experiment, METHODS)


def arms_named(
    results: Results, experiment: str, names: Mapping[str, str]
) -> list[tuple[str, str]]:
    """As :func:`methods`, of arms with these names on the paper's and on other data."""
    present = {item.record.arm for item in results.records(experiment)}
    return [
        (prefix + arm, data + name)
        for prefix, data in PREFIXES.items()
        for arm, name in names.items()
        if prefix + arm in present
    ]


#: Table 1: arm, row here, row in published.csv.
JOBS: Final = (
    ("ekfac", "EKFAC", "EKFAC"),
    ("ekfac_sixteenth", "EKFAC of 2 of 32 blocks", ""),
    ("logra_1_4", "LoGra, batches of 1 and 4", "LoGra (log batch 1; test batch 4)"),
    ("logra_16_256", "LoGra, batches of 16 and 256", "LoGra (log batch 16; test batch 256)"),
)
#: Models of Table 1: what their arms begin with, name. The paper's numbers are of the first of them
#: that runs at a scale.
MODELS: Final = {
    "llama-": "Llama-3-8B, ",
    "pythia-": "Pythia-1.4B, ",
    "gpt2_xl-": "GPT2-XL, ",
    "": "",
}
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
    """Throughput, memory and storage of both phases."""
    present = results.paper.experiments["efficiency"].arms_of(results.scale)
    models = [prefix for prefix in MODELS if prefix + "logra_1_4" in present]

    def entry(arm: str, row: str, column: tuple[Any, ...], theirs: str) -> Cell:
        phase, label, metric, unit, key = column
        if unit == "MB" and results.scale == "paper":
            unit = "GB"
        made = cell(
            results,
            row,
            phase,
            experiment="efficiency",
            arm=arm,
            metric=metric,
            label=label,
            unit=unit,
            factor=1 / BYTES.get(unit, 1.0),
            published=("Table 1", theirs, *key) if key else None,
        )
        found = results.published_value("Table 1", theirs, *key) if key else None
        return made if found is None else beside(made, found, results.scale)

    cells = []
    for model in models:
        jobs = [job for job in JOBS if model + job[0] in present]
        cells += [
            entry(model + job, MODELS[model] + row, column, theirs if model == models[0] else "")
            for job, row, theirs in jobs
            for column in COSTS
        ]
        for part, metric, key in PASSES:
            column = ("Logging", "throughput", metric, "tokens/s", (key, "throughput"))
            row = f"{MODELS[model]}EKFAC, {part}"
            cells.append(entry(f"{model}ekfac", row, column, "EKFAC" if model == models[0] else ""))
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


def crossover(results: Results, model: str = "") -> str:
    """After how many queries LoGra has paid for its logging, in words.

    Times are of one training sequence, as arms value different numbers of them.
    """
    length = results.paper.settings("efficiency", f"{model}logra_1_4", results.scale)["length"]
    logging, scoring = {}, {}
    for arm in ("ekfac", "logra_1_4", "logra_16_256"):
        tokens, pairs = (
            results.values("efficiency", model + arm, metric)
            for metric in ("log_tokens_per_s", "pairs_per_s")
        )
        if not len(tokens):
            return f"{MODELS[model]}no crossover, for {arm} was not run."
        logging[arm], scoring[arm] = length / float(tokens.mean()), 1 / float(pairs.mean())
    parts = []
    for arm in ("logra_1_4", "logra_16_256"):
        saved = scoring["ekfac"] - scoring[arm]
        queries = max(0.0, (logging[arm] - logging["ekfac"]) / saved)
        since = f"from {queries:.0f} queries on" if queries >= 1 else "from the first query on"
        batches = arm.removeprefix("logra_").replace("_", " and ")
        parts.append(
            f"{since} with batches of {batches} (from {logging[arm] / saved:.0f} on if EKFAC's"
            " factors cost nothing)"
        )
    name = MODELS[model] or "Transformer, "
    return f"{name}logging and scoring together: LoGra is faster than EKFAC {', '.join(parts)}."


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
                    runs=runs_of(results.records(experiment, arm)) if present else [],
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


#: Types of stored gradients: arm, name.
PRECISIONS: Final = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "int8": "int8, a scale for each layer",
}
#: Columns of what they do to scores: title, metric, unit, factor.
REDUCED: Final = (
    ("Stored", "stored_bytes", "MB", 1e-6),
    ("Mean error", "mean_error", "%", 100.0),
    ("Largest error", "largest_error", "%", 100.0),
    ("Rank correlation", "mean_rank_correlation", "", 1.0),
    ("Its lowest", "worst_rank_correlation", "", 1.0),
    ("Top ten shared", "top_10_overlap", "%", 100.0),
    ("LDS by margin", "lds", "", 1.0),
)


def table_precision(results: Results) -> Table:
    """What fewer bits of stored gradients do to scores."""
    cells = [
        cell(
            results,
            name,
            column,
            experiment="precision",
            arm=arm,
            metric=metric,
            label="",
            unit=unit,
            factor=factor,
        )
        for arm, name in arms_named(results, "precision", PRECISIONS)
        for column, metric, unit, factor in REDUCED
    ]
    return Table(
        row_header="Stored as",
        cells=cells,
        notes=[
            "LoGra-random; H and queries are of gradients as they were computed. Errors are"
            " relative to the root mean square of a query's scores; rank correlation is Spearman's"
            " with the scores of gradients that were not stored, for each query.",
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
    "table_precision": table_precision,
    "table_mislabels": table_mislabels,
}
