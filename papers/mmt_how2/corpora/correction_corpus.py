"""Recognised speech beside what was said, where the picture can and cannot help.

A sentence has seven words, ``the old pipe lies in a bow``: a determiner, an adjective, a twin, a
verb, a preposition, a determiner and a twin. Determiners and prepositions are drawn uniformly, so
nothing tells that one was misheard. Twins (pipe, pike) come in pairs, and the scene says which of a
pair is meant: misheard, they can be put right by whoever sees the scene, and by nobody else.

Two corpora with the same word error rate, one with most errors in function words and one with most
in twins, show whether a picture can lower it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings
from papers.mmt_how2.corpora.compositional_corpus import balanced_table
from papers.mmt_how2.corpora.function_words import FUNCTION_WORDS
from papers.mmt_how2.corpora.noise_channel import NoiseChannel
from papers.mmt_how2.corpora.picture_vectors import (
    Pictures,
    picture_vectors,
    prototypes,
    scenes_of_videos,
)
from papers.mmt_how2.corpora.pictured_text import Corpus, PicturedText, Sizes

#: Which twin belongs to which scene, and what scenes look like, are the same in every corpus.
LANGUAGE_SEED: Final = 0
SCENES: Final = 4
DETERMINERS: Final = ("the", "a")
PREPOSITIONS: Final = ("in", "and", "to")
ADJECTIVES: Final = ("small", "old", "green", "heavy")
VERBS: Final = ("lies", "falls", "turns", "hangs")
TWINS: Final = (
    ("pipe", "pike"),
    ("bedding", "betting"),
    ("chalk", "talk"),
    ("bow", "bowl"),
    ("bread", "thread"),
    ("glue", "clue"),
)
FUNCTION_PLACES: Final = (0, 4, 5)
TWIN_PLACES: Final = (2, 6)
WORDS: Final = 7
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"

TABLE: Final = balanced_table(np.random.default_rng(LANGUAGE_SEED), SCENES, len(TWINS))


class CorrectionText(Settings):
    """Knobs of a corpus."""

    function_errors: float = Field(0.20, ge=0, le=1, description="share of function words misheard")
    twin_errors: float = Field(0.02, ge=0, le=1, description="share of twins misheard")
    misspelt: float = Field(0.0, ge=0, le=1, description="share of content words' letters replaced")
    deletion: float = Field(0.0, ge=0, le=1, description="share of words that are lost")
    insertion: float = Field(0.0, ge=0, le=1, description="function words put in, a word said")
    sizes: Sizes = Sizes()
    pictures: Pictures = Pictures()

    @property
    def input_wer_pct(self) -> float:
        """Expected word error rate of what was heard, its function words and twins replaced alone.

        Misspelt, lost and added words come on top.
        """
        function, twin = len(FUNCTION_PLACES), len(TWIN_PLACES)
        return 100 * (function * self.function_errors + twin * self.twin_errors) / WORDS

    @property
    def floor_wer_pct(self) -> float:
        """Expected word error rate that no corrector can get below, picture or not.

        Without the picture none can get below :attr:`input_wer_pct` while words are more often
        right than wrong: one twin says nothing about the other.
        """
        return 100 * len(FUNCTION_PLACES) * self.function_errors / WORDS


def build_channel(knobs: CorrectionText) -> NoiseChannel:
    """Function words become another of their class, twins each other; words are lost and added."""
    substitutions = {}
    for words, rate in (
        (DETERMINERS, knobs.function_errors),
        (PREPOSITIONS, knobs.function_errors),
        *((pair, knobs.twin_errors) for pair in TWINS),
    ):
        for word in words:
            others = [other for other in words if other != word]
            substitutions[word] = tuple((other, rate / len(others)) for other in others)
    inserted = DETERMINERS + PREPOSITIONS
    return NoiseChannel(substitutions, knobs.deletion, knobs.insertion, inserted)


def correction_corpus(knobs: CorrectionText, seed: int) -> Corpus:
    """Splits ``train``, ``valid`` and ``test``: source is what was heard, target what was said.

    What was said depends on ``seed``, sizes and sentences per video alone.
    """
    looks = prototypes(SCENES, knobs.pictures.size, LANGUAGE_SEED)
    heard_through = build_channel(knobs)
    corpus = {}
    for number, (split, size) in enumerate(knobs.sizes.model_dump().items()):
        seeds = np.random.SeedSequence([seed, number]).generate_state(4).tolist()
        rng = np.random.default_rng(seeds[0])
        scenes = scenes_of_videos(size, SCENES, knobs.pictures.per_video, rng)
        said = draw_sentences(scenes.tolist(), rng)
        heard = misspell(heard_through.heard(said, seeds[1]), knobs.misspelt, seeds[2])
        pictures = picture_vectors(scenes, looks, knobs.pictures, seeds[3])
        corpus[split] = PicturedText(tuple(heard), said, scenes, pictures)
    return corpus


def draw_sentences(scenes: Sequence[int], rng: np.random.Generator) -> tuple[str, ...]:
    """A sentence for each scene."""
    count = len(scenes)
    classes = (DETERMINERS, ADJECTIVES, TWINS, VERBS, PREPOSITIONS, DETERMINERS)
    article, adjective, first, verb, preposition, article_2 = (
        rng.integers(len(words), size=count) for words in classes
    )
    second = (first + rng.integers(1, len(TWINS), size=count)) % len(
        TWINS
    )  # It is of another pair.
    return tuple(
        " ".join(
            (
                DETERMINERS[article[row]],
                ADJECTIVES[adjective[row]],
                TWINS[first[row]][TABLE[scene, first[row]]],
                VERBS[verb[row]],
                PREPOSITIONS[preposition[row]],
                DETERMINERS[article_2[row]],
                TWINS[second[row]][TABLE[scene, second[row]]],
            )
        )
        for row, scene in enumerate(scenes)
    )


def measure_floor_wer(text: PicturedText) -> float:
    """Word error rate of a split, in percent, when all but function words are put right.

    Raises:
        InputError: words were lost or added, so that a place does not tell what stands there.
    """
    if any(len(line.split()) != WORDS for line in text.source):
        raise InputError("deletion, insertion: the floor is known where both are 0")
    wrong = sum(
        heard.split()[place] != said.split()[place]
        for heard, said in zip(text.source, text.target, strict=True)
        for place in FUNCTION_PLACES
    )
    return 100 * wrong / (WORDS * len(text))


def misspell(lines: Iterable[str], rate: float, seed: int) -> list[str]:
    """Lines whose content words have each letter replaced by any other with chance ``rate``."""
    rng = np.random.default_rng(seed)

    def misspell_word(word: str) -> str:
        if word in FUNCTION_WORDS:
            return word
        hit = rng.random(len(word)) < rate
        steps = rng.integers(1, len(LETTERS), size=len(word))
        return "".join(
            LETTERS[(LETTERS.index(letter) + int(step)) % len(LETTERS)] if wrong else letter
            for letter, wrong, step in zip(word, hit, steps, strict=True)
        )

    return [" ".join(map(misspell_word, line.split())) for line in lines] if rate else list(lines)
