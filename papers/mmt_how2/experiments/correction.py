"""Program: correctors of recognised speech, with and without pictures and rescoring (Tables 3-5).

All systems of a run learn from the same corpus, in one process. What comes out is compared with
what went in: a corrector that repairs nothing has the word error rate of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from pydantic import Field, model_validator

from common.data.registry import identity
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training.checkpoint import note_code
from papers.mmt_how2.corpora.correction_corpus import (
    CorrectionText,
    correction_corpus,
    measure_floor_wer,
)
from papers.mmt_how2.corpora.heard_speech import HeardSpeech, read_how2_speech, write_heard_speech
from papers.mmt_how2.corpora.parallel_corpora import how2_identity
from papers.mmt_how2.experiments.recognition_errors import (
    count_by_class,
    ranked_pairs,
    summarise_errors,
)
from papers.mmt_how2.methods.rescored_correction import Rescorer, Rescoring, keep_all
from papers.mmt_how2.methods.systems import (
    WRONG_PICTURES,
    CorpusText,
    System,
    TrainedSystem,
    take_device,
)
from papers.mmt_how2.translation.generation import Search, Translations
from papers.mmt_how2.translation.scoring import word_errors
from papers.mmt_how2.translation.training_settings import Schedule

#: The recogniser's own output, beside the systems' names.
INPUT: Final = "input"
RATES: Final = ("wer_pct", "substitution_pct", "deletion_pct", "insertion_pct")


class CorrectionSettings(Settings):
    """Which corpus, which systems, and how long they learn."""

    corpus: Literal["made_up", "how2"] = "made_up"
    text: CorrectionText = Field(CorrectionText(), description="of the corpus that is made up")
    systems: dict[str, System] = Field(min_length=1)
    schedule: Schedule
    search: Search = Search()
    rescoring: Rescoring | None = None

    @model_validator(mode="after")
    def _check(self) -> CorrectionSettings:
        if INPUT in self.systems:
            raise ValueError(f"systems: {INPUT!r} is what they are given; another name is needed")
        for name in self.rescoring.systems if self.rescoring else ():
            if name not in self.systems:
                allowed = ", ".join(self.systems)
                raise ValueError(f"rescoring.systems: {name!r}; allowed: {allowed}")
        return self


class Outputs:
    """Metrics and substitutions of what was heard, and of what each system makes of it."""

    def __init__(self, said: Sequence[str]) -> None:
        self.said = said
        self.metrics: dict[str, float] = {}
        self.substitutions: dict[str, list[tuple[str, str, int]]] = {}

    def add(self, name: str, output: Sequence[str]) -> None:
        """Count the errors of an output."""
        errors = word_errors(output, self.said)
        self.substitutions[name] = ranked_pairs(errors)
        found = summarise_errors(errors)
        self.metrics |= {f"{name}_{rate}": found[rate] for rate in RATES}
        # Points of the word error rate are gained; they are below zero where more was broken.
        self.metrics[f"{name}_gain_pct"] = self.wer_pct(INPUT) - self.wer_pct(name)
        self.metrics[f"{name}_function_pairs_count"] = count_by_class(errors.pairs)[2]

    def wer_pct(self, name: str) -> float:
        """Word error rate of an output that was added."""
        return self.metrics[f"{name}_wer_pct"]


def run_correction(settings: CorrectionSettings, run: Run) -> dict[str, float]:
    """Train all systems, correct the test split, and count what is left of its errors."""
    device = take_device(settings.schedule, settings.systems.values(), run)
    note_code(run)  # fairseq keeps the checkpoints
    speech, floor = open_speech(settings, run)
    outputs = Outputs(speech.said["test"])
    outputs.add(INPUT, speech.heard["test"])
    corpus = CorpusText(speech.pairs, run.work / "text")
    trained: dict[str, TrainedSystem] = {}
    found: dict[str, Translations] = {}
    for name, system in settings.systems.items():
        folder = run.work / name
        one = trained[name] = TrainedSystem(
            system, settings.schedule, corpus, speech.pictures, folder, run.seed, run.progress
        )
        rescored = settings.rescoring is not None and name in settings.rescoring.systems
        search = keep_all(settings.search) if rescored else settings.search
        found[name] = one.translate("test", search)
        outputs.add(name, found[name].best)
        if one.visual:
            wrong = one.translate("test", settings.search, WRONG_PICTURES)
            outputs.add(f"{name}_permuted", wrong.best)
        outputs.metrics |= {f"{name}_{key}": value for key, value in one.costs().items()}
    if settings.rescoring:
        rescorer = Rescorer(settings.rescoring, speech, run, device)
        outputs.metrics |= rescorer.metrics()
        grid = []
        for name in settings.rescoring.systems:
            chosen = rescorer.rescored(trained[name], settings.search, found[name])
            for kind, best in chosen.best.items():
                outputs.add(f"{name}_{kind}", best)
            # Both models' gains overlap by so much; where they add up it is zero.
            alone, both = (f"{name}_je", f"{name}_lm"), f"{name}_je_lm"
            outputs.metrics[f"{name}_overlap_pct"] = (
                outputs.wer_pct(name) + outputs.wer_pct(both) - sum(map(outputs.wer_pct, alone))
            )
            outputs.metrics |= {f"{name}_{key}": value for key, value in chosen.metrics.items()}
            grid += [{"system": name, **choice._asdict()} for choice in chosen.grid]
        run.write_rows("grid.csv", grid)
    run.write_json("substitutions.json", outputs.substitutions)
    run.write_json("sizes.json", {name: one.sizes() for name, one in trained.items()})
    return {**floor, **outputs.metrics}


def open_speech(settings: CorrectionSettings, run: Run) -> tuple[HeardSpeech, dict[str, float]]:
    """The corpus, and the floor of its word error rate where it is known."""
    folder = run.work / "pictures"
    if settings.corpus == "how2":
        run.uses(how2_identity("en", "en", pictures=True))
        run.uses(identity("how2_recognised"))
        return read_how2_speech(folder), {}
    run.uses(DataIdentity.generated("correction corpus", run.seed))
    corpus = correction_corpus(settings.text, run.seed)
    known = not (settings.text.deletion or settings.text.insertion)
    floor = {"floor_wer_pct": measure_floor_wer(corpus["test"])} if known else {}
    return write_heard_speech(corpus, folder), floor


PROGRAM = Program(CorrectionSettings, run_correction)
