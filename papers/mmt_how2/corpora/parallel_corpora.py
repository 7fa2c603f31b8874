"""The translation paper's real corpora: splits of sentence pairs, and a folder of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common.data import how2, multi30k
from common.data.registry import identity
from common.runs.record import DataIdentity
from papers.mmt_how2.corpora.spoken_words import NOTHING, normalise_transcript
from papers.mmt_how2.translation.binarised_text import SentencePairs

#: Our names of splits and those of the corpora; How2's test split is its ``dev5``.
HOW2_SPLITS: Final = {"train": "train", "valid": "val", "test": "dev5"}
MULTI30K_SPLITS: Final = {"train": "train", "valid": "val", "test": "test_2016_flickr"}


def how2_pairs(source: str, target: str) -> Mapping[str, SentencePairs]:
    """How2's 300-hour splits, lower-case and without punctuation, as the paper has them.

    Raises:
        InputError: the set is not there, or a file of it is malformed.
    """

    def side(split: str, language: str) -> list[str]:
        return [normalise_transcript(line) or NOTHING for line in how2.sentences(split, language)]

    return {
        ours: SentencePairs(side(theirs, source), side(theirs, target))
        for ours, theirs in HOW2_SPLITS.items()
    }


def how2_identity(source: str, target: str, pictures: bool) -> DataIdentity:
    """What :func:`how2_pairs` reads, and the features of pictures."""
    splits = HOW2_SPLITS.values()
    languages = dict.fromkeys((source, target))
    text = [f"data/{split}/text.{language}" for split in splits for language in languages]
    features = [f"{how2.FEATURES}/{split}.npy" for split in splits] if pictures else []
    return identity("how2_full", text + features)


def link_how2_pictures(folder: Path, root: Path | None = None) -> Path:
    """A folder where the plugin finds How2's features under our names of splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for ours, theirs in HOW2_SPLITS.items():
        link = folder / f"{ours}.npy"
        link.unlink(missing_ok=True)
        link.symlink_to(how2.features_path(theirs, root).resolve())
    return folder


def multi30k_pairs(source: str, target: str) -> Mapping[str, SentencePairs]:
    """Multi30k, lower-case and split by the Moses tokeniser; the test split is that of 2016.

    Raises:
        InputError: the set is not there, or a file of it is malformed.
    """
    return {
        ours: SentencePairs(*(multi30k.multi30k(theirs, side) for side in (source, target)))
        for ours, theirs in MULTI30K_SPLITS.items()
    }


def multi30k_identity(source: str, target: str) -> DataIdentity:
    """What :func:`multi30k_pairs` reads."""
    return identity(
        "multi30k",
        [
            f"tok/{split}.lc.norm.tok.{language}"
            for split in MULTI30K_SPLITS.values()
            for language in (source, target)
        ],
    )
