"""Both papers' tables, from records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from common.results.records import Published, Results
from common.results.tables import Cell, Measure, Table, grid
from papers.mmt_how2.targets import correction_tables, translation_tables
from papers.mmt_how2.targets.correction_tables import ALL, RATES
from papers.mmt_how2.targets.rows import Place, System, make_row

#: Splits: row in the papers' tables, and what metrics begin with.
SPLITS: Final = tuple(
    (f"{corpus} {split}", f"{corpus}_{split}")
    for corpus, splits in (
        ("300h", ("train", "val", "test", "held")),
        ("2000h", ("train", "val", "test")),
    )
    for split in splits
)
#: Columns of those tables: column, metric in published.csv, what our metrics end in, unit.
SIZES: Final = (
    ("videos", "count", "videos_count", ""),
    ("hours", "duration", "h", ""),
    ("clips/sentences", "count", "sentences_count", ""),
)
RECOGNISER: Final = Place("recognition", "recogniser", "test")
#: Made-up sets behind Figure 2.
PICTURES: Final = Place("picture_knobs", "spectrum", "scenes")
KNOBS: Final = (
    System("50 scenes, some noise", "plain"),
    System("weak common directions", "common_half"),
    System("strong common directions", "common_1"),
    System("10 sentences a picture", "video_10"),
    System("60 sentences a picture", "video_60"),
    System("noise that hides scenes", "noise_5"),
    System("pictures of unrelated scenes", "unrelated"),
)
#: What "How2" and "Multi30k" are where features are made up.
STAND_INS: Final = (
    'All features are made up: "How2" has 14 sentences a picture, as many as a video of How2 has on'
    ' average, and "Multi30k" one.'
)
LEADING: Final = (10, 20, 50, 100)
SPECTRUM: Final = (
    *(
        Measure(
            f"top{count}_pct",
            f"top {count}",
            "%",
            published="cumulative variance explained",
            column=f"Top {count}",
        )
        for count in LEADING
    ),
    Measure("scene_accuracy_pct", "scenes told", "%"),
)
#: What kinds of errors and pairs of words depend on.
ALIGNMENT: Final = (
    "Often several alignments have as few edits; kinds of errors and pairs depend on which is taken"
    " (jiwer's), the error rate does not. The README says how much."
)
#: The paper's Table 1: block in published.csv, column there, pairs in its order.
FREQUENT: Final = (
    "ASR Table 1 top block",
    "LAS test output",
    (
        ("the", "a"),
        ("and", "in"),
        ("in", "and"),
        ("a", "the"),
        ("the", "to"),
        ("that", "the"),
        ("to", "the"),
        ("it", "that"),
        ("can", "could"),
        ("will", "would"),
    ),
)
IN_CONTEXT: Final = (
    "ASR Table 1 bottom block (visual-context errors)",
    "LAS output (caption: test; text: train and test)",
    (
        ("both", "bow"),
        ("pipe", "pike"),
        ("bedding", "betting"),
        ("talk", "chalk"),
        ("you", "ukulele"),
    ),
)


def nmt_table1(results: Results) -> Table:
    """Sizes of the splits, as the translation paper prints them."""
    return split_table(results, "NMT Table 1")


def asr_table2(results: Results) -> Table:
    """Sizes of the splits, as the correction paper prints them: of the 300-hour part."""
    return split_table(results, "ASR Table 2")


def split_table(results: Results, printed: str) -> Table:
    """Sizes of those splits that a paper prints, beside those that are known here."""
    known = results.first_metrics("splits", "sizes")
    cells = []
    for row, prefix in SPLITS:
        for column, metric, ending, unit in SIZES:
            theirs = results.published_value(printed, row, column, metric)
            ours = known.get(f"{prefix}_{ending}")
            if theirs is not None:
                cells.append(beside(results, row, column, ours, theirs, unit))
    return Table(row_header="Split", cells=cells, notes=[counted(results, known)])


def counted(results: Results, known: dict[str, float]) -> str:
    """Where our sizes come from, in words."""
    length = f"{known['test_words_per_sentence']:.2f} words in a sentence of the test split"
    if results.scale != "paper":
        return f"Ours are of the made-up corpus, counted; {length}."
    lines = known["300h_test_transcripts_count"]
    return (
        "Ours are those that the corpus' authors publish with it, not counted here, but for the"
        f" test split: its public transcripts have {lines:.0f} lines; {length}."
    )


def asr_table1(results: Results) -> Table:
    """How often the paper's pairs, and ours, were confused."""
    counts = substitutions(results)
    listed = {pair for _, _, pairs in (FREQUENT, IN_CONTEXT) for pair in pairs}
    ours = [pair for pair in list(counts)[: len(FREQUENT[2])] if pair not in listed]
    cells = [
        entry
        for block, column, pairs in (FREQUENT, IN_CONTEXT, ("", "", ours))
        for pair in pairs
        for entry in pair_cells(results, pair, counts, (block, column))
    ]
    found = results.first_metrics(*RECOGNISER)
    both, one, none = (
        found[f"{name}_pct"]
        for name in ("two_function_words", "one_function_word", "no_function_word")
    )
    return Table(
        row_header="Said and heard",
        cells=cells,
        notes=[
            "First the paper's ten most frequent pairs, then its five that only context tells"
            " apart, then those of our ten most frequent that are not among them.",
            f"Of {found['substitutions_count']:.0f} substitutions {both:.0f} % swap one function"
            f" word for another, {one:.0f} % involve one, {none:.0f} % none."
            f" {found['pairs_seen_once_count']:.0f} of {found['distinct_pairs_count']:.0f} pairs"
            " were seen once.",
            ALIGNMENT,
        ],
    )


