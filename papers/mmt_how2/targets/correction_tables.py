"""Tables of the correction paper that need a trained corrector, from records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from common.results.records import Results, StoredRecord
from common.results.tables import Cell, Measure, Table, make_cell
from papers.mmt_how2.targets.rows import Place, System, make_row, name_metric

#: Of the paper's own tables.
RECOGNISED: Final = Place("correction", "units", "recognised")
#: What metrics of the recogniser's output and of the whole correction begin with.
INPUT: Final = "input"
FULL: Final = "char2word_visual_je_lm"
#: Rows of Table 3.
ROWS: Final = (
    System("Recogniser", INPUT, "Baseline (LAS)"),
    System("+ correction, word2word", "word2word", "+ Error correction (word2word)"),
    System(
        "+ correction, subword2subword", "subword2subword", "+ Error correction (subword2subword)"
    ),
    System("+ correction, subword2word", "subword2word", "+ Error correction (subword2word)"),
    System("+ correction, char2word", "char2word", "+ Error correction (char2word)"),
    System("char2word + picture", "char2word_visual", "+ EC (c2w) + Visual"),
    System("char2word + picture + JE", "char2word_visual_je", "+ EC (c2w) + Visual + JE"),
    System("char2word + picture + LM", "char2word_visual_lm", "+ EC (c2w) + Visual + LM"),
    System("char2word + picture + JE + LM", FULL, "+ EC (c2w) + Visual + JE + LM"),
    System("char2word + others' pictures", "char2word_visual_permuted"),
    System("char2word + JE", "char2word_je"),
    System("char2word + LM", "char2word_lm"),
    System("char2word + JE + LM", "char2word_je_lm"),
)
#: Words of the two rescored systems in notes.
RESCORED: Final = {"char2word_visual": "with the picture", "char2word": "without it"}
KINDS: Final = ("insertion", "deletion", "substitution")
#: Columns of Table 5; the last one's numbers stand in Table 3.
RATES: Final = tuple(
    Measure(f"{kind}_pct", kind, "%", published="error rate", column=kind) for kind in KINDS
)
ALL: Final = Measure("wer_pct", "all", "%", published="WER", column="test")
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
#: Columns of our own table.
REPAIRS: Final = (
    Measure("input_wer_pct", "what was heard", "%"),
    Measure("floor_wer_pct", "best possible, picture seen", "%"),
    Measure("text_wer_pct", "text alone", "%"),
    Measure("visual_wer_pct", "with the picture", "%"),
    Measure("visual_permuted_wer_pct", "with others' pictures", "%"),
)


def asr_table3(results: Results) -> Table:
    """Word error rates by units of text, with the picture and after rescoring."""
    stored = results.records(*RECOGNISED)
    known = results.first_metrics(*RECOGNISED)
    rate = ALL._replace(label="word error rate")
    return Table(
        row_header="Output",
        cells=[
            entry
            for one in ROWS
            for entry in make_row(results, RECOGNISED, one, [rate], "ASR Table 3")
        ],
        notes=[
            *(
                weights_note(stored, name)
                for name in RESCORED
                if name_metric(name, "je_wer_pct") in known
            ),
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
                item.record.metrics[name_metric(name, part)]
                for part in ("je_lm_alpha_share", "je_lm_beta_share", "je_lm_beam_count")
            )
        )
        for item in stored
    )
    oracle = average_metric(stored, name_metric(name, "oracle_wer_pct"))
    return (
        f"(alpha, beta, beam) of JE + LM {RESCORED[name]}: {chosen}; the paper's:"
        f" (0.1, 0.2, 13). The best of the candidates have {oracle:.1f} % of words wrong."
    )


def asr_table4(results: Results) -> Table:
    """How often pairs are confused after correction, and what that is more than before."""
    stored = results.records(*RECOGNISED)
    results.first(*RECOGNISED)  # It says so of an archive, which has none.
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
        average_metric(stored, name_metric(name, "function_pairs_count"))
        for name in (INPUT, LISTED_SYSTEM)
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
    found = make_cell(results, row, column, np.array(values), label=column, published=key)
    return found if results.scale == "paper" else found.model_copy(update={"published": None})


def corrected_cells(results: Results) -> list[Cell]:
    """Rows of Table 5: kinds of errors before and after the whole correction."""
    before = System("Corrector's input", INPUT)
    after = System("+ correction + picture + JE + LM", FULL, "+ EC + Visual + JE + LM")
    in_table3 = after._replace(published="+ EC (c2w) + Visual + JE + LM")
    return [
        *make_row(results, RECOGNISED, before, (*RATES, ALL)),
        *make_row(results, RECOGNISED, after, RATES, "ASR Table 5"),
        *make_row(results, RECOGNISED, in_table3, [ALL], "ASR Table 3"),
    ]


def table_correction(results: Results) -> Table:
    """Two made-up corpora with one error rate: where the picture can help and where it cannot."""
    cases = results.paper.experiments["correction"].cases
    return Table(
        row_header="Errors",
        cells=[
            entry
            for case in ("function_dominated", "context_dominated")
            for entry in make_row(
                results,
                Place("correction", "pictures", case),
                System(cases[case].title_at(results.scale), ""),
                REPAIRS,
            )
        ],
        notes=[
            "Word error rates. Both corpora are made up at every scale. Function words are drawn at"
            " random, so no corrector can put them right; the scene in the picture tells the rest.",
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
