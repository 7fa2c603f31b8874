"""Texts of which few are labelled; the auxiliary task fills in masked words of all of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.data.registry import identity
from common.data.text_classification import LabelledTexts, agnews_test, trec6
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.run import Run
from common.training.data_order import mixed
from papers.sama.tasks.auxiliary import Scores, Sizes, make_batches, scored

PADDING, MASK, UNKNOWN = 0, 1, 2
SPECIAL: Final = 3
#: What is not masked has this in the place of a target.
NOTHING: Final = -100
#: Texts that are classified at once.
AT_ONCE: Final = 256
#: Batches of masked words from which mean weights are taken.
WEIGHED: Final = 8
WORD: Final = re.compile(r"\w+|[^\w\s]")


class TextSettings(Settings):
    """Which texts, how they are split, and the encoder."""

    name: Literal["trec6", "agnews_test"]
    root: str | None = None
    labelled: int = Field(200, gt=0, description="training texts whose label is read")
    validation: int = Field(500, gt=0)
    test: int = Field(1900, gt=0, description="agnews_test only: trec6 has a test part")
    vocabulary: int = Field(4000, gt=SPECIAL, description="most frequent words of the training")
    max_length: int = Field(gt=0, description="words of a text; later ones are cut")
    masked: float = Field(0.15, gt=0, lt=1, description="share of words to fill in")
    layers: int = Field(2, gt=0)
    width: int = Field(64, gt=0)
    heads: int = Field(4, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> TextSettings:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} must divide width, {self.width}")
        return self


class Part(NamedTuple):
    """Texts as word numbers (n, length), filled up, and labels (n,)."""

    words: Tensor
    labels: Tensor


class TextParts(NamedTuple):
    """All training texts with those whose labels are read first, and both held-out parts."""

    train: Part
    labelled: int
    validation: Part
    test: Part
    classes: int


class Marks(NamedTuple):
    """Word numbers: what fills up, the mark of a hidden word, first and past-the-last of words."""

    padding: int
    mask: int
    first: int
    end: int


class Masked(NamedTuple):
    """Words (n, length), some replaced, and the true ones where they are to be filled in."""

    words: Tensor
    targets: Tensor


class Encoder(nn.Module, ABC):
    """A network of both tasks: ``network(words)`` are (n, classes) logits."""

    @abstractmethod
    def fill_in(self, words: Tensor, places: Tensor) -> Tensor:
        """(m, vocabulary) logits of the words at the m places that are True in (n, length)."""


class SmallEncoder(Encoder):
    """A transformer of pre-normalised layers, trained from scratch, with two heads.

    The classifier reads the mean over words; the other head shares its weights with the words'
    vectors, as in BERT.
    """

    def __init__(self, settings: TextSettings, vocabulary: int, classes: int) -> None:
        super().__init__()
        width = settings.width
        self.words = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.places = nn.Parameter(0.02 * torch.randn(settings.max_length, width))
        nn.init.normal_(self.words.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, 2 * width, settings.dropout, "gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(
            layer, settings.layers, nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(width, classes)
        self.before_words, self.bias = (
            nn.Linear(width, width),
            nn.Parameter(torch.zeros(vocabulary)),
        )

    def states(self, words: Tensor) -> Tensor:
        """(n, length) -> (n, length, width)."""
        start = self.dropout(self.words(words) + self.places[: words.shape[1]])
        found: Tensor = self.layers(start, src_key_padding_mask=words == PADDING)
        return found

    def forward(self, words: Tensor) -> Tensor:
        """(n, length) -> (n, classes) logits."""
        there = (words != PADDING)[..., None]
        mean = (self.states(words) * there).sum(1) / there.sum(1)
        logits: Tensor = self.head(self.dropout(mean))
        return logits

    def fill_in(self, words: Tensor, places: Tensor) -> Tensor:
        """See :class:`Encoder`."""
        states = functional.gelu(self.before_words(self.states(words)[places]))
        return states @ self.words.weight.T + self.bias


def read_texts(settings: TextSettings, run: Run) -> tuple[TextParts, Marks]:
    """Split with the run's seed, and note what was read.

    Raises:
        InputError: the data is absent, or has too few texts.
    """
    root = Path(settings.root) if settings.root else None
    run.uses(identity(settings.name, root=root))
    rng = np.random.default_rng(run.seed)
    if settings.name == "trec6":
        whole, test = trec6(True, root=root), trec6(False, root=root)
        order = rng.permutation(len(whole))
        held_out: tuple[Sequence[str], Any] = test.texts, test.labels
    else:
        whole = agnews_test(root)
        order = rng.permutation(len(whole))
        rows, order = order[: settings.test], order[settings.test :]
        held_out = [whole.texts[row] for row in rows], whole.labels[rows]
    needed = settings.validation + settings.labelled
    if needed > len(order):
        raise InputError(
            f"labelled and validation: {needed} texts; {settings.name} has {len(order)} for both"
        )
    valid, train = order[: settings.validation], order[settings.validation :]
    numbers = number_words([whole.texts[row] for row in train], settings.vocabulary)

    def part(texts: Sequence[str], labels: Any) -> Part:
        words = to_words(texts, numbers, settings.max_length)
        return Part(words, torch.from_numpy(np.array(labels)))

    def rows_of(data: LabelledTexts, rows: Any) -> Part:
        return part([data.texts[row] for row in rows], data.labels[rows])

    parts = TextParts(
        rows_of(whole, train),
        settings.labelled,
        rows_of(whole, valid),
        part(*held_out),
        len(whole.class_names),
    )
    return parts, Marks(PADDING, MASK, SPECIAL, SPECIAL + len(numbers))


def number_words(texts: Sequence[str], most: int) -> dict[str, int]:
    """Numbers of the most frequent words, at most ``most`` with the special ones."""
    counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: SPECIAL + place for place, word in enumerate(ordered[: most - SPECIAL])}


def to_words(texts: Sequence[str], numbers: dict[str, int], length: int) -> Tensor:
    """(n, length) word numbers; no text is empty."""
    words = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, text in enumerate(texts):
        found = [numbers.get(word, UNKNOWN) for word in WORD.findall(text.lower())[:length]]
        words[row, : max(1, len(found))] = torch.tensor(found or [UNKNOWN])
    return words


def trimmed(words: Tensor, padding: int = PADDING) -> Tensor:
    """Without the columns that fill up even the longest text."""
    return words[:, : int((words != padding).sum(1).max())]


def mask_words(words: Tensor, share: float, marks: Marks, generator: torch.Generator) -> Masked:
    """Hide a share of the words: 80 % by a mark, 10 % by another word, 10 % not at all.

    At least one of the batch is hidden. Source: Devlin et al. 2019, Sec. 3.1.

    What is not a word (fills up, is unknown) is never hidden.
    """
    draw = torch.rand(words.shape, generator=generator)
    draw[(words < marks.first) | (words >= marks.end)] = 2.0
    hidden = draw < share
    if not hidden.any():
        hidden = draw == draw.min()
    how = torch.rand(words.shape, generator=generator)
    others = torch.randint(marks.first, marks.end, words.shape, generator=generator)
    shown = torch.where(hidden & (how < 0.8), torch.full_like(words, marks.mask), words)
    shown = torch.where(hidden & (how >= 0.9), others, shown)
    return Masked(shown, torch.where(hidden, words, torch.full_like(words, NOTHING)))


class MaskedTexts:
    """Classification of few texts, and filling in words of all.

    Args:
        parts, marks: texts as word numbers.
        share: of the words, to fill in.
        sizes: of batches.
        seed: of the batches and masks.
    """

    def __init__(
        self,
        network: Encoder,
        parts: TextParts,
        marks: Marks,
        share: float,
        sizes: Sizes,
        seed: int,
    ) -> None:
        self.network, self.parts, self._marks, self._share = network, parts, marks, share
        self._device, self._seed = next(network.parameters()).device, seed
        self._rows = make_batches(parts.labelled, len(parts.train.words), sizes, seed)

    @property
    def steps_per_epoch(self) -> int:
        """See :class:`AuxiliaryTask`; so for the others."""
        return self._rows.main.steps_per_epoch

    def _cost(self, rows: Tensor) -> Tensor:
        words, labels = (part[rows].to(self._device) for part in self.parts.train)
        logits = self.network(trimmed(words, self._marks.padding))
        return functional.cross_entropy(logits, labels)

    def main_cost(self, step: int) -> Tensor:
        return self._cost(self._rows.main.at(step))

    def meta_cost(self, step: int) -> Tensor:
        return self._cost(self._rows.meta.at(step))

    def auxiliary_batch(self, step: int) -> Masked:
        generator = torch.Generator().manual_seed(mixed(self._seed, 3, step))
        rows = self._rows.auxiliary.at(step)
        words = trimmed(self.parts.train.words[rows], self._marks.padding)
        masked = mask_words(words, self._share, self._marks, generator)
        return Masked(*(part.to(self._device) for part in masked))

    def auxiliary_losses(self, batch: Masked) -> Tensor:
        places = batch.targets != NOTHING
        logits = self.network.fill_in(batch.words, places)
        return functional.cross_entropy(logits, batch.targets[places], reduction="none")

    def scores(self) -> tuple[Scores | None, Scores]:
        valid, test = (self._score(part) for part in (self.parts.validation, self.parts.test))
        return valid, test

    def _score(self, part: Part) -> Scores:
        chunks = torch.split(part.words, AT_ONCE)
        padding = self._marks.padding
        logits = [self.network(trimmed(words, padding).to(self._device)) for words in chunks]
        return scored(torch.cat(logits).cpu(), part.labels)

    def weight_metrics(self, weights: nn.Module) -> dict[str, float]:
        """Of all words, and of the halves with the smaller and the larger losses."""
        batches = [self.auxiliary_batch(step) for step in range(WEIGHED)]
        losses = torch.cat([self.auxiliary_losses(batch) for batch in batches])
        found, larger = weights(losses), losses > losses.median()
        return {
            "mean_weight": float(found.mean()),
            "weight_of_smaller_losses": float(found[~larger].mean()),
            "weight_of_larger_losses": float(found[larger].mean()),
        }


def small_task(settings: TextSettings, run: Run, sizes: Sizes, device: torch.device) -> MaskedTexts:
    """A small encoder, and a registered set."""
    parts, marks = read_texts(settings, run)
    network = SmallEncoder(settings, marks.end, parts.classes).to(device)
    return MaskedTexts(network, parts, marks, settings.masked, sizes, run.seed)
