"""Tables of translation systems: BLEU beside the paper's, gains, and what wrong pictures do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.results.lineage import list_runs
from common.results.records import Results
from common.results.tables import Cell, Measure, Table, make_cell
from papers.mmt_how2.targets.rows import Place, System, make_row, read_values

#: Of Tables 2 and 4.
FUSION_SYSTEMS: Final = (
    System("Text alone", "text", "Baseline"),
    System("+ decoder fusion", "step_wise", "+ Decoder Fusion"),
    System("+ multimodal attention", "attention", "+ Multimodal Attention"),
    System("+ visual-semantic regulariser", "regularizer", "+ VS Regularization"),
    System("+ decoder fusion, unrelated pictures", "step_wise_none"),
)
LARGER: Final = (
    System("Text alone", "text"),
    System("3-layer LSTM, byte pairs", "lstm_3_layers", "3 Layers LSTM + BPE"),
    System("Transformer, SentencePiece", "transformer", "Unimodal Transformer + SPM"),
)
MASKED: Final = (
    System("Text alone", "text"),
    System("+ decoder fusion", "step_wise"),
    System("  half of the pictures unrelated", "step_wise_half"),
    System("  all pictures unrelated", "step_wise_none"),
    System("+ multimodal attention", "attention"),
    System("+ visual-semantic regulariser", "regularizer"),
)
GAMMAS: Final = (
    System("γ = 0.1", "gamma_10"),
    System("γ = 0.5", "gamma_50"),
    System("γ = 0.9", "gamma_90"),
)
BLEU: Final = Measure("bleu", "BLEU", published="BLEU")
WRONG: Final = Measure("permuted_bleu", "BLEU, wrong pictures")
SCORES: Final = (
    BLEU,
    Measure("sense_accuracy_pct", "senses right", "%"),
    Measure("chrf", "chrF"),
    WRONG,
)
WEIGHTS: Final = Measure("parameters_count", "weights")
COLUMNS: Final = ["BLEU", "senses right", "chrF", "gain", "p", WRONG.title, WEIGHTS.title]
NOTE: Final = (
    "BLEU and chrF are sacrebleu's, of text cut by blanks (tokenize=none); its signatures stand"
    " beside each record. p is of a paired bootstrap against the first row, the largest of the"
    " seeds."
)


def nmt_table2(results: Results) -> Table:
    """BLEU of three fusions, English to Portuguese."""
    place = Place("fusions", "systems", "en_pt")
    return systems_table(systems_cells(results, place, FUSION_SYSTEMS, SCORES, "NMT Table 2"))


def nmt_table4(results: Results) -> Table:
    """BLEU of three fusions, Portuguese to English."""
    place = Place("fusions", "systems", "pt_en")
    return systems_table(systems_cells(results, place, FUSION_SYSTEMS, SCORES, "NMT Table 4"))


def nmt_table3(results: Results) -> Table:
    """BLEU of larger models, English to Portuguese, and on real captions where they are run."""
    study = results.paper.experiments["larger_models"]
    running = study.runs(results.scale)
    cells = []
    for case, arm in running:
        prefix = f"{study.cases[case].title_at(results.scale)}: " if len(running) > 1 else ""
        rows = [system._replace(title=prefix + system.title) for system in LARGER]
        place = Place("larger_models", arm, case)
        cells += systems_cells(results, place, rows, (*SCORES, WEIGHTS), "NMT Table 3")
    return systems_table(cells)


def table_masked_text(results: Results) -> Table:
    """What pictures bring where the text does not name the scene."""
    place = Place("masked_text", "systems", "compositional")
    return systems_table(systems_cells(results, place, MASKED, SCORES))


def table_visual_gamma(results: Results) -> Table:
    """The picture's share of the attention, where pictures say nothing."""
    place = Place("unrelated_pictures", "systems", "compositional")
    measures = (BLEU, Measure("valid_bits_per_token", "validation loss", "bits a token"))
    return Table(
        row_header="Share of the visual attention",
        cells=[entry for system in GAMMAS for entry in make_row(results, place, system, measures)],
        notes=[NOTE],
    )


def table_captioner(results: Results) -> Table:
    """How often captions repeat."""
    place = Place("captioner", "systems", "compositional")
    different = Measure("distinct_outputs_pct", "different captions", "% of lines")
    picture = System("picture alone", "step_wise")
    return Table(
        row_header="Source", cells=make_row(results, place, picture, (different, BLEU, WRONG))
    )


def systems_table(cells: list[Cell]) -> Table:
    """Scores first, then what they are against the first row's."""
    return Table(row_header="System", cells=cells, columns=COLUMNS, notes=[NOTE])


def systems_cells(
    results: Results,
    place: Place,
    systems: Sequence[System],
    measures: Sequence[Measure],
    table: str = "",
) -> list[Cell]:
    """A row for each of ``systems`` that is trained there, with what it gains over the first.

    Args:
        table: table_or_figure in published.csv.
    """
    chosen = place.experiment, place.case, place.arm, results.scale
    trained = results.paper.settings(*chosen)["systems"]
    first, *others = (system for system in systems if system.name in trained)
    cells = []
    for system in (first, *others):
        cells += make_row(results, place, system, measures, table)
        if system is not first:
            cells += gain_cells(results, place, system, first, table)
    return cells


def gain_cells(
    results: Results, place: Place, system: System, first: System, table: str
) -> list[Cell]:
    """What a system gains over the first one, and the largest p of that."""
    bleu = read_values(results, place, "bleu", system.name)
    least = read_values(results, place, "bleu", first.name)
    p = read_values(results, place, "p_value", system.name)
    column = results.paper.experiments[place.experiment].cases[place.case].published
    printed = (table, system.published, column, "BLEU gain over baseline")
    runs = list_runs(results.records(*place))
    return [
        make_cell(
            results, system.title, "gain", bleu - least, label="", published=printed, runs=runs
        ),
        Cell(
            row=system.title,
            column="p",
            metric="",
            mean=float(p.max()) if len(p) else None,
            n=len(p),
            runs=runs,
        ),
    ]


TABLES: Final = {
    "nmt_table2": nmt_table2,
    "nmt_table3": nmt_table3,
    "nmt_table4": nmt_table4,
    "table_masked_text": table_masked_text,
    "table_visual_gamma": table_visual_gamma,
    "table_captioner": table_captioner,
}
