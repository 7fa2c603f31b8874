"""The paper's tables, from records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from common.results.records import Results
from common.results.tables import Cell, Table, cell


class Column(NamedTuple):
    """A column: which metric of a run it shows, and where the paper prints it.

    ``key`` is (column, metric) in published.csv.
    """

    title: str
    metric: str
    unit: str = "%"
    factor: float = 1.0
    key: tuple[str, str] | None = None


class Row(NamedTuple):
    """A row: an arm, its name here, and its name in published.csv."""

    arm: str
    name: str
    theirs: str | None = None


MEMORY = Column("Memory", "saved_bytes", "MiB", 1 / 2**20, ("Memory", "GPU memory"))
TIME = Column("Time", "train_s", "min", 1 / 60, ("Time", "training wall time"))
SECONDS = Column("Time", "train_s", "s")


def make_cells(
    results: Results, experiment: str, row: Row, columns: Sequence[Column], table: str = ""
) -> list[Cell]:
    """Cells of one arm; none if it does not run at this scale.

    ``table`` is the table_or_figure in published.csv that rows and columns are looked up in.
    """
    if row.arm not in results.paper.experiments[experiment].arms_of(results.scale):
        return []
    return [
        cell(
            results,
            row.name,
            column.title,
            experiment=experiment,
            arm=row.arm,
            metric=column.metric,
            label="accuracy" if "accuracy" in column.metric else column.title,
            unit=column.unit,
            factor=column.factor,
            published=(table, row.theirs, *column.key) if row.theirs and column.key else None,
        )
        for column in columns
    ]


def make_table(
    experiment: str,
    header: str,
    rows: Sequence[Row],
    columns: Sequence[Column],
    *notes: str,
    table: str = "",
) -> Callable[[Results], Table]:
    """A table with a row for each arm and a column for each metric."""

    def build(results: Results) -> Table:
        cells = [
            item for row in rows for item in make_cells(results, experiment, row, columns, table)
        ]
        return Table(row_header=header, cells=cells, notes=list(notes))

    return build


#: Rows of Table 1; an arm's name ends in the imbalance.
METHODS = (
    Row("baseline", "No sample weights"),
    Row("clean", "Clean meta set alone"),
    Row("itd", "ITD-RMAD, step=1", "MWN (ours, step=1) | ITD-RMAD"),
    Row("cg", "AID-CG, step=1", "MWN (ours, step=1) | AID-CG"),
    Row("neumann", "AID-NMN, step=1", "MWN (ours, step=1) | AID-NMN"),
    Row("darts", "AID-FD, step=1, restored"),
    Row("nudge", "AID-FD, step=1, nudge", "MWN (ours, step=1) | AID-FD"),
    Row("darts5", "AID-FD, step=5, restored"),
    Row("nudge5", "AID-FD, step=5, nudge", "MWN (ours, step=5) | AID-FD"),
)
#: Networks of Table 1: what their arms begin with, and what their rows are called besides.
NETWORKS = (("", ""), ("small-", ", small network"))
IMBALANCES = (200, 100, 50)


def table1(results: Results) -> Table:
    """Accuracy by method and imbalance, memory and time at the lowest imbalance."""
    metric = "best_accuracy_pct" if results.scale == "paper" else "accuracy_pct"
    cells: list[Cell] = []
    for prefix, suffix in NETWORKS:
        for method in METHODS:
            for imbalance in IMBALANCES:
                column = f"IF {imbalance}"
                accuracy = Column(
                    column, metric, key=(column, "test accuracy (long-tailed CIFAR-10)")
                )
                cost = [MEMORY, TIME] if imbalance == IMBALANCES[-1] else []
                row = Row(f"{prefix}{method.arm}-{imbalance}", method.name + suffix, method.theirs)
                cells += make_cells(
                    results, "meta_weight_net", row, [accuracy, *cost], table="Table 1"
                )
    shown = {item.column for item in cells}
    columns = [*(f"IF {imbalance}" for imbalance in IMBALANCES), MEMORY.title, TIME.title]
    return Table(
        row_header="Method",
        cells=cells,
        columns=[column for column in columns if column in shown],
        notes=[
            "The published AID-FD rows stand beside the nudge: every version of the published"
            " package that can have made them left the weights perturbed (see the paper's README).",
            "Memory is what autograd keeps for backward passes over one inner loop and meta step;"
            " the paper's is all of the GPU's. Time leaves out evaluation.",
        ],
    )


#: Rows of Table 2; the names of those on SST end in the imbalance.
ON_DIGITS = (
    Row("baseline", "Baseline", "Baseline"),
    Row("fp32", "MWN, fp32", "MWN (fp32) | AID-FD"),
    Row("bf16", "MWN, bf16 (paper: fp16)", "MWN (fp16) | AID-FD"),
)
ON_SST = (
    Row("bert-baseline", "BERT-base: baseline", "Baseline"),
    Row("bert-fp32", "BERT-base: MWN, fp32", "MWN (fp32) | AID-FD"),
    Row("bert-fp16", "BERT-base: MWN, fp16", "MWN (fp16) | AID-FD"),
    Row("bert-nudge", "BERT-base: MWN, fp16, nudge", "MWN (fp16) | AID-FD"),
    Row("bert-accumulation", "BERT-base: MWN, fp32, 4 micro-batches"),
    Row("bert-both", "BERT-base: MWN, fp16, 4 micro-batches"),
)


def table2(results: Results) -> Table:
    """Accuracy, memory and time by precision: of an MLP on digits, and of BERT on SST."""
    study = "system_features"
    text = {
        imbalance: Column(
            f"IF {imbalance}",
            "best_accuracy_pct",
            key=(f"IF {imbalance}", "test accuracy (imbalanced SST, BERT-base)"),
        )
        for imbalance in (20, 50)
    }
    digits = (text[20]._replace(metric="accuracy_pct"), MEMORY, TIME)
    cells = [
        item for row in ON_DIGITS for item in make_cells(results, study, row, digits, "Table 2")
    ]
    for row in ON_SST:
        for imbalance, accuracy in text.items():
            cost = [MEMORY._replace(metric="gpu_bytes"), TIME] if imbalance == 20 else []
            arm = row._replace(arm=f"{row.arm}-{imbalance}")
            cells += make_cells(results, study, arm, [accuracy, *cost], "Table 2")
    shown = {item.column for item in cells}
    columns = ("IF 20", "IF 50", MEMORY.title, TIME.title)
    notes = [
        "BERT-base is tested on SST's development set, and its accuracy is the best of four tests,"
        " as in the published script. Its memory is the most that tensors held on the GPU; that of"
        " the MLP is what autograd keeps for backward passes over one inner loop and meta step.",
    ]
    return Table(
        row_header="Program",
        cells=cells,
        columns=[column for column in columns if column in shown],
        notes=notes if "IF 50" in shown else [],
    )


WRENCH = {"": "TREC", "semeval-": "SemEval", "youtube-": "YouTube", "sms-": "SMS"}
#: Rows of Table 3.
CORRECTIONS = (
    Row("clean_only", "Clean set alone"),
    Row("baseline", "Weak labels", "Baseline"),
    Row("rwt", "+RWT", "+RWT"),
    Row("rwt_crt", "+RWT&CRT", "+RWT&CRT"),
    Row("baseline", "Majority vote (paper: Snorkel)", "Snorkel"),
)


def table3(results: Results) -> Table:
    """Test accuracy by method; columns are digits, or the WRENCH sets, once more with BERT."""
    real = results.scale == "paper"
    sets = WRENCH | {f"bert-{prefix or 'trec-'}": name for prefix, name in WRENCH.items()}
    cells = []
    for correction in CORRECTIONS:
        votes = correction.theirs == "Snorkel"
        metric = "vote_accuracy_pct" if votes else "accuracy_pct"
        for prefix, name in sets.items():
            bert = prefix.startswith("bert-")
            if votes and bert:  # votes read no features
                continue
            key = (name, "test accuracy (WRENCH, 2-layer MLP)") if real else None
            title = f"{name}, BERT" if bert else name
            column = Column(title if real else "digits", metric, key=key)
            row = correction._replace(arm=prefix + correction.arm)
            cells += make_cells(results, "label_correction", row, [column], table="Table 3")
    return Table(row_header="Method", cells=cells)


#: Rows of Table 4.
ADAPTATIONS = (
    Row("target_only", "Target samples alone"),
    Row("baseline", "Baseline, two levels", "Baseline (2-level)"),
    Row("rwt", "+RWT, three levels", "+ RWT (3-level, AID-FD)"),
)
OFFICE_HOME = (("Cl", "Ar"), ("Ar", "Pr"), ("Pr", "Rw"), ("Rw", "Cl"))
OFFICE_CALTECH = {
    "": "Caltech→Amazon",
    "aw-": "Amazon→Webcam",
    "wd-": "Webcam→DSLR",
    "dc-": "DSLR→Caltech",
}
#: Columns of Table 4 at paper scale, each with what the names of its arms begin with.
PAIRS = (
    *(
        (
            f"home-{source}{target}-".lower(),
            Column(
                f"{source}→{target}",
                "best_accuracy_pct",
                key=(f"{source}->{target}", "target-domain test accuracy (OfficeHome)"),
            ),
        )
        for source, target in OFFICE_HOME
    ),
    ("home-clar-", MEMORY._replace(metric="memory_bytes", unit="GiB", factor=1 / 2**30)),
    ("home-clar-", SECONDS._replace(key=TIME.key)),
    *((prefix, Column(pair, "accuracy_pct")) for prefix, pair in OFFICE_CALTECH.items()),
)


def table4(results: Results) -> Table:
    """Accuracy on the target by levels; columns are digits, or pairs of domains."""
    if results.scale != "paper":
        columns: Sequence[tuple[str, Column]] = [("", Column("digits", "accuracy_pct"))]
        return Table(row_header="Program", cells=_adaptations(results, columns))
    return Table(
        row_header="Program",
        cells=_adaptations(results, PAIRS),
        notes=[
            "Cl, Ar, Pr and Rw are domains of Office-Home. Their accuracy is the best of all tests,"
            " one every 20 iterations, as published: the test set chose it. The others are domains"
            " of Office-Caltech; theirs is the accuracy at the end. Memory and time are Cl→Ar's.",
            "Memory is the most that tensors held on the GPU (without one, what autograd kept for"
            " backward passes). Time leaves out tests.",
        ],
    )


def _adaptations(results: Results, columns: Sequence[tuple[str, Column]]) -> list[Cell]:
    return [
        item
        for row in ADAPTATIONS
        for prefix, column in columns
        for item in make_cells(
            results,
            "domain_adaptation",
            row._replace(arm=prefix + row.arm),
            [column],
            "Table 4",
        )
    ]


OMNIGLOT = "README implicit_maml (Omniglot)"
FEW_SHOT = ("5w1s", "5w5s", "20w1s", "20w5s")


def table_imaml(results: Results) -> Table:
    """Accuracy on tasks of new classes, by method and kind of task."""
    methods = (
        Row("no_meta", "Random weights"),
        Row("itd", "MAML (ITD-RMAD)", "MAML"),
        Row("darts", "AID-FD"),
        Row("neumann", "AID-NMN"),
        Row("cg", "Implicit MAML (AID-CG)", "iMAML (Betty)"),
    )
    cells = []
    for method in methods:
        for kind in FEW_SHOT:
            ways, shots = kind.removesuffix("s").split("w")
            title = f"{ways}-way {shots}-shot"
            column = Column(title, "accuracy_pct", key=(title, "few-shot accuracy"))
            row = method._replace(arm=f"{method.arm}-{kind}")
            cells += make_cells(results, "implicit_maml", row, [column], table=OMNIGLOT)
    return Table(row_header="Method", cells=cells)


TABLES = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table_features": make_table(
        "system_features",
        "Feature",
        (
            Row("fp32", "Meta-Weight-Net, fp32", "Baseline"),
            Row("bf16", "bf16 (paper: fp16)", "+FP16"),
            Row("accumulation", "4 micro-batches"),
            Row("both", "bf16 and 4 micro-batches"),
        ),
        (
            MEMORY._replace(key=("Memory", "GPU memory (ResNet-50, long-tailed CIFAR-10)")),
            SECONDS,
            Column("Accuracy", "accuracy_pct"),
        ),
        table="Docs: memory ablation (probably Appendix E)",
    ),
    "table_hpo": make_table(
        "regression_hpo",
        "Method",
        (
            Row("darts", "AID-FD"),
            Row("cg", "AID-CG, 3 iterations"),
            Row("neumann", "AID-NMN, 5 terms"),
            Row("itd", "ITD-RMAD, 100 steps"),
        ),
        (
            Column("Validation loss at the start", "start_loss", ""),
            Column("at the end", "final_loss", ""),
            Column("Memory", "saved_bytes", "kB", 1e-3),
            SECONDS,
        ),
        "The published package's own test asks for a loss below 0.48.",
    ),
    "table_imaml": table_imaml,
    "table_nas": make_table(
        "architecture_search",
        "Cells",
        (
            Row("step1", "Found by AID-FD, step=1", "DARTS (ours, step=1)"),
            Row("step3", "Found by AID-FD, step=3", "DARTS (ours, step=3)"),
            Row("random", "Random"),
        ),
        (
            Column("Accuracy", "accuracy_pct", key=("Test Acc.", "test accuracy (CIFAR-10)")),
            Column(
                "Parameters",
                "parameters",
                "M",
                1e-6,
                ("Params", "parameters of the found network"),
            ),
            SECONDS,
        ),
        "Each cell is trained from scratch. Parameters are those of its network but for the"
        " auxiliary head's. Time is that of the search, where there is one, and of one training.",
        table="README NAS (cf. Appendix A)",
    ),
}
