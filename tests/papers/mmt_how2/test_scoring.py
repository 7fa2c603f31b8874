"""Scores against their definitions and against the programs that they come from."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest

from common.errors import InputError
from papers.mmt_how2.translation.scoring import (
    bleu,
    chrf,
    paired_bootstrap,
    word_errors,
    word_errors_each,
)
from papers.mmt_how2.translation.subwords import (
    BytePairs,
    Characters,
    SentencePieces,
    Words,
    cut_lines,
)

REFERENCES = ["the cat sat on the mat .", "a dog ran away today", "he plays the pipe very well"]
WORSE = ["the cat sat on a mat .", "a dog ran off today", "he plays the pike very well"]


def test_bleu_of_the_references_is_100_and_says_how() -> None:
    same = bleu(REFERENCES, REFERENCES)
    assert same.value == pytest.approx(100)
    assert "tok:none" in same.signature
    assert "tok:13a" in bleu(WORSE, REFERENCES, "13a").signature
    assert f"version:{sacrebleu.__version__}" in same.signature
    assert chrf(REFERENCES, REFERENCES).value == pytest.approx(100)


def test_bleu_is_sacrebleus() -> None:
    for tokenize in ("none", "13a"):
        expected = sacrebleu.corpus_bleu(WORSE, [REFERENCES], tokenize=tokenize, force=True)
        assert bleu(WORSE, REFERENCES, tokenize).value == pytest.approx(expected.score)  # type: ignore[arg-type]
    assert chrf(WORSE, REFERENCES).value == pytest.approx(
        sacrebleu.corpus_chrf(WORSE, [REFERENCES]).score
    )


def test_paired_bootstrap() -> None:
    references, worse = REFERENCES * 20, WORSE * 20
    found = paired_bootstrap(worse, references, references, resamples=200, seed=3)
    assert found.system == pytest.approx(100)
    assert found.baseline == pytest.approx(bleu(worse, references).value)
    assert found.p_value < 0.05
    equal = paired_bootstrap(worse, worse, references, resamples=200, seed=3)
    assert equal.p_value == 1
    assert found == paired_bootstrap(worse, references, references, resamples=200, seed=3)
    assert "bs:200" in found.signature
    assert "seed:3" in found.signature


def test_paired_bootstrap_of_any_seed_gives_one_p_value() -> None:
    rng = np.random.default_rng(0)
    words = [[f"w{word}" for word in rng.integers(30, size=8)] for _ in range(60)]
    references = [" ".join(line) for line in words]
    one, other = (
        [" ".join("x" if rng.random() < share else word for word in line) for line in words]
        for share in (0.2, 0.25)
    )
    for seed in (0, 1):
        found = [paired_bootstrap(one, other, references, seed=seed) for _ in range(3)]
        assert 0.01 < found[0].p_value < 0.99
        assert found[0] == found[1] == found[2]
    # As `sacrebleu references -i one other --paired-bs` has it, whatever the surroundings say.
    metrics = {"BLEU": sacrebleu.BLEU(tokenize="none", force=True, references=[references])}
    test = PairedTest([("a", one), ("b", other)], metrics, None, test_type="bs")
    _, scores = test()
    found = paired_bootstrap(one, other, references)
    assert found.p_value == scores["BLEU"][1].p_value  # type: ignore[union-attr]
    assert "seed:12345" in found.signature
    assert found == paired_bootstrap(one, other, references, seed=0)


BLANKS = ["\t", "\u00a0", "\u2003", "\u3000", "\r", "\x1f", " \u2009 "]


@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_words_stand_between_blanks_of_any_kind(blank: str) -> None:
    pytest.importorskip("jiwer")
    odd = [f"a{blank}b c{blank}", f"{blank}d e"]
    plain = ["a b c", "d e"]
    for hypotheses, references in ((odd, plain), (plain, odd), (odd, odd)):
        found = word_errors(hypotheses, references)
        assert (found.substitutions, found.deletions, found.insertions) == (0, 0, 0)
        assert found.words == 5
        assert word_errors_each(hypotheses, references) == [0, 0]
        assert bleu(hypotheses, references).value == pytest.approx(
            bleu(plain, plain).value, abs=1e-9
        )
        assert chrf(hypotheses, references).value == pytest.approx(100)


def test_word_errors() -> None:
    pytest.importorskip("jiwer")
    none = word_errors(REFERENCES, REFERENCES)
    assert none.wer_pct == 0
    assert none.pairs == Counter()
    some = word_errors(["the cat on the big mat ."], REFERENCES[:1])
    assert (some.substitutions, some.deletions, some.insertions, some.words) == (0, 1, 1, 7)
    assert word_errors([""], ["a b"]).wer_pct == 100
    pairs = word_errors(WORSE, REFERENCES).pairs
    assert pairs == {("the", "a"): 1, ("away", "off"): 1, ("pipe", "pike"): 1}


def test_corpus_word_errors_are_not_the_mean_of_the_sentences() -> None:
    pytest.importorskip("jiwer")
    both = word_errors(["x", "a b c d"], ["y", "a b c d"])
    assert both.wer_pct == pytest.approx(100 / 5)


def test_one_hypothesis_for_each_reference() -> None:
    for score in (bleu, chrf, word_errors):
        with pytest.raises(InputError, match="2 hypotheses for 3 references"):
            score(WORSE[:2], REFERENCES)
    with pytest.raises(InputError, match="2 hypotheses for 3 references"):
        paired_bootstrap(WORSE, WORSE[:2], REFERENCES)
    with pytest.raises(InputError, match="0 hypotheses for 0 references"):
        bleu([], [])
    pytest.importorskip("jiwer")
    with pytest.raises(InputError, match="references: line 2 is empty"):
        word_errors(["a", "b"], ["a", " "])


TEXT = [f"{verb}ing the {noun}s" for verb in ("walk", "talk", "sing") for noun in ("dog", "cat")]


def test_byte_pairs_come_apart_and_together() -> None:
    pytest.importorskip("subword_nmt")
    pairs = BytePairs(TEXT, 10)
    cut = [pairs.cut(line) for line in TEXT]
    assert [pairs.join(line) for line in cut] == TEXT
    assert sum(len(line.split()) for line in cut) > sum(len(line.split()) for line in TEXT)
    assert pairs.join(pairs.cut("unseen words")) == "unseen words"
    with pytest.raises(InputError, match="no text to learn from"):
        BytePairs(["", " "], 10)


def test_sentence_pieces_come_apart_and_together() -> None:
    pytest.importorskip("sentencepiece")
    pieces = SentencePieces(TEXT, 20)
    cut = [pieces.cut(line) for line in TEXT]
    assert [pieces.join(line) for line in cut] == TEXT
    assert len({unit for line in cut for unit in line.split()}) <= 20
    with pytest.raises(InputError, match="SentencePiece with 5000 types"):
        SentencePieces(TEXT, 5000)


def test_characters_go_back_to_words() -> None:
    assert Characters().cut("a bc") == "a ▁ b c"
    assert Characters().join(Characters().cut("the pike lies")) == "the pike lies"


@pytest.mark.parametrize("blank", [*BLANKS, "  "], ids=ascii)
def test_units_are_cut_at_blanks_of_any_kind(blank: str) -> None:
    pytest.importorskip("subword_nmt")
    odd = [f"{blank}{line.replace(' ', blank)}" for line in TEXT]
    assert BytePairs(odd, 10).cut(TEXT[0]) == BytePairs(TEXT, 10).cut(TEXT[0])
    for units in (BytePairs(TEXT, 10), Characters(), Words()):
        assert [units.cut(line) for line in odd] == [units.cut(line) for line in TEXT]
        assert [units.join(units.cut(line)) for line in odd] == TEXT


def test_text_that_holds_the_marks_of_its_units_is_refused() -> None:
    pytest.importorskip("subword_nmt")
    bad = "the@@ dog"
    for units in (BytePairs(TEXT, 10), BytePairs([*TEXT, *[bad] * 9], 20)):
        assert cut_lines(units, TEXT, "train.src") == [units.cut(line) for line in TEXT]
    with pytest.raises(
        InputError, match=r"^train\.src: line 2, 'the@@ dog', comes back .* 'thedog'"
    ):
        cut_lines(units, [TEXT[0], bad], "train.src")
    with pytest.raises(InputError, match=r"^test\.tgt: line 1, 'the▁dog', comes back .* 'the dog'"):
        cut_lines(Characters(), ["the▁dog"], "test.tgt")


def test_it_is_said_which_lines_sentence_piece_normalises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("sentencepiece")
    pieces = SentencePieces(TEXT, 20)
    cut_lines(pieces, TEXT, "train.tgt")
    assert not caplog.records
    cut = cut_lines(pieces, [TEXT[0], "the ｄog", "the ½"], "train.tgt")
    assert pieces.join(cut[1]) == "the dog"
    (record,) = caplog.records
    assert "train.tgt: 2 lines are normalised by SentencePiece; line 2" in record.message
