"""RoBERTa and labelled texts from folders on disk: the paper's own model and sets.

Neither is registered here: their homes state no checksum that could be verified. Nothing is
downloaded; what is absent is an error that says what goes where.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from common.data.files import read_bytes, reading
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.sama.tasks.auxiliary import Sizes
from papers.sama.tasks.masked_texts import Encoder, Marks, MaskedTexts, Part, TextParts

PARTS: Final = ("train", "dev", "test")


class RobertaSettings(Settings):
    """Folders, and how texts are read."""

    name: str = Field(description="the set, for the record")
    folder: str | None = Field(None, description="with train.jsonl, dev.jsonl and test.jsonl")
    weights: str | None = Field(None, description="folder of roberta-base, as it is published")
    label: str = Field("label", description="field of the label beside that of the text")
    max_length: int = Field(256, ge=3, description="pieces of a text")
    masked: float = Field(0.15, gt=0, lt=1, description="share of pieces to fill in")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the classifier")


class Roberta(Encoder):
    """RoBERTa with its own head for masked pieces, and a classifier of the first piece."""

    def __init__(self, masked: Any, classes: int, dropout: float) -> None:
        super().__init__()
        self.masked, self.padding = masked, int(masked.config.pad_token_id)
        width = masked.config.hidden_size
        self.dropout, self.dense = nn.Dropout(dropout), nn.Linear(width, width)
        self.out = nn.Linear(width, classes)

    def states(self, words: Tensor) -> Tensor:
        """(n, length) -> (n, length, width)."""
        mask = (words != self.padding).long()
        found: Tensor = self.masked.roberta(words, attention_mask=mask).last_hidden_state
        return found

    def forward(self, words: Tensor) -> Tensor:
        """(n, length) -> (n, classes) logits."""
        first = self.dropout(self.states(words)[:, 0])
        logits: Tensor = self.out(self.dropout(torch.tanh(self.dense(first))))
        return logits

    def fill_in(self, words: Tensor, places: Tensor) -> Tensor:
        """See :class:`Encoder`."""
        logits: Tensor = self.masked.lm_head(self.states(words)[places])
        return logits


class LabelledParts(NamedTuple):
    """Texts and labels of each of :data:`PARTS`, number of classes, checksums of the files."""

    texts: list[list[str]]
    labels: list[Tensor]
    classes: int
    sha256: dict[str, str]


def read_parts(settings: RobertaSettings) -> LabelledParts:
    """The set in its folder.

    Raises:
        InputError: a file is absent, or a line is not an object with text and label.
    """
    folder = _given("roberta.folder", settings.folder)
    texts, names, sums = list[list[str]](), list[list[str]](), dict[str, str]()
    for part in PARTS:
        path = folder / f"{part}.jsonl"
        content = read_bytes(path)
        sums[path.name] = hashlib.sha256(content).hexdigest()
        with reading(path):
            rows = [json.loads(line) for line in content.decode().splitlines() if line.strip()]
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not {"text", settings.label} <= row.keys():
                raise InputError(
                    f"{path}: line {number} has no text and {settings.label!r}; expected an object"
                    " with both"
                )
        texts.append([str(row["text"]) for row in rows])
        names.append([str(row[settings.label]) for row in rows])
    classes = {name: place for place, name in enumerate(sorted(set(names[0])))}
    unknown = sorted({name for part in names for name in part} - classes.keys())
    if unknown:
        raise InputError(f"{folder}: label {unknown[0]!r} is not among those of train.jsonl")
    labels = [torch.tensor([classes[name] for name in part]) for part in names]
    return LabelledParts(texts, labels, len(classes), sums)


def roberta_task(
    settings: RobertaSettings, run: Run, sizes: Sizes, device: torch.device
) -> MaskedTexts:
    """The published model on the set in a folder.

    Raises: InputError if either is absent or malformed.
    """
    weights = _given("roberta.weights", settings.weights)
    if not (weights / "config.json").is_file():
        raise InputError(f"{weights / 'config.json'}: not there; expected roberta-base's files")
    texts, labels, classes, sums = read_parts(settings)
    run.uses(DataIdentity(name=settings.name, real=True, source="file", sha256=sums))
    from transformers import RobertaForMaskedLM, RobertaTokenizer  # seconds, and for these alone

    tokenizer: Any = RobertaTokenizer.from_pretrained(weights, local_files_only=True)
    model = RobertaForMaskedLM.from_pretrained(weights, local_files_only=True)
    parts = []
    for each, numbers in zip(texts, labels, strict=True):
        encoded = tokenizer(
            each,
            padding="max_length",
            truncation=True,
            max_length=settings.max_length,
            return_tensors="pt",
        )
        parts.append(Part(encoded["input_ids"], numbers))
    # Its four first pieces and the mark at the end are not words.
    marks = Marks(tokenizer.pad_token_id, tokenizer.mask_token_id, 4, tokenizer.mask_token_id)
    network = Roberta(model, classes, settings.dropout).to(device)
    train, validation, test = parts
    whole = TextParts(train, len(train.words), validation, test, classes)
    return MaskedTexts(network, whole, marks, settings.masked, sizes, run.seed)


def _given(name: str, folder: str | None) -> Path:
    if folder is None:
        raise InputError(
            f"{name}: not given; allowed: a folder, as --set {name}=FOLDER; neither set nor model"
            " is distributed here"
        )
    return Path(folder)
