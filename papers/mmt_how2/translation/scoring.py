"""Scores of translations and of recognised speech, by the field's own programs.

BLEU, chrF and the paired bootstrap are sacrebleu's, with the signature that says how they were
computed; word error rates are jiwer's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, cast

from common.errors import InputError
from papers.mmt_how2.translation.plain_text import single_blanks
from papers.mmt_how2.translation.word_alignment import sclite_edits

#: What sacrebleu draws with where it is given no seed.
SACREBLEU_SEED: Final = 12345


class CorpusScore(NamedTuple):
    """A corpus score from 0 to 100, and sacrebleu's signature of it."""

    value: float
    signature: str


class PairedBootstrap(NamedTuple):
    """Two systems on the same sentences.

    Attributes:
        baseline, system: their scores.
        interval: mean and half width of the 95 % interval of ``system`` over the resamples.
        p_value: how often resamples differ as much as the systems do, were they equal; 1 where
            no sentence differs (of which sacrebleu says the least p that there is).
    """

    baseline: float
    system: float
    interval: tuple[float, float]
    p_value: float
    signature: str


class WordErrors(NamedTuple):
    """Word errors over a corpus: sums of the sentences' edits.

    Attributes:
        words: N, words of the references.
        pairs: how often a word of the reference was replaced by which: (reference, hypothesis).
    """

    substitutions: int
    deletions: int
    insertions: int
    words: int
    pairs: Counter[tuple[str, str]]

    @property
    def wer_pct(self) -> float:
        """100 (S + D + I) / N."""
        return 100 * (self.substitutions + self.deletions + self.insertions) / self.words


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    tokenize: Literal["none", "13a"] = "none",
) -> CorpusScore:
    """Corpus BLEU: ``none`` for text that is already cut by blanks, ``13a`` for plain text.

    Raises:
        InputError: not one hypothesis for each reference.
    """
    from sacrebleu.metrics.bleu import BLEU

    check_counts(hypotheses, references)
    # Text cut by blanks is what is asked for here, so sacrebleu's warning of it is not news.
    metric = BLEU(tokenize=tokenize, force=True)
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return CorpusScore(score.score, str(metric.get_signature()))


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """Corpus chrF (2, six characters).

    Raises:
        InputError: not one hypothesis for each reference.
    """
    from sacrebleu.metrics.chrf import CHRF

    check_counts(hypotheses, references)
    metric = CHRF()
    score = metric.corpus_score(list(hypotheses), [list(references)])
    return CorpusScore(score.score, str(metric.get_signature()))


def paired_bootstrap(
    baseline: Sequence[str],
    system: Sequence[str],
    references: Sequence[str],
    tokenize: Literal["none", "13a"] = "none",
    resamples: int = 1000,
    seed: int = SACREBLEU_SEED,
) -> PairedBootstrap:
    """sacrebleu's paired bootstrap of BLEU (Koehn 2004).

    Args:
        seed: as sacrebleu's, whose command draws the same; 0, which its test takes for none and
            draws from the system, stands for the default.

    Raises:
        InputError: not one hypothesis of each system for each reference.
    """
    import os

    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.significance import PairedTest

    check_counts(baseline, references)
    check_counts(system, references)
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed or SACREBLEU_SEED)  # There is no other way in.
    try:
        test = PairedTest(
            [("baseline", list(baseline)), ("system", list(system))],
            {"BLEU": BLEU(tokenize=tokenize, force=True, references=[list(references)])},
            references=None,
            test_type="bs",
            n_samples=resamples,
        )
        signatures, scores = test()
        first, second = cast("list[Any]", scores["BLEU"])
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before
    return PairedBootstrap(
        baseline=first.score,
        system=second.score,
        interval=(second.mean, second.ci),
        p_value=1.0 if list(baseline) == list(system) else second.p_value,
        signature=str(signatures["BLEU"]),
    )


def word_errors(
    hypotheses: Sequence[str],
    references: Sequence[str],
    weights: Literal["unit", "sclite"] = "unit",
) -> WordErrors:
    """Word errors of recognised or corrected sentences; an empty hypothesis deletes all words.

    Words stand between blanks of any kind, tabs and no-break spaces among them. Of alignments with
    as few edits, of which there are often several, jiwer's is taken: kinds of errors and pairs of
    words depend on that, the error rate does not.

    Args:
        weights: of edits when words are aligned; ``sclite`` for those of NIST's program, by
            :func:`~.word_alignment.sclite_edits`, with which there may be more edits.

    Raises:
        InputError: not one hypothesis for each reference, or a reference without words.
    """
    check_counts(hypotheses, references)
    empty = [line for line, words in enumerate(references, start=1) if not words.split()]
    if empty:
        raise InputError(f"references: line {empty[0]} is empty")
    if weights == "sclite":
        return sclite_word_errors(hypotheses, references)
    import jiwer

    # The only blank that jiwer cuts at is U+0020.
    found = jiwer.process_words(
        [single_blanks(line) for line in references], [single_blanks(line) for line in hypotheses]
    )
    pairs: Counter[tuple[str, str]] = Counter()
    for chunks, reference, hypothesis in zip(
        found.alignments, found.references, found.hypotheses, strict=True
    ):
        for chunk in chunks:
            if chunk.type == "substitute":
                pairs.update(
                    zip(
                        reference[chunk.ref_start_idx : chunk.ref_end_idx],
                        hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx],
                        strict=True,
                    )
                )
    return WordErrors(
        substitutions=found.substitutions,
        deletions=found.deletions,
        insertions=found.insertions,
        words=sum(len(reference) for reference in found.references),
        pairs=pairs,
    )


def sclite_word_errors(hypotheses: Sequence[str], references: Sequence[str]) -> WordErrors:
    """Word errors of aligned lines, with the weights of NIST's sclite."""
    edits = [
        edit
        for reference, hypothesis in zip(references, hypotheses, strict=True)
        for edit in sclite_edits(reference.split(), hypothesis.split())
    ]
    pairs = Counter(
        (said, heard) for said, heard in edits if said is not None and heard is not None
    )
    return WordErrors(
        substitutions=pairs.total(),
        deletions=sum(heard is None for _, heard in edits),
        insertions=sum(said is None for said, _ in edits),
        words=sum(len(reference.split()) for reference in references),
        pairs=pairs,
    )


def word_errors_each(hypotheses: Sequence[str], references: Sequence[str]) -> list[int]:
    """S + D + I of each hypothesis."""
    import jiwer

    found = jiwer.process_words(
        [single_blanks(line) for line in references], [single_blanks(line) for line in hypotheses]
    )
    return [
        sum(
            max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            for chunk in chunks
            if chunk.type != "equal"
        )
        for chunks in found.alignments
    ]


def check_counts(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Raises InputError unless there is one hypothesis for each of the references."""
    if not references or len(hypotheses) != len(references):
        raise InputError(
            f"{len(hypotheses)} hypotheses for {len(references)} references; one for each is needed"
        )
