"""Alignments by sclite's weights: none is cheaper, and what that does to kinds of errors."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from common.data.how2 import transcripts
from papers.mmt_how2.experiments.recognition_errors import ranked_pairs, summarise_errors
from papers.mmt_how2.translation.scoring import word_errors
from papers.mmt_how2.translation.word_alignment import Edit, sclite_edits
from tests.common.data.real_data import skip_without
from tests.papers.mmt_how2.runs import record_of


def cost_of(edits: list[Edit]) -> int:
    return sum(3 if None in edit else 4 for edit in edits)


def least_cost(reference: str, hypothesis: str) -> int:
    """By trying all alignments."""

    @cache
    def least(i: int, j: int) -> int:
        ways = []
        if i and j:
            ways.append(least(i - 1, j - 1) + 4 * (reference[i - 1] != hypothesis[j - 1]))
        if i:
            ways.append(least(i - 1, j) + 3)
        if j:
            ways.append(least(i, j - 1) + 3)
        return min(ways, default=0)

    return least(len(reference), len(hypothesis))


def test_no_alignment_is_cheaper_and_the_edits_lead_from_one_to_the_other() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        said, heard = ("".join(rng.choice(list("abc"), size=rng.integers(0, 9))) for _ in range(2))
        edits = sclite_edits(said, heard)
        assert cost_of(edits) == least_cost(said, heard)
        lost, added = ([edit[side] for edit in edits if edit[side]] for side in (0, 1))
        left = [sorted(text) for text in (said, heard)]
        for text, words in zip(left, (lost, added), strict=True):
            for word in words:
                text.remove(word)
        assert left[0] == left[1]  # what was kept


def test_kinds_of_edits() -> None:
    assert sclite_edits("abc", "abc") == []
    assert sclite_edits("abc", "axc") == [("b", "x")]
    assert sclite_edits("", "ab") == [(None, "a"), (None, "b")]
    # As few edits as (a, b), (b, a), but cheaper: a word kept, one lost, one added.
    assert sclite_edits("ab", "ba") == [(None, "b"), ("b", None)]


def test_of_one_edit_a_line_both_weights_count_the_same() -> None:
    pytest.importorskip("jiwer")
    references = ["the cat sat", "a dog ran", "he plays the pipe", "yes"]
    hypotheses = ["the cat sat down", "a dog", "he plays the pike", "yes"]
    unit, sclite = (word_errors(hypotheses, references, kind) for kind in ("unit", "sclite"))  # type: ignore[arg-type]
    assert unit == sclite
    assert (unit.substitutions, unit.deletions, unit.insertions, unit.words) == (1, 1, 1, 11)


def test_the_recogniser_by_either_weights(data_root: Path) -> None:
    """The published transcripts: 62.2 % or 60.9 % of the errors are substitutions."""
    pytest.importorskip("jiwer")
    skip_without("how2", data_root)
    found = transcripts(data_root)
    kinds = {}
    for weights in ("unit", "sclite"):
        errors = word_errors(found.hypotheses, found.references, weights)  # type: ignore[arg-type]
        kinds[weights] = summarise_errors(errors)
        top = ranked_pairs(errors)[:4]
        assert (("you", "you're", 45) in top) == (weights == "unit")
        assert (("are", "you're", 33) in top) == (weights == "sclite")
    counts = [
        [kind[f"{name}s_count"] for name in ("substitution", "deletion", "insertion")]
        for kind in kinds.values()
    ]
    assert counts == [[4684, 1307, 1540], [4585, 1357, 1590]]
    shares = [kinds["sclite"][f"{name}_share_pct"] for name in ("substitution", "deletion")]
    assert shares == pytest.approx([60.87, 18.02], abs=0.005)
    assert kinds["sclite"]["wer_pct"] == pytest.approx(18.4152, abs=5e-5)
    assert kinds["unit"]["wer_pct"] == pytest.approx(18.4128, abs=5e-5)


def test_an_experiment_may_ask_for_sclites_weights(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pytest.importorskip("jiwer")
    records = []
    for kind in ("unit", "sclite"):
        folder = tmp_path_factory.mktemp(kind)
        records.append(record_of("recognition", "test", "recogniser", folder, weights=kind)[0])
    assert [record.settings["weights"] for record in records] == ["unit", "sclite"]
    unit, sclite = (record.metrics for record in records)
    assert sclite["wer_pct"] >= unit["wer_pct"]
    assert sclite["words_count"] == unit["words_count"]
