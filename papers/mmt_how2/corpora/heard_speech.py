"""What a recogniser heard beside what was said, and the pictures: what a corrector learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.how2 import hypotheses, sentences
from common.errors import InputError
from papers.mmt_how2.corpora.parallel_corpora import HOW2_SPLITS, link_how2_pictures
from papers.mmt_how2.corpora.pictured_text import Corpus, write_pictures
from papers.mmt_how2.corpora.spoken_words import NOTHING, normalise_transcript
from papers.mmt_how2.translation.binarised_text import SentencePairs
from papers.mmt_how2.translation.fairseq_start import start_fairseq


@dataclass(frozen=True)
class HeardSpeech:
    """Utterances by split (``train``, ``valid``, ``test``); line i of both belongs to one.

    Attributes:
        heard: the recogniser's words, lower case; a line may be empty.
        said: transcripts; none is empty.
        pictures: folder of ``<split>.npy``, a row for each utterance.
    """

    heard: Mapping[str, tuple[str, ...]]
    said: Mapping[str, tuple[str, ...]]
    pictures: Path

    @property
    def pairs(self) -> dict[str, SentencePairs]:
        """Source and target of a corrector."""
        return {
            split: SentencePairs([line or NOTHING for line in lines], self.said[split])
            for split, lines in self.heard.items()
        }

    def read_pictures(self, split: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Pictures of a split, (utterances, size).

        Raises:
            InputError: the file is absent, no array, or holds NaN or infinity.
        """
        start_fairseq()
        from papers.mmt_how2.fairseq_plugin.visual_features import check_finite, open_features

        path = self.pictures / f"{split}.npy"
        found = open_features(path)
        check_finite(path, found)
        return np.array(found, dtype=np.float32)


def write_heard_speech(corpus: Corpus, folder: Path) -> HeardSpeech:
    """A corpus of :mod:`.correction_corpus`; its pictures go into ``folder``."""
    return HeardSpeech(
        {split: text.source for split, text in corpus.items()},
        {split: text.target for split, text in corpus.items()},
        write_pictures(corpus, folder),
    )


def read_how2_speech(folder: Path, root: Path | None = None) -> HeardSpeech:
    """How2 as ``how2_full`` and ``how2_recognised`` have it; ``folder`` gets links to features.

    Words are lower case, and what is no letter, digit or apostrophe is a blank (Choe et al. 2019;
    the apostrophe is not mentioned, but stands in the public transcripts).

    Raises:
        InputError: a file is absent or malformed, or there is not one line heard for each said.
    """
    heard, said = {}, {}
    for split, upstream in HOW2_SPLITS.items():
        heard[split] = tuple(map(normalise_transcript, hypotheses(upstream, root)))
        said[split] = tuple(map(normalise_transcript, sentences(upstream, "en", root)))
        if len(heard[split]) != len(said[split]):
            raise InputError(
                f"how2_recognised: {len(heard[split])} lines of {upstream} for"
                f" {len(said[split])} transcripts; one for each is needed"
            )
    return HeardSpeech(heard, said, link_how2_pictures(folder, root))
