"""How2: translation and speech correction that may look at pictures, on fairseq.

The method is a plugin for fairseq's own commands, ``--user-dir papers/mmt_how2/fairseq_plugin``
(Raunak et al. 2019; Choe et al. 2019), and a driver that trains and translates in one process.
This trains a model on text and pictures and asks whether it looks at the pictures::

    from pathlib import Path
    import numpy as np
    from papers import mmt_how2

    work, visual = Path("work"), Path("features")       # train.npy, valid.npy, test.npy
    splits = {
        split: mmt_how2.read_pairs(Path(f"{split}.en"), Path(f"{split}.pt"))
        for split in ("train", "valid", "test")
    }
    data = mmt_how2.binarise(splits, work / "data", "en", "pt")
    model = mmt_how2.TranslationModel(fusion="step_wise_decoder")
    schedule = mmt_how2.Schedule(epochs=20, batch_size=64, learning_rate=0.001)
    training = mmt_how2.train(data, work / "model", model, schedule, seed=1, visual=visual, keep=5)
    print(training.best_epoch, f"{training.tokens_per_s:.0f} tokens/s")

    references = splits["test"].target
    for shuffle in (1, None):                            # wrong pictures, then the right ones
        translator = mmt_how2.Translator(training.best, data, visual, shuffle)
        found = translator.translate("test", mmt_how2.Search(beam=5))
        print(mmt_how2.bleu(found.best, references))     # with sacrebleu's signature

    # A sentence that is in no file with its picture, by the mean of the last five epochs' weights.
    averaged = mmt_how2.average_checkpoints(training.kept, work / "averaged.pt")
    translator, picture = mmt_how2.Translator(averaged, data), np.load(visual / "test.npy")[:1]
    print(translator.translate_lines(splits["test"].source[:1], mmt_how2.Search(), picture).best)

A split of any size gives one translation a line, in the file's order. fairseq is loaded by the
first call that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from papers.mmt_how2.methods.systems import System, TrainedSystem
    from papers.mmt_how2.translation.binarised_text import SentencePairs, binarise, read_pairs
    from papers.mmt_how2.translation.checkpoint_averaging import average_checkpoints
    from papers.mmt_how2.translation.generation import Hypothesis, Search, Translations, Translator
    from papers.mmt_how2.translation.scoring import bleu, chrf, paired_bootstrap, word_errors
    from papers.mmt_how2.translation.training import Training, train
    from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel

__all__ = [
    "Hypothesis",
    "Schedule",
    "Search",
    "SentencePairs",
    "System",
    "TrainedSystem",
    "Training",
    "TranslationModel",
    "Translations",
    "Translator",
    "average_checkpoints",
    "binarise",
    "bleu",
    "chrf",
    "paired_bootstrap",
    "read_pairs",
    "train",
    "word_errors",
]

__getattr__, __dir__, _ = lazy.attach(
    __name__,
    submod_attrs={
        "methods.systems": ["System", "TrainedSystem"],
        "translation.binarised_text": ["SentencePairs", "binarise", "read_pairs"],
        "translation.checkpoint_averaging": ["average_checkpoints"],
        "translation.generation": ["Hypothesis", "Search", "Translations", "Translator"],
        "translation.scoring": ["bleu", "chrf", "paired_bootstrap", "word_errors"],
        "translation.training": ["Training", "train"],
        "translation.training_settings": ["Schedule", "TranslationModel"],
    },
)
