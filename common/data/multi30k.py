"""Multi30k: descriptions of pictures in English with German and French translations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from common.data.features import read_features
from common.data.files import read_lines
from common.data.registry import find
from common.errors import InputError

SPLITS: Final = (
    "train",
    "val",
    "test_2016_flickr",
    "test_2017_flickr",
    "test_2017_mscoco",
    "test_2018_flickr",
)
LANGUAGES: Final = ("en", "de", "fr")
FEATURE_SIZE: Final = 2048


def multi30k(
    split: str, language: str, tokenised: bool = True, root: Path | None = None
) -> tuple[str, ...]:
    """Sentences of ``split`` in ``language``; sentence i of every language describes picture i.

    ``tokenised`` gives them lower-case, with normalised punctuation, split by the Moses tokeniser
    (an apostrophe is ``&apos;``), as the published scores use them; else as they were written.

    Raises: InputError for an unknown split or language, a file that is absent or malformed, or one
    whose number of lines is not that of the pictures.
    Source: Elliott et al. 2016 (en, de), 2017 (fr), Barrault et al. 2018 (test_2018_flickr).
    """
    if language not in LANGUAGES:
        raise InputError(f"Multi30k: no language {language!r}; allowed: {', '.join(LANGUAGES)}")
    pictures = image_split(split, root)
    folder = find("multi30k", root)
    path = (
        folder / "tok" / f"{split}.lc.norm.tok.{language}"
        if tokenised
        else folder / "raw" / f"{split}.{language}.gz"
    )
    sentences = read_lines(path)
    if len(sentences) != len(pictures):
        raise InputError(
            f"{path}: {len(sentences)} lines; expected {len(pictures)}, one for each picture"
        )
    return sentences


def image_split(split: str, root: Path | None = None) -> tuple[str, ...]:
    """File name of the picture that each line of ``split`` describes."""
    if split not in SPLITS:
        raise InputError(f"Multi30k: no split {split!r}; allowed: {', '.join(SPLITS)}")
    return read_lines(find("multi30k", root) / "image_splits" / f"{split}.txt")


def picture_features(root: Path | None = None) -> npt.NDArray[Any]:
    """ResNet-50's pooled features of the training pictures, (29000, 2048), not in memory.

    Raises: InputError if the file is absent, malformed or of another shape.
    Source: Barrault et al. 2018; the set ``multi30k_features``.
    """
    path = find("multi30k_features", root) / "train-resnet50-avgpool.npy"
    return read_features(path, FEATURE_SIZE)
