"""Systems: what the rows of the papers' tables name, trained and asked to translate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic import Field

from common.experiments.settings import Settings
from common.progress import Progress
from common.runs.run import Run
from common.training.local_gpu import Device, claimed_device
from papers.mmt_how2.translation.binarised_text import SentencePairs, binarise
from papers.mmt_how2.translation.generation import Search, Translations, Translator
from papers.mmt_how2.translation.subwords import Subwords, Units, cut_lines
from papers.mmt_how2.translation.training import train
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from papers.mmt_how2.fairseq_plugin.attention_maps import SentenceAttention


#: Seed of the permutation that gives every sentence another one's picture.
WRONG_PICTURES: Final = 1


class System(Settings):
    """A network and its units of text."""

    model: TranslationModel = TranslationModel()
    source: Units = Units()
    target: Units = Units()
    min_count: int = Field(1, gt=0, description="units rarer in the training text are unknown")
    schedule: Schedule | None = Field(None, description="None: that of the experiment")


def take_device(general: Schedule, systems: Iterable[System], run: Run) -> torch.device:
    """A GPU, the run's until it ends, if the schedule of all or of a system asks for one.

    Raises:
        InputError: there is no GPU, or other runs hold all of them.
    """
    schedules = [general, *(one.schedule for one in systems if one.schedule)]
    run.precision = "float16" if any(one.fp16 for one in schedules) else "float32"
    name: Device = "cuda" if any(one.gpu for one in schedules) else "cpu"
    return run.hold(claimed_device(name, run, "schedule.gpu: true"))


class CutText(NamedTuple):
    """How lines of both sides are cut into units, and fairseq's data folder of all splits."""

    source: Subwords
    target: Subwords
    data: Path


class CorpusText:
    """Text of a corpus, cut and binarised once for all systems of the same units.

    Args:
        splits: ``train`` and ``valid``, of which the best epoch is chosen, and others; in words.
        folder: where data folders go.
    """

    def __init__(self, splits: Mapping[str, SentencePairs], folder: Path) -> None:
        self.splits, self.folder = splits, folder
        self._cut: dict[tuple[Units, Units, int], CutText] = {}

    def cut(self, system: System) -> CutText:
        """Text in a system's units.

        Raises:
            InputError: the text is empty, or too little for so many units.
        """
        key = system.source, system.target, system.min_count
        if key not in self._cut:
            source = system.source.learned(self.splits["train"].source)
            target = system.target.learned(self.splits["train"].target)
            units = {
                name: SentencePairs(
                    cut_lines(source, pairs.source, f"{name}.src"),
                    cut_lines(target, pairs.target, f"{name}.tgt"),
                )
                for name, pairs in self.splits.items()
            }
            folder = self.folder / f"units{len(self._cut)}"
            data = binarise(units, folder, min_count=system.min_count)
            self._cut[key] = CutText(source, target, data)
        return self._cut[key]


class TrainedSystem:
    """A system, trained on the first splits of a corpus.

    A training that was killed goes on, as :func:`~.training.train` does.

    Args:
        visual: folder of ``<split>.npy``, for systems that read pictures.
        folder: where checkpoints go.

    Attributes:
        training: how it went.

    Raises:
        InputError: settings, text or features are unusable.
    """

    def __init__(
        self,
        system: System,
        schedule: Schedule,
        corpus: CorpusText,
        visual: Path | None,
        folder: Path,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        self.text = corpus.cut(system)
        self.visual = visual if system.model.reads_pictures else None
        chosen = system.schedule or schedule
        self.gpu = chosen.gpu
        self.training = train(
            self.text.data, folder, system.model, chosen, seed, self.visual, progress
        )
        self._translators: dict[int | None, Translator] = {}

    def costs(self) -> dict[str, float]:
        """What the training took, how many numbers it trained, and what it reached."""
        training = self.training
        return {
            "parameters_count": training.parameters,
            "best_epoch_count": training.best_epoch.epoch,
            "updates_count": training.history[-1].updates,
            "valid_bits_per_token": training.best_epoch.valid_nll,
            "train_tokens_per_s": training.tokens_per_s,
            "train_cpu_s": sum(epoch.cpu_s for epoch in training.history),
        }

    def translator(self, shuffle: int | None = None) -> Translator:
        """The best epoch's model; with ``shuffle`` every sentence gets another one's picture."""
        if shuffle not in self._translators:
            self._translators[shuffle] = Translator(
                self.training.best, self.text.data, self.visual, shuffle, self.gpu
            )
        return self._translators[shuffle]

    def translate(self, split: str, search: Search, shuffle: int | None = None) -> Translations:
        """Translations of a split in words, in the order of its lines."""
        return self._in_words(self.translator(shuffle).translate(split, search))

    def translate_lines(
        self, lines: Sequence[str], search: Search, pictures: NDArray[Any] | None = None
    ) -> Translations:
        """Translations of lines of words that are in no file, as :class:`Translator` has them."""
        cut = cut_lines(self.text.source, lines, "lines")
        return self._in_words(self.translator().translate_lines(cut, search, pictures))

    def _in_words(self, found: Translations) -> Translations:
        """Units put together to words."""
        joined = [
            [one._replace(text=self.text.target.join(one.text)) for one in hypotheses]
            for hypotheses in found.hypotheses
        ]
        return found._replace(hypotheses=joined)

    def sizes(self) -> dict[str, int]:
        """Sizes of the network's parts, as :meth:`~.MultimodalLSTMModel.sizes` names them.

        None of a network that is fairseq's own.
        """
        from papers.mmt_how2.fairseq_plugin.multimodal_lstm import MultimodalLSTMModel

        model = self.translator().model
        return model.sizes() if isinstance(model, MultimodalLSTMModel) else {}

    def attention(
        self, split: str, search: Search, sentences: Sequence[int]
    ) -> list[SentenceAttention]:
        """What the translations of some lines attended to, unit by unit."""
        return self.translator().attention(split, search, sentences)
