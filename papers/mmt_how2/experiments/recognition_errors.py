"""Program: what a speech recogniser gets wrong, by kind and by word (Tables 1, 5, Figure 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import Field

from common.data.how2 import HYPOTHESIS, REFERENCE, transcripts
from common.data.registry import identity
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.mmt_how2.corpora.correction_corpus import CorrectionText, correction_corpus
from papers.mmt_how2.corpora.function_words import is_function_word
from papers.mmt_how2.translation.scoring import WordErrors, word_errors

Pairs = Counter[tuple[str, str]]
#: Pairs that the paper lists.
PAIRS_LISTED: Final = 10


class RecognitionSettings(Settings):
    """Whose output: that of a recogniser of How2, or of a noise channel."""

    transcripts: Literal["how2", "noise_channel"]
    text: CorrectionText = CorrectionText()
    weights: Literal["unit", "sclite"] = Field("unit", description="of edits, to align words by")


def run_errors(settings: RecognitionSettings, run: Run) -> dict[str, float]:
    """Word error rate, kinds of errors, and how many substitutions swap function words."""
    said, heard = read_transcripts(settings, run)
    errors = word_errors(heard, said, settings.weights)
    ranked = ranked_pairs(errors)
    # In a CSV the words "null" and "nan" would be read as missing.
    run.write_json("substitutions.json", ranked)
    return {
        "utterances_count": len(said),
        **summarise_errors(errors),
        **classify_substitutions(errors.pairs),
        "listed_function_pairs_count": sum(
            is_function_word(one) and is_function_word(other)
            for one, other, _ in ranked[:PAIRS_LISTED]
        ),
        "distinct_pairs_count": len(ranked),
        "pairs_seen_once_count": sum(count == 1 for *_, count in ranked),
    }


def ranked_pairs(errors: WordErrors) -> list[tuple[str, str, int]]:
    """(said, heard, how often), the most frequent first."""
    ranked = sorted(errors.pairs.items(), key=lambda item: (-item[1], item[0]))
    return [(*pair, count) for pair, count in ranked]


def read_transcripts(
    settings: RecognitionSettings, run: Run
) -> tuple[Sequence[str], Sequence[str]]:
    """What was said and what was heard."""
    if settings.transcripts == "how2":
        run.uses(identity("how2", [f"eval_asr/{name}" for name in (REFERENCE, HYPOTHESIS)]))
        found = transcripts()
        return found.references, found.hypotheses
    run.uses(DataIdentity.generated("correction corpus", run.seed))
    test = correction_corpus(settings.text, run.seed)["test"]
    return test.target, test.source


def summarise_errors(errors: WordErrors) -> dict[str, float]:
    """Counts of substitutions, deletions and insertions, per reference word and of all errors."""
    counts = {
        "substitution": errors.substitutions,
        "deletion": errors.deletions,
        "insertion": errors.insertions,
    }
    total = max(1, sum(counts.values()))
    return {
        "wer_pct": errors.wer_pct,
        "words_count": errors.words,
        **{f"{kind}s_count": count for kind, count in counts.items()},
        **{f"{kind}_pct": 100 * count / errors.words for kind, count in counts.items()},
        **{f"{kind}_share_pct": 100 * count / total for kind, count in counts.items()},
    }


def count_by_class(pairs: Pairs) -> list[int]:
    """How many substitutions have no, one and two function words."""
    found = [0, 0, 0]
    for pair, count in pairs.items():
        found[sum(map(is_function_word, pair))] += count
    return found


def classify_substitutions(pairs: Pairs) -> dict[str, float]:
    """Percentage of substitutions with two, one and no function words."""
    found = count_by_class(pairs)
    total = max(1, sum(found))
    names = ("no_function_word_pct", "one_function_word_pct", "two_function_words_pct")
    return {name: 100 * count / total for name, count in zip(names, found, strict=True)}


PROGRAM = Program(RecognitionSettings, run_errors)
