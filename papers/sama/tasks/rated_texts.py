"""Texts of which a share is corrupted: what a data rater has to tell apart.

Characters of Penn Treebank, or of a generated language in which each says much about the next one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from common.data.language_modelling import END_OF_LINE, UNKNOWN, ptb
from common.data.registry import identity
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run

#: How texts are corrupted, each as often: characters in another order, words in another order, the
#: first few characters again and again.
CORRUPTIONS: Final = ("characters", "words", "repeated")
CLEAN: Final = -1
#: Characters that a repeated text repeats.
PERIOD: Final = 5
#: The generated language is drawn with it, the same one for all runs.
LANGUAGE_SEED: Final = 20231210
SPACE: Final = 0
Characters = npt.NDArray[np.int64]


class TextSettings(Settings):
    """Which texts, and how many."""

    data: Literal["generated", "ptb"]
    data_root: str | None = None
    texts: int = Field(gt=0, description="to train on")
    held_out_texts: int = Field(gt=0, description="clean ones, which the rater's meta cost reads")
    test_texts: int = Field(gt=0, description="clean ones, of the loss that is reported")
    length: int = Field(gt=PERIOD, description="characters of a text")
    corrupted: float = Field(0.5, ge=0, lt=1, description="share of the texts to train on")
    letters: int = Field(24, gt=1, description="of the generated language")


class Texts(NamedTuple):
    """Texts (n, length) of numbered characters.

    ``kinds`` (n,) of those to train on: place in :data:`CORRUPTIONS`, or :data:`CLEAN`.
    """

    train: Tensor
    kinds: Tensor
    held_out: Tensor
    test: Tensor
    vocabulary: int


def load_texts(settings: TextSettings, run: Run) -> Texts:
    """Draw texts and corrupt a share of them with the run's seed; note what was read.

    Raises:
        InputError: the data set is too short for so many.
    """
    rng = np.random.default_rng(run.seed)
    counts = (settings.texts, settings.held_out_texts, settings.test_texts)
    if settings.data == "ptb":
        root = Path(settings.data_root) if settings.data_root else None
        run.uses(identity("ptb", root=root))
        streams, vocabulary = _treebank(root)
    else:
        run.uses(DataIdentity.generated("a language of character pairs", LANGUAGE_SEED))
        streams = [_generated(settings, count, rng) for count in counts]
        vocabulary = settings.letters + 1
    parts = [
        _windows(stream, count, settings.length, rng)
        for stream, count in zip(streams, counts, strict=True)
    ]
    kinds = np.full(settings.texts, CLEAN)
    bad = rng.permutation(settings.texts)[: round(settings.corrupted * settings.texts)]
    kinds[bad] = np.arange(len(bad)) % len(CORRUPTIONS)
    for row in bad:
        parts[0][row] = corrupt(parts[0][row], CORRUPTIONS[kinds[row]], rng)
    train, held_out, test = (torch.from_numpy(part) for part in parts)
    return Texts(train, torch.from_numpy(kinds), held_out, test, vocabulary)


def corrupt(text: Characters, how: str, rng: np.random.Generator) -> Characters:
    """A corrupted copy (length,) of one text; the space is 0."""
    if how == "characters":
        return rng.permutation(text)
    if how == "repeated":
        return np.resize(text[:PERIOD], len(text))
    words = np.split(text, np.flatnonzero(text == SPACE))
    return np.concatenate([words[place] for place in rng.permutation(len(words))])


def _windows(stream: Characters, count: int, length: int, rng: np.random.Generator) -> Characters:
    """(count, length) texts that do not overlap, from anywhere in a stream."""
    available = len(stream) // length
    if count > available:
        raise InputError(f"{count} texts of {length} characters: allowed: at most {available}")
    starts = np.sort(rng.permutation(available)[:count]) * length
    texts: Characters = stream[starts[:, None] + np.arange(length)]
    return texts


def _treebank(root: Path | None) -> tuple[list[Characters], int]:
    """Its three splits as numbered characters, and how many of those there are."""
    splits = []
    for split in ("train", "valid", "test"):
        text = " ".join(ptb(split, root))
        splits.append(text.replace(END_OF_LINE, "\n").replace(UNKNOWN, "_"))
    known = sorted(set(splits[0]) - {" "})
    numbers = {" ": SPACE} | {character: place + 1 for place, character in enumerate(known)}
    streams = [np.array([numbers.get(character, SPACE) for character in text]) for text in splits]
    return streams, len(numbers)


def _generated(settings: TextSettings, count: int, rng: np.random.Generator) -> Characters:
    """So many texts' worth of a Markov chain over letters and the space."""
    symbols = settings.letters + 1
    # Few letters follow each letter often.
    chances = np.random.default_rng(LANGUAGE_SEED).dirichlet(np.full(symbols, 0.15), size=symbols)
    # Words end: a space is as likely after any letter, and none follows a space.
    chances[:, SPACE] = 0.2
    chances[SPACE, SPACE] = 0
    ladders = (chances / chances.sum(1, keepdims=True)).cumsum(1)
    stream = np.empty(count * settings.length, dtype=np.int64)
    last = 1
    for place, draw in enumerate(rng.random(len(stream))):
        last = min(int(np.searchsorted(ladders[last], draw)), symbols - 1)
        stream[place] = last
    return stream
