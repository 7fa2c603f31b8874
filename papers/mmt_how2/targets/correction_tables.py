"""Tables of the correction paper that need a trained corrector, from records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from common.results.records import Results, StoredRecord
from common.results.tables import Cell, Table, cell, cell_of

EXPERIMENT: Final = "correction"
#: Arm of the paper's own tables.
PRINTED: Final = "recogniser"
#: What metrics of the recogniser's output and of the whole correction begin with.
INPUT: Final = "input"
FULL: Final = "char2word_visual_je_lm"
#: Rows of Table 3: what metrics begin with, row, row in published.csv.
ROWS: Final = (
    (INPUT, "Recogniser", "Baseline (LAS)"),
    ("word2word", "+ correction, word2word", "+ Error correction (word2word)"),
    ("subword2subword", "+ correction, subword2subword", "+ Error correction (subword2subword)"),
    ("subword2word", "+ correction, subword2word", "+ Error correction (subword2word)"),
    ("char2word", "+ correction, char2word", "+ Error correction (char2word)"),
    ("char2word_visual", "char2word + picture", "+ EC (c2w) + Visual"),
    ("char2word_visual_je", "char2word + picture + JE", "+ EC (c2w) + Visual + JE"),
    ("char2word_visual_lm", "char2word + picture + LM", "+ EC (c2w) + Visual + LM"),
    (FULL, "char2word + picture + JE + LM", "+ EC (c2w) + Visual + JE + LM"),
    ("char2word_visual_permuted", "char2word + others' pictures", ""),
    ("char2word_je", "char2word + JE", ""),
    ("char2word_lm", "char2word + LM", ""),
    ("char2word_je_lm", "char2word + JE + LM", ""),
)
#: Words of the two rescored systems in notes.
RESCORED: Final = {"char2word_visual": "with the picture", "char2word": "without it"}
#: Rows of Table 5 that are the corrector's.
CORRECTED: Final = ((INPUT, "Corrector's input"), (FULL, "+ correction + picture + JE + LM"))
KINDS: Final = ("insertion", "deletion", "substitution")
#: The pairs of Table 4, in its order.
LEFT: Final = (
    ("the", "a"),
    ("and", "in"),
    ("a", "the"),
    ("in", "and"),
    ("that", "the"),
    ("to", "the"),
    ("the", "to"),
    ("it", "that"),
    ("in", "on"),
    ("can", "could"),
)
#: The system of Table 4.
LISTED_SYSTEM: Final = "char2word"
#: Columns of our own table: what metrics begin with, column.
REPAIRS: Final = (
    ("input_wer_pct", "what was heard"),
    ("floor_wer_pct", "best possible, picture seen"),
    ("text_wer_pct", "text alone"),
    ("visual_wer_pct", "with the picture"),
    ("visual_permuted_wer_pct", "with others' pictures"),
)


def asr_table3(results: Results) -> Table:
    """Word error rates by units of text, with the picture and after rescoring."""
    stored = results.records(EXPERIMENT, PRINTED)
    known = results.metrics_of(EXPERIMENT, PRINTED)
    return Table(
        row_header="Output",
        cells=[
            cell(
                results,
                row,
                "test",
                experiment=EXPERIMENT,
                arm=PRINTED,
                metric=f"{prefix}_wer_pct",
                label="word error rate",
                unit="%",
                published=("ASR Table 3", theirs, "test", "WER") if theirs else None,
            )
            for prefix, row, theirs in ROWS
            if f"{prefix}_wer_pct" in known
        ],
        notes=[
            *(weights_note(stored, name) for name in RESCORED if f"{name}_je_wer_pct" in known),
            f"The joint embedding finds {average_metric(stored, 'recall_at_1_pct'):.1f} % of the"
            " test transcripts by their picture, nearest first (the paper: 17.6 %; chance:"
            f" {average_metric(stored, 'recall_at_1_by_chance_pct'):.2g} %).",
            *made_up_note(results),
        ],
    )


def weights_note(stored: Sequence[StoredRecord], name: str) -> str:
    """The weights and beams that the validation split chose, seed by seed."""
    chosen = ", ".join(
        "({:g}, {:g}, {:.0f})".format(
            *(
                item.record.metrics[f"{name}_je_lm_{part}"]
                for part in ("alpha_share", "beta_share", "beam_count")
            )
        )
        for item in stored
    )
    oracle = average_metric(stored, f"{name}_oracle_wer_pct")
    return (
        f"(alpha, beta, beam) of JE + LM {RESCORED[name]}: {chosen}; the paper's:"
        f" (0.1, 0.2, 13). The best of the candidates have {oracle:.1f} % of words wrong."
    )


def asr_table4(results: Results) -> Table:
    """How often pairs are confused after correction, and what that is more than before."""
    stored = results.records(EXPERIMENT, PRINTED)
    results.first(EXPERIMENT, PRINTED)  # It says so of an archive, which has none.
    lists = [item.read_json("substitutions.json") for item in stored]
    before, after = (
        [Counter({(said, heard): n for said, heard, n in one[name]}) for one in lists]
        for name in (INPUT, LISTED_SYSTEM)
    )
    total = sum(after, Counter())
    ours = [pair for pair, _ in total.most_common() if pair not in LEFT][: len(LEFT)]
    cells = []
    for pair in (*LEFT, *ours):
        row = " -> ".join(pair)
        left = [float(one[pair]) for one in after]
        change = [new - old[pair] for new, old in zip(left, before, strict=True)]
        for column, values, theirs in (
            ("times", left, ("char2word EC test output", "substitution count")),
            ("more than before", change, ("change against Table 1", "substitution count change")),
        ):
            cells.append(count_cell(results, row, column, values, theirs))
    kept, changed = (
        average_metric(stored, f"{name}_function_pairs_count") for name in (INPUT, LISTED_SYSTEM)
    )
    return Table(
        row_header="Said and put out",
        cells=cells,
        notes=[
            "First the paper's ten most frequent pairs, then those of our ten most frequent that"
            f" are not among them; the output is that of {LISTED_SYSTEM}.",
            f"Substitutions of one function word for another: {kept:.0f} before correction,"
            f" {changed:.0f} after it.",
            *made_up_note(results),
        ],
    )


def count_cell(
    results: Results, row: str, column: str, values: Sequence[float], theirs: tuple[str, str]
) -> Cell:
    """A count over seeds beside the paper's; as text alone where ours is of made-up speech."""
    key = ("ASR Table 4", row, *theirs)
    found = cell_of(results, row, column, np.array(values), label=column, published=key)
    return found if results.scale == "paper" else found.model_copy(update={"published": None})


