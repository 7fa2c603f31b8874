"""Parallel text with a picture for each sentence pair, in memory and as the plugin's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings
from papers.mmt_how2.corpora.picture_vectors import Scenes, Vectors


class Sizes(Settings):
    """Sentences of each split."""

    train: int = Field(3000, ge=1)
    valid: int = Field(300, ge=1)
    test: int = Field(1000, ge=1)


@dataclass(frozen=True)
class PicturedText:
    """Sentence pairs, cut into words by blanks; row i of all four belongs together.

    Attributes:
        scenes (n,): what the sentence is about; no model is told.
        pictures (n, d): float32.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    scenes: Scenes
    pictures: Vectors

    def __post_init__(self) -> None:
        counts = [len(part) for part in (self.source, self.target, self.scenes, self.pictures)]
        if len(set(counts)) != 1:
            raise InputError(
                f"source, target, scenes and pictures have {counts} rows; one count is needed"
            )

    def __len__(self) -> int:
        return len(self.source)


Corpus = Mapping[str, PicturedText]


def write_corpus(corpus: Corpus, folder: Path, source: str, target: str) -> Path:
    """Write ``<split>.<language>``, one sentence a line, and ``<split>.npy``; returns ``folder``.

    That is what ``fairseq-preprocess`` reads (``--trainpref folder/train``) and where the plugin
    looks for pictures (``--visual-dir folder``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in corpus.items():
        for language, lines in ((source, text.source), (target, text.target)):
            content = "".join(f"{line}\n" for line in lines)
            (folder / f"{split}.{language}").write_text(content, encoding="utf8")
    return write_pictures(corpus, folder)


def write_pictures(corpus: Corpus, folder: Path) -> Path:
    """Write ``<split>.npy`` alone; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in corpus.items():
        np.save(folder / f"{split}.npy", text.pictures)
    return folder
