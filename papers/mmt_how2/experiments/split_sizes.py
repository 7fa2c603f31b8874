"""Program: how many videos, hours and sentences the splits have (Table 1, Table 2)."""

from __future__ import annotations

from typing import Literal

from common.data.how2 import split_sizes, transcripts
from common.data.registry import identity
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.mmt_how2.corpora.compositional_corpus import CompositionalText, compositional_corpus


class SplitSettings(Settings):
    """Which corpus: How2, as its authors publish its sizes, or a made-up one, counted."""

    corpus: Literal["how2", "made_up"]
    text: CompositionalText = CompositionalText()


def run_sizes(settings: SplitSettings, run: Run) -> dict[str, float]:
    """Sizes of each split that are known; ``test_words_per_sentence`` of the English side."""
    if settings.corpus == "made_up":
        run.uses(DataIdentity.generated("compositional corpus", run.seed))
        corpus = compositional_corpus(settings.text, run.seed)
        sizes = {
            f"300h_{name}_sentences_count": float(len(corpus[split]))
            for name, split in (("train", "train"), ("val", "valid"), ("test", "test"))
        }
        return sizes | {"test_words_per_sentence": mean_words(corpus["test"].source)}
    run.uses(identity("how2"))
    found: dict[str, float] = {}
    for size in split_sizes():
        name = f"{size.corpus}_{size.split}"
        found |= {f"{name}_videos_count": size.videos, f"{name}_h": size.hours}
        if size.sentences is not None:
            found[f"{name}_sentences_count"] = size.sentences
    spoken = transcripts()
    counted = {"300h_test_transcripts_count": float(len(spoken))}
    return found | counted | {"test_words_per_sentence": mean_words(spoken.references)}


def mean_words(lines: tuple[str, ...]) -> float:
    """Mean number of words of a line."""
    return sum(len(line.split()) for line in lines) / len(lines)


PROGRAM = Program(SplitSettings, run_sizes)