def corrected_cells(results: Results) -> list[Cell]:
    """Rows of Table 5: kinds of errors before and after the whole correction."""
    return [
        cell(
            results,
            row,
            column,
            experiment=EXPERIMENT,
            arm=PRINTED,
            metric=f"{prefix}_{metric}_pct",
            label=label,
            unit="%",
            published=key if prefix == FULL else None,
        )
        for prefix, row in CORRECTED
        for column, metric, label, key in (
            *(
                (kind, kind, kind, ("ASR Table 5", "+ EC + Visual + JE + LM", kind, "error rate"))
                for kind in KINDS
            ),
            (
                "all",
                "wer",
                "word error rate",
                ("ASR Table 3", "+ EC (c2w) + Visual + JE + LM", "test", "WER"),
            ),
        )
    ]


def table_correction(results: Results) -> Table:
    """Two made-up corpora with one error rate: where the picture can help and where it cannot."""
    arms = results.paper.experiments[EXPERIMENT].arms
    return Table(
        row_header="Errors",
        cells=[
            cell(
                results,
                arms[arm].title,
                column,
                experiment=EXPERIMENT,
                arm=arm,
                metric=metric,
                label="word error rate",
                unit="%",
            )
            for arm in ("function_dominated", "context_dominated")
            for metric, column in REPAIRS
        ],
        notes=[
            "Both are made up at every scale. Function words are drawn at random, so no corrector"
            " can put them right; the scene in the picture tells the rest.",
        ],
    )


def made_up_note(results: Results) -> list[str]:
    """That the speech is made up, where it is."""
    if results.scale == "paper":
        return []
    return [
        "Speech and pictures are made up: sentences of seven words from a list of 25, where lost,"
        " added and misspelt words show in the text alone, so that correction gains far more than"
        " on real speech."
    ]


def average_metric(stored: Sequence[StoredRecord], metric: str) -> float:
    """Mean of a metric over records."""
    return float(np.mean([item.record.metrics[metric] for item in stored]))


TABLES: Final = {
    "asr_table3": asr_table3,
    "asr_table4": asr_table4,
    "table_correction": table_correction,
}
