"""How2: the public transcripts of one speech recogniser, its authors' scores and split sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from common.data.features import read_features
from common.data.files import read_lines, read_rows
from common.data.registry import find
from common.errors import InputError

REFERENCE: Final = "dev5.filtered.en"
HYPOTHESIS: Final = "hyp.filtered.word.wer.r9216e.max150.dev5.beam10.sclite"
#: Splits of the 300-hour part, under upstream's names; ``dev5`` is the test split.
SPLITS: Final = ("train", "val", "dev5")
LANGUAGES: Final = ("en", "pt")
FEATURES: Final = "features/resnext101-action-avgpool-300h"
FEATURE_SIZE: Final = 2048
#: ``words of the utterance (speaker-utterance)``, the form that NIST's sclite reads.
_TRANSCRIPT = re.compile(r"(?P<words>.*) \((?P<id>[^()\s]+)\)")


@dataclass(frozen=True)
class Transcripts:
    """Utterances: their ids, what was said and what a recogniser heard; lower-case words."""

    ids: tuple[str, ...]
    references: tuple[str, ...]
    hypotheses: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class BaselineScore:
    """Best validation score of one training run of the corpus' authors.

    Attributes:
        task: ``asr`` (speech to English), ``nmt`` (English to Portuguese), ``slt`` (speech to it).
        visual: whether the model also saw the video's features.
        metric, value: ``WER`` in percent of words, lower is better, or ``BLEU``, higher is better.
        at_epoch: epoch of that score.
    """

    run: str
    task: str
    visual: bool
    metric: str
    value: float
    at_epoch: int


@dataclass(frozen=True)
class SplitSize:
    """Published size of a split; ``sentences`` is None where it was not published."""

    corpus: str
    split: str
    videos: int
    hours: float
    sentences: int | None


def transcripts(root: Path | None = None) -> Transcripts:
    """The 2,305 utterances of the 300-hour test split with one recogniser's output.

    Raises: InputError if a file is absent or malformed, or the ids of the two files do not pair.
    Source: Sanabria et al. 2018.
    """
    folder = find("how2", root) / "eval_asr"
    ids, references = _sclite(folder / REFERENCE)
    heard_ids, hypotheses = _sclite(folder / HYPOTHESIS)
    if ids != heard_ids:
        alone = sorted(set(ids) ^ set(heard_ids))
        what = (
            f"id {alone[0]!r} is in one file alone" if alone else "the ids stand in another order"
        )
        raise InputError(
            f"{folder / HYPOTHESIS}: {len(heard_ids)} utterances do not pair with the "
            f"{len(ids)} of {REFERENCE}: {what}"
        )
    return Transcripts(ids, references, hypotheses)


def sentences(split: str, language: str, root: Path | None = None) -> tuple[str, ...]:
    """Sentences of a split of the 300-hour part; sentence i of both languages is one utterance.

    Raises: InputError for an unknown split or language, or a file that is absent or malformed.
    Source: Sanabria et al. 2018; the set ``how2_full``, which one has to ask for.
    """
    _check_split(split)
    if language not in LANGUAGES:
        raise InputError(f"How2: no language {language!r}; allowed: {', '.join(LANGUAGES)}")
    return read_lines(find("how2_full", root) / "data" / split / f"text.{language}")


def features(split: str, root: Path | None = None) -> npt.NDArray[Any]:
    """Action features of the video of each sentence of a split, (sentences, 2048), not in memory.

    Raises: InputError for an unknown split, or a file that is absent, malformed or of other shape.
    Source: as :func:`sentences`.
    """
    return read_features(features_path(split, root), FEATURE_SIZE)


def features_path(split: str, root: Path | None = None) -> Path:
    """Where the features of a split lie. Raises InputError for an unknown split."""
    _check_split(split)
    return find("how2_full", root) / FEATURES / f"{split}.npy"


def hypotheses(split: str, root: Path | None = None) -> tuple[str, ...]:
    """What a recogniser heard of each sentence of a split, in the order of :func:`sentences`.

    A line may be empty: nothing was heard.

    Raises: InputError for an unknown split, or a file that is absent or malformed.
    Source: the set ``how2_recognised``, which one has to make with a recogniser.
    """
    _check_split(split)
    return read_lines(find("how2_recognised", root) / f"{split}.hyp")


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"How2: no split {split!r}; allowed: {', '.join(SPLITS)}")


def baseline_scores(root: Path | None = None) -> tuple[BaselineScore, ...]:
    """Best validation scores of the 18 runs that the authors published logs of.

    Raises: InputError if the file is absent or malformed. Source: Sanabria et al. 2018.
    """
    path = find("how2", root) / "baseline_scores.csv"
    columns = ("run", "task", "modality", "metric", "best_validation_value", "at_epoch")
    scores = []
    for number, row in enumerate(read_rows(path, columns), start=2):
        run, task, modality, metric, value, epoch = (row[column] for column in columns)
        try:
            scores.append(
                BaselineScore(run, task, modality == "visual", metric, float(value), int(epoch))
            )
        except ValueError as error:
            raise InputError(f"{path}: row {number}: {error}") from None
    return tuple(scores)


def split_sizes(root: Path | None = None) -> tuple[SplitSize, ...]:
    """Published sizes of the splits of the 300-hour and 2000-hour sets.

    Raises: InputError if the file is absent or malformed. Source: Sanabria et al. 2018.
    """
    path = find("how2", root) / "splits.csv"
    sizes = []
    for number, row in enumerate(
        read_rows(path, ("set", "split", "videos", "hours", "sentences")), start=2
    ):
        try:
            sentences = int(row["sentences"]) if row["sentences"] else None
            videos, hours = int(row["videos"]), float(row["hours"])
        except ValueError as error:
            raise InputError(f"{path}: row {number}: {error}") from None
        sizes.append(SplitSize(row["set"], row["split"], videos, hours, sentences))
    return tuple(sizes)


def _sclite(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        match = _TRANSCRIPT.fullmatch(line)
        if not match:
            raise InputError(f"{path}: line {number} is {line[:60]!r}; expected words (id)")
        found.append((match["id"], match["words"]))
    return tuple(identity for identity, _ in found), tuple(words for _, words in found)