def pair_cells(
    results: Results,
    pair: tuple[str, str],
    counts: Mapping[tuple[str, str], int],
    printed: tuple[str, str],
) -> list[Cell]:
    """How often a pair was confused, beside what the paper prints, and the other way round."""
    row = " -> ".join(pair)
    block, column = printed
    theirs = results.published_value(block, row, column, "substitution count")
    said, heard = pair
    return [
        beside(results, row, "times", float(counts.get(pair, 0)), theirs),
        beside(results, row, "the other way round", float(counts.get((heard, said), 0)), None),
    ]


def beside(
    results: Results,
    row: str,
    column: str,
    ours: float | None,
    theirs: Published | None,
    unit: str = "",
) -> Cell:
    """A count beside the paper's; as text alone where ours is of a made-up corpus."""
    return Cell(
        row=row,
        column=column,
        metric=column,
        unit=unit,
        mean=ours,
        n=0 if ours is None else 1,
        published=theirs.value if theirs and results.scale == "paper" else None,
        published_text=theirs.text if theirs else "",
        confidence=theirs.confidence if theirs else None,
    )


def substitutions(results: Results) -> dict[tuple[str, str], int]:
    """(said, heard) and how often, the most frequent first."""
    stored = results.first(*RECOGNISER).read_json("substitutions.json")
    return {(said, heard): count for said, heard, count in stored}


def asr_table5(results: Results) -> Table:
    """Kinds of errors of the recogniser and after correction, in percent of the words said."""
    recogniser = table_recogniser(results)
    return Table(
        row_header=recogniser.row_header,
        cells=[*recogniser.cells, *correction_tables.corrected_cells(results)],
        notes=[*recogniser.notes, *correction_tables.made_up_note(results)],
    )


def table_recogniser(results: Results) -> Table:
    """Its first row alone, which needs no corrector."""
    return Table(
        row_header="Output",
        cells=[
            *grid(results, "recognition", RATES, columns="measures", table="ASR Table 5"),
            *grid(results, "recognition", [ALL], columns="measures", table="ASR Table 3"),
        ],
        notes=[
            "The paper's recogniser is not public: ours is the one whose test output the corpus'"
            " authors publish (scale paper), or a noise channel.",
            ALIGNMENT,
        ],
    )


def place_features(case: str) -> Place:
    """Records of the training features of a corpus."""
    return Place("training_features", "spectrum", case)


def table_spectra(results: Results) -> Table:
    """Cumulative shares of variance, and how many pictures tell their scene."""
    cells = []
    for case, body in results.paper.experiments["training_features"].cases.items():
        name = body.title_at(results.scale)
        corpus = System(name, "features", name)
        cells += make_row(results, place_features(case), corpus, SPECTRUM, "NMT Figure 2 bottom")
    for knob in KNOBS:
        made_up = knob._replace(title=f"Made up: {knob.title}")
        cells += make_row(results, PICTURES, made_up, SPECTRUM)
    return Table(
        row_header="Features",
        cells=cells,
        notes=[
            "Shares of the variance of all dimensions. A scene is told where the nearest of all"
            " scenes' prototypes is that of the sentence; real features have no scenes.",
            *([] if results.scale == "paper" else [STAND_INS]),
        ],
    )


TABLES: Final = {
    **translation_tables.TABLES,
    "nmt_table1": nmt_table1,
    "asr_table1": asr_table1,
    "asr_table2": asr_table2,
    "asr_table5": asr_table5,
    "table_recogniser": table_recogniser,
    "table_spectra": table_spectra,
    **correction_tables.TABLES,
}
