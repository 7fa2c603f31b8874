"""Program: systems trained on one corpus and compared on its test split (NMT Tables 2 to 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training.checkpoint import note_code
from papers.mmt_how2.corpora.compositional_corpus import (
    MASK,
    CompositionalText,
    compositional_corpus,
    reversed_direction,
    sense_accuracy,
)
from papers.mmt_how2.corpora.parallel_corpora import (
    how2_identity,
    how2_pairs,
    link_how2_pictures,
    multi30k_identity,
    multi30k_pairs,
)
from papers.mmt_how2.corpora.pictured_text import Corpus, write_pictures
from papers.mmt_how2.methods.systems import (
    WRONG_PICTURES,
    CorpusText,
    System,
    TrainedSystem,
    take_device,
)
from papers.mmt_how2.translation.binarised_text import SentencePairs
from papers.mmt_how2.translation.generation import Search
from papers.mmt_how2.translation.scoring import bleu, chrf, paired_bootstrap
from papers.mmt_how2.translation.training_settings import Schedule

if TYPE_CHECKING:
    from papers.mmt_how2.fairseq_plugin.attention_maps import SentenceAttention


class PicturedSystem(System):
    """A system and the pictures that it is trained and tested with."""

    quality: float | None = Field(
        None, ge=0, le=1, description="made up: chance that a picture shows the scene, if another"
    )


class TranslationSettings(Settings):
    """A corpus, and the systems that are trained on it one after the other."""

    corpus: Literal["compositional", "how2", "multi30k"]
    source: Literal["en", "pt", "de", "fr"] = "en"
    target: Literal["en", "pt", "de", "fr"] = "pt"
    text: CompositionalText = Field(CompositionalText(), description="of the made-up corpus")
    picture_alone: bool = Field(False, description="made up: all sources are the mask, [v]")
    systems: dict[str, PicturedSystem] = Field(
        min_length=1, description="the first is what others are compared with"
    )
    schedule: Schedule
    search: Search = Search()
    resamples: int = Field(1000, gt=0, description="of the paired bootstrap")
    mapped_sentences: int = Field(100, gt=0, description="test lines whose attention is measured")


class TranslationCorpus:
    """The corpus of a run: its splits, and a folder of pictures for each system.

    Raises:
        InputError: a system reads pictures and the corpus has none, or it cannot be read.
    """

    def __init__(self, settings: TranslationSettings, run: Run) -> None:
        self.settings, self.run = settings, run
        self._pictures: dict[float, Path] = {}
        languages = settings.source, settings.target
        pictured = any(one.model.reads_pictures for one in settings.systems.values())
        self.splits: Mapping[str, SentencePairs]
        if settings.corpus == "compositional":
            run.uses(DataIdentity.generated("compositional corpus", run.seed))
            self.splits = {
                split: SentencePairs(
                    [MASK] * len(text) if settings.picture_alone else text.source, text.target
                )
                for split, text in self._made_up(settings.text.pictures.quality).items()
            }
        elif settings.corpus == "how2":
            run.uses(how2_identity(*languages, pictures=pictured))
            self.splits = how2_pairs(*languages)
        elif pictured:
            raise InputError("systems: one reads pictures; multi30k has text alone here")
        else:
            run.uses(multi30k_identity(*languages))
            self.splits = multi30k_pairs(*languages)

    def pictures(self, system: PicturedSystem) -> Path | None:
        """Folder of the pictures of a system, or None if it reads none."""
        if not system.model.reads_pictures:
            return None
        if self.settings.corpus == "how2":
            return link_how2_pictures(self.run.work / "pictures")
        quality = system.quality
        if quality is None:
            quality = self.settings.text.pictures.quality
        if quality not in self._pictures:
            folder = self.run.work / f"pictures_{quality}"
            self._pictures[quality] = write_pictures(self._made_up(quality), folder)
        return self._pictures[quality]

    def _made_up(self, quality: float) -> Corpus:
        """The made-up corpus with pictures of some quality, which the text does not depend on."""
        text = self.settings.text
        pictures = text.pictures.model_copy(update={"quality": quality})
        knobs = text.model_copy(update={"pictures": pictures})
        corpus = compositional_corpus(knobs, self.run.seed)
        return reversed_direction(corpus) if self.settings.source == "pt" else corpus

    def measures(self, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Scores of translations; of ambiguous words' senses where there are some."""
        found = {
            "bleu": bleu(hypotheses, references).value,
            "bleu_13a": bleu(hypotheses, references, "13a").value,
            "chrf": chrf(hypotheses, references).value,
            "distinct_outputs_pct": 100 * len(set(hypotheses)) / len(hypotheses),
        }
        if self.settings.corpus == "compositional" and self.settings.source == "en":
            found["sense_accuracy_pct"] = 100 * sense_accuracy(hypotheses, references)
        return found


