"""Systems: what the rows of the papers' tables name, trained and asked to translate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from common.config import Settings
from common.errors import InputError
from common.run import Progress, Run
from papers.mmt_how2.binarised_text import SentencePairs, binarise
from papers.mmt_how2.generation import Search, Translations, Translator
from papers.mmt_how2.subwords import Units
from papers.mmt_how2.training import Schedule, TranslationModel, train

if TYPE_CHECKING:
    from papers.mmt_how2.fairseq_plugin.attention_maps import SentenceAttention


class System(Settings):
    """A network and its units of text."""

    model: TranslationModel = TranslationModel()
    source: Units = Units()
    target: Units = Units()
    min_count: int = Field(1, gt=0, description="units rarer in the training text are unknown")
    schedule: Schedule | None = Field(None, description="None: that of the experiment")


class TrainedSystem:
    """A system, trained on the first splits of a corpus.

    A training that was killed goes on, as :func:`~.training.train` does.

    Args:
        splits: ``train`` and ``valid``, of which the best epoch is chosen, and others; in words.
        visual: folder of ``<split>.npy``, for systems that read pictures.
        folder: where data and checkpoints go.
        gpu: translate on the GPU.

    Attributes:
        training: how it went.

    Raises:
        InputError: settings, text or features are unusable.
    """

    def __init__(
        self,
        system: System,
        schedule: Schedule,
        splits: Mapping[str, SentencePairs],
        visual: Path | None,
        folder: Path,
        seed: int,
        progress: Progress | None = None,
    ) -> None:
        self.source = system.source.learned(splits["train"].source)
        self.target = system.target.learned(splits["train"].target)
        cut = {
            name: SentencePairs(
                [self.source.cut(line) for line in pairs.source],
                [self.target.cut(line) for line in pairs.target],
            )
            for name, pairs in splits.items()
        }
        self.visual = visual if system.model.reads_pictures else None
        self.data = binarise(cut, folder / "data", min_count=system.min_count)
        chosen = system.schedule or schedule
        self.gpu = chosen.gpu
        self.training = train(
            self.data, folder / "model", system.model, chosen, seed, self.visual, progress
        )

    def translator(self, shuffle: int | None = None) -> Translator:
        """The best epoch's model; with ``shuffle`` every sentence gets another one's picture."""
        return Translator(self.training.best, self.data, self.visual, shuffle, self.gpu)

    def translate(self, split: str, search: Search, shuffle: int | None = None) -> Translations:
        """Translations of a split in words, in the order of its lines."""
        found = self.translator(shuffle).translate(split, search)
        joined = [
            [one._replace(text=self.target.join(one.text)) for one in hypotheses]
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


def device_of(schedule: Schedule, run: Run) -> torch.device:
    """What a schedule asks for, noted in the run. Raises InputError where there is no GPU."""
    run.precision = "float16" if schedule.fp16 else "float32"
    if not schedule.gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("schedule.gpu: true; there is no GPU here, allowed: false")
    run.device = torch.cuda.get_device_name()
    return torch.device("cuda")
