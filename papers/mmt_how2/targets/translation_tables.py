"""Tables of translation systems: BLEU beside the paper's, gains, and what wrong pictures do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from common.errors import InputError
from common.results.lineage import runs_of
from common.results.records import Results
from common.results.tables import Cell, Table, cell, cell_of

#: Experiment and arm.
Place = tuple[str, str]

#: Systems of Tables 2 and 4: row, name in the settings, row in published.csv.
FUSION_SYSTEMS: Final = (
    ("Text alone", "text", "Baseline"),
    ("+ decoder fusion", "step_wise", "+ Decoder Fusion"),
    ("+ multimodal attention", "attention", "+ Multimodal Attention"),
    ("+ visual-semantic regulariser", "regularizer", "+ VS Regularization"),
    ("+ decoder fusion, unrelated pictures", "step_wise_none", ""),
)
LARGER: Final = (
    ("Text alone", "text", ""),
    ("3-layer LSTM, byte pairs", "lstm_3_layers", "3 Layers LSTM + BPE"),
    ("Transformer, SentencePiece", "transformer", "Unimodal Transformer + SPM"),
)
LARGER_MODELS: Final = "larger_models"
#: Arms of those, and what their rows begin with.
LARGER_ON: Final = (
    ("en_pt", ""),
    ("multi30k", "Multi30k, En-De: "),
    ("multi30k_small", "Multi30k, En-De, small: "),
)
MASKED: Final = (
    ("Text alone", "text", ""),
    ("+ decoder fusion", "step_wise", ""),
    ("  half of the pictures unrelated", "step_wise_half", ""),
    ("  all pictures unrelated", "step_wise_none", ""),
    ("+ multimodal attention", "attention", ""),
    ("+ visual-semantic regulariser", "regularizer", ""),
)
GAMMAS: Final = (("γ = 0.1", "gamma_10"), ("γ = 0.5", "gamma_50"), ("γ = 0.9", "gamma_90"))
#: Further columns: column, what the metric's name ends in, unit.
MEASURES: Final = (
    ("BLEU, wrong pictures", "permuted_bleu", ""),
    ("senses right", "sense_accuracy_pct", "%"),
    ("chrF", "chrf", ""),
)
SCORES: Final = (
    "BLEU and chrF are sacrebleu's, of text cut by blanks (tokenize=none); its signatures stand"
    " beside each record. p is of a paired bootstrap against the first row, the largest of the"
    " seeds."
)


def nmt_table2(results: Results) -> Table:
    """BLEU of three fusions, English to Portuguese."""
    return systems_table(results, ("fusions", "en_pt"), FUSION_SYSTEMS, ("NMT Table 2", "En-Pt"))


def nmt_table4(results: Results) -> Table:
    """BLEU of three fusions, Portuguese to English."""
    return systems_table(results, ("fusions", "pt_en"), FUSION_SYSTEMS, ("NMT Table 4", "Pt-En"))


def nmt_table3(results: Results) -> Table:
    """BLEU of larger models, English to Portuguese, and on real captions where they were run."""
    found: list[Cell] = []
    for arm, text in LARGER_ON:
        place = (LARGER_MODELS, arm)
        if not results.records(*place):
            continue  # It is of another scale, or an archive holds what could be run.
        printed = ("NMT Table 3", "En-Pt") if arm == "en_pt" else None
        cells = systems_table(results, place, LARGER, printed).cells
        known = results.metrics_of(*place)
        cells += [
            measured(results, place, row, name, "weights", "parameters_count", "")
            for row, name, _ in LARGER
            if f"{name}_parameters_count" in known
        ]
        found += [entry.model_copy(update={"row": f"{text}{entry.row}"}) for entry in cells]
    if not found:
        raise InputError(f"{LARGER_MODELS}: no record at scale {results.scale}")
    return Table(row_header="System", cells=found, notes=[SCORES])


def table_masked_text(results: Results) -> Table:
    """What pictures bring where the text does not name the scene."""
    return systems_table(results, ("masked_text", "made_up"), MASKED)


def table_visual_gamma(results: Results) -> Table:
    """The picture's share of the attention, where pictures say nothing."""
    place = ("unrelated_pictures", "made_up")
    columns = (("BLEU", "bleu", ""), ("validation loss", "valid_bits_per_token", "bits a token"))
    return Table(
        row_header="Share of the visual attention",
        cells=[
            measured(results, place, row, name, *column)
            for row, name in GAMMAS
            for column in columns
        ],
        notes=[SCORES],
    )


def table_captioner(results: Results) -> Table:
    """How often captions repeat."""
    columns = (
        ("different captions", "distinct_outputs_pct", "% of lines"),
        ("BLEU", "bleu", ""),
        ("BLEU, wrong pictures", "permuted_bleu", ""),
    )
    return Table(
        row_header="Source",
        cells=[
            measured(results, ("captioner", "made_up"), "picture alone", "step_wise", *column)
            for column in columns
        ],
    )


def systems_table(
    results: Results,
    place: Place,
    systems: Sequence[tuple[str, str, str]],
    printed: tuple[str, str] | None = None,
) -> Table:
    """A row for each system that was run; ``printed`` is table and column in published.csv."""
    known = results.metrics_of(*place)
    runs = runs_of(results.records(*place))
    first = systems[0][1]
    cells: list[Cell] = []
    for row, name, theirs in systems:
        if f"{name}_bleu" not in known:
            continue  # It is a control of another scale.
        score, gain = (
            (printed[0], theirs, printed[1], metric) if printed and theirs else None
            for metric in ("BLEU", "BLEU gain over baseline")
        )
        bleu = results.values(*place, f"{name}_bleu")
        cells.append(cell_of(results, row, "BLEU", bleu, label="BLEU", published=score, runs=runs))
        if name != first:
            more = bleu - results.values(*place, f"{first}_bleu")
            cells.append(
                cell_of(results, row, "gain", more, label="gain", published=gain, runs=runs)
            )
            largest = results.values(*place, f"{name}_p_value").max()
            cells.append(
                Cell(row=row, column="p", metric="p", mean=float(largest), n=len(bleu), runs=runs)
            )
        cells += [
            measured(results, place, row, name, *measure)
            for measure in MEASURES
            if f"{name}_{measure[1]}" in known
        ]
    return Table(row_header="System", cells=cells, notes=[SCORES])


def measured(
    results: Results, place: Place, row: str, name: str, column: str, ending: str, unit: str
) -> Cell:
    """A metric of a system."""
    experiment, arm = place
    metric = f"{name}_{ending}"
    return cell(
        results, row, column, experiment=experiment, arm=arm, metric=metric, label=column, unit=unit
    )


TABLES: Final = {
    "nmt_table2": nmt_table2,
    "nmt_table3": nmt_table3,
    "nmt_table4": nmt_table4,
    "table_masked_text": table_masked_text,
    "table_visual_gamma": table_visual_gamma,
    "table_captioner": table_captioner,
}
