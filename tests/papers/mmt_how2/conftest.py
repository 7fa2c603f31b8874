"""One corpus and one training for the tests that only read them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from papers.mmt_how2.translation.training import Training, train
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel
from tests.papers.mmt_how2 import scenes

SMALL = {
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_hidden_size": 32,
    "decoder_hidden_size": 64,
}
MODEL = TranslationModel(fusion="step_wise_decoder", dropout=0.0, options=SMALL)
SCHEDULE = Schedule(epochs=20, batch_size=32, learning_rate=0.01, decay="fixed")


class Trained(NamedTuple):
    """Folders of text and of features, and the training on them."""

    data: Path
    visual: Path
    training: Training


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Text and features: 301 sentences of training, and sets of awkward sizes."""
    folder = tmp_path_factory.mktemp("scenes")
    return scenes.write(folder, train=301, valid=13, test=37, test7=7, test8=8, test9=9, test1=1)


@pytest.fixture(scope="session")
def trained(corpus: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model with step-wise fusion that has learnt the language."""
    data, visual = corpus
    work = tmp_path_factory.mktemp("work")
    return Trained(data, visual, train(data, work, MODEL, SCHEDULE, seed=1, visual=visual))