def run_translation(settings: TranslationSettings, run: Run) -> dict[str, float]:
    """Train, translate and score each system; metrics begin with its name."""
    take_device(settings.schedule, settings.systems.values(), run)
    note_code(run)  # fairseq keeps the checkpoints
    text = TranslationCorpus(settings, run)
    references = text.splits["test"].target
    corpus = CorpusText(text.splits, run.work / "text")
    metrics: dict[str, float] = {}
    translations: dict[str, list[str]] = {}
    history: list[dict[str, Any]] = []
    maps: dict[str, Any] = {}
    for name, system in settings.systems.items():
        trained = TrainedSystem(
            system,
            settings.schedule,
            corpus,
            text.pictures(system),
            run.work / name,
            run.seed,
            run.progress,
        )
        found = trained.translate("test", settings.search)
        translations[name] = found.best
        measured = {
            **text.measures(found.best, references),
            **trained.costs(),
            "generation_tokens_per_s": found.tokens_per_s,
        }
        if system.model.reads_pictures:
            wrong = trained.translate("test", settings.search, WRONG_PICTURES).best
            changed = sum(a != b for a, b in zip(found.best, wrong, strict=True))
            measured["permuted_bleu"] = bleu(wrong, references).value
            measured["permuted_changed_pct"] = 100 * changed / len(wrong)
        if system.model.fusion == "attention_modulation":
            lines = range(min(settings.mapped_sentences, len(references)))
            mapped = trained.attention("test", settings.search, lines)
            measured |= sharpness(mapped)
            maps[name] = long_and_short(mapped)
        metrics |= {f"{name}_{key}": value for key, value in measured.items()}
        history += [{"system": name, **epoch._asdict()} for epoch in trained.training.history]
    baseline, *others = translations.values()
    for name, hypotheses in zip(list(translations)[1:], others, strict=True):
        test = paired_bootstrap(baseline, hypotheses, references, resamples=settings.resamples)
        metrics[f"{name}_p_value"] = test.p_value
    run.write_json("translations.json", {"reference": list(references), **translations})
    run.write_json("signatures.json", signatures(baseline[:1], references[:1]))
    run.write_json("attention.json", maps)
    run.write_rows("history.csv", history)
    return metrics


def sharpness(maps: Sequence[SentenceAttention]) -> dict[str, float]:
    """How much of the attention is on one word: means over sentences (and words translated)."""
    import torch

    found = {}
    for kind in ("text", "visual"):
        weights = [getattr(one.attention, kind).double() for one in maps]
        entropies = [torch.special.entr(each).sum(-1).mean() for each in weights]
        found[f"{kind}_largest_weight"] = fmean(float(each.amax(-1).mean()) for each in weights)
        found[f"{kind}_entropy_nats"] = fmean(map(float, entropies))
    return found


def long_and_short(maps: Sequence[SentenceAttention]) -> dict[str, Any]:
    """The maps of the longest and of the shortest source, the first of each, as plain lists."""

    def plain(one: SentenceAttention) -> dict[str, Any]:
        weights = {
            kind: None if part is None else part.tolist()
            for kind, part in one.attention._asdict().items()
        }
        return {"source": one.source, "target": one.target, **weights}

    def words(one: SentenceAttention) -> int:
        return len(one.source)

    return {"long": plain(max(maps, key=words)), "short": plain(min(maps, key=words))}


def signatures(hypotheses: Sequence[str], references: Sequence[str]) -> Mapping[str, str]:
    """How sacrebleu computed each score."""
    return {
        "bleu": bleu(hypotheses, references).signature,
        "bleu_13a": bleu(hypotheses, references, "13a").signature,
        "chrf": chrf(hypotheses, references).signature,
    }


PROGRAM = Program(TranslationSettings, run_translation)
