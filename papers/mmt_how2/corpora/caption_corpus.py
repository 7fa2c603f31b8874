"""Real captions, misheard: function words as by a recogniser, nouns as twins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from papers.mmt_how2.corpora.noise_channel import NoiseChannel
from papers.mmt_how2.corpora.picture_vectors import Pictures, Vectors, picture_vectors, prototypes
from papers.mmt_how2.corpora.pictured_text import PicturedText
from papers.mmt_how2.corpora.spoken_words import normalise_transcript

#: What twins look like is the same in every corpus.
LOOKS_SEED: Final = 0
#: Frequent nouns of Multi30k that sound alike or differ in an ending. Unlike those of
#: :mod:`papers.mmt_how2.corpora.correction_corpus`, the words around them may tell which is meant.
CAPTION_TWINS: Final = (
    ("man", "men"),
    ("woman", "women"),
    ("boy", "boys"),
    ("girl", "girls"),
    ("dog", "dogs"),
    ("hat", "bat"),
    ("ball", "wall"),
    ("bike", "bikes"),
    ("grass", "glass"),
    ("car", "cars"),
    ("beach", "bench"),
    ("hand", "band"),
)


def caption_corpus(
    captions: Sequence[str],
    functions: NoiseChannel,
    twin_errors: float,
    pictures: Pictures,
    seed: int,
) -> PicturedText:
    """Captions as they were heard (source), as they were said (target), and their pictures.

    The picture is the mean of what the twins in the caption look like (and of quality 1: it is
    their scene), with noise; of a caption without twins it is noise alone.

    Args:
        captions: as people wrote them; words are lower-cased and freed from punctuation.
        functions: channel of the function words, fitted by
            :func:`papers.mmt_how2.corpora.noise_channel.confusions`.
        twin_errors: share of twins misheard.
    """
    said = tuple(normalise_transcript(caption) for caption in captions)
    twins = {
        word: ((other, twin_errors),)
        for pair in CAPTION_TWINS
        for word, other in (pair, pair[::-1])
    }
    both = NoiseChannel({**functions.substitutions, **twins})
    text_seed, picture_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    shown = shown_twins(said, pictures, picture_seed)
    scenes = np.arange(len(said))  # Every caption has its own picture.
    return PicturedText(tuple(both.heard(said, text_seed)), said, scenes, shown)


def shown_twins(lines: Sequence[str], pictures: Pictures, seed: int) -> Vectors:
    """Picture of each line, (n, size)."""
    members = [word for pair in CAPTION_TWINS for word in pair]
    place = {word: number for number, word in enumerate(members)}
    looks = prototypes(len(members), pictures.size, LOOKS_SEED)
    seen = np.zeros((len(lines), pictures.size))
    for row, line in enumerate(lines):
        found = [place[word] for word in line.split() if word in place]
        if found:
            seen[row] = looks[found].mean(axis=0)
    return picture_vectors(np.arange(len(lines)), seen, pictures, seed)
