"""WRENCH's texts as rows of numbers: of words of their own vocabulary, or of BERT's pieces.

Labels are those of :func:`common.tasks.weak_supervision.load_weak` at the same seed, whatever reads
the texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from common.data.registry import identity
from common.data.wrench import SPLITS, WeakTexts, wrench
from common.experiments.settings import Settings
from common.runs.run import Run
from common.tasks.batches import Split
from common.tasks.weak_supervision import WeakData, aggregated

#: Fills up short texts.
PADDING: Final = 0
#: A word that the vocabulary lacks.
UNKNOWN: Final = 1
#: Stands before every text, so that an empty one is not nothing.
START: Final = 2
WORD: Final = re.compile(r"</?e[12]>|[a-z0-9]+|[^\sa-z0-9]")
Numbered = Callable[[Sequence[Sequence[str]]], list[Tensor]]


class WordSettings(Settings):
    """How texts become numbers, and the transformer that reads those."""

    max_length: int = Field(40, ge=2, description="numbers of a text, with one before it")
    least_count: int = Field(2, gt=0, description="of a word in the training texts; rarer: unknown")
    layers: int = Field(2, gt=0)
    width: int = Field(64, gt=0)
    heads: int = Field(4, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


def load_texts(
    name: Literal["trec", "semeval", "youtube", "sms"],
    run: Run,
    numbered: Numbered,
    root: Path | None = None,
) -> WeakData:
    """Training texts with their majority votes, and clean sets; notes in ``run`` what was read.

    Args:
        numbered: the texts of each split -> (n, length) int64 of each; the first is for training.

    Raises: InputError if a file is absent, or not the registered one.
    """
    files = [f"{name}/{stem}.json" for stem in (*SPLITS, "label")]
    files += [f"{name}/labeled_ids.json"] if name != "semeval" else []
    run.uses(identity("wrench", files, root))
    train, valid, test = (wrench(name, split, root) for split in SPLITS)
    classes = len(train.class_names)
    # Published sizes leave out the rows whose truth the authors of the functions had.
    rows = np.setdiff1d(np.arange(len(train)), train.labelled)
    votes = train.weak_labels[rows], test.weak_labels
    labels = aggregated(*votes, test.labels, classes, np.random.default_rng(run.seed))
    kept = rows[labels.rows]
    x = numbered([with_entities(split) for split in (train, valid, test)])
    given, truth, clean, tested = (
        torch.from_numpy(np.array(part))
        for part in (labels.given, train.labels[kept], valid.labels, test.labels)
    )
    return WeakData(
        Split(x[0][kept], given),
        truth,
        Split(x[1], clean),
        Split(x[2], tested),
        classes,
        labels.vote_pct,
    )


def with_entities(texts: WeakTexts) -> list[str]:
    """Texts; the two entities whose relation is the label, if any, between tags e1 and e2."""
    if not texts.spans.shape[1]:
        return list(texts.texts)
    tagged = []
    for text, spans in zip(texts.texts, texts.spans, strict=True):
        inserts = [(first, f" <e{place}> ") for place, (first, _) in enumerate(spans, 1)]
        inserts += [(end, f" </e{place}> ") for place, (_, end) in enumerate(spans, 1)]
        for position, tag in sorted(inserts, reverse=True):
            text = text[:position] + tag + text[position:]
        tagged.append(text)
    return tagged


class Vocabulary:
    """Words that stand often enough in texts, the most frequent first."""

    def __init__(self, texts: Sequence[str], least_count: int) -> None:
        counts = Counter(word for text in texts for word in words_of(text))
        frequent = sorted(
            (word for word, count in counts.items() if count >= least_count),
            key=lambda word: (-counts[word], word),
        )
        self._number = {word: number for number, word in enumerate(frequent, START + 1)}

    def __len__(self) -> int:
        """Numbers in use, those that are no words too."""
        return START + 1 + len(self._number)

    def rows(self, texts: Sequence[str], length: int) -> Tensor:
        """(n, length) int64: a start, then words; what is longer is cut."""
        rows = torch.full((len(texts), length), PADDING)
        for row, text in zip(rows, texts, strict=True):
            words = [self._number.get(word, UNKNOWN) for word in words_of(text)]
            numbers = torch.tensor([START, *words][:length])
            row[: len(numbers)] = numbers
        return rows


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, each other sign by itself, and tags of entities."""
    return WORD.findall(text.lower())
