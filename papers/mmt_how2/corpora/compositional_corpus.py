"""A small language whose ambiguous words only the scene settles, and which says so or does not.

An English sentence has eight words, its translation seven::

    scene2 the a1 n3 v0 x4 near x1   ->   o N3 A1o V0 X4.1 perto X1.0

Article and adjective agree with the noun and the adjective moves behind it: that is in the text.
Each of the x words has two senses; which one is meant depends on the scene and on nothing else. The
first word names the scene, or is ``[v]``, which names none; and a picture shows the scene, or does
not. So what the best possible model reaches is known without training one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings
from papers.mmt_how2.corpora.picture_vectors import (
    Pictures,
    Scenes,
    nearest_scene,
    picture_vectors,
    prototypes,
    scenes_of_videos,
)
from papers.mmt_how2.corpora.pictured_text import Corpus, PicturedText, Sizes

#: The language and what its scenes look like are the same in every corpus.
LANGUAGE_SEED: Final = 0
SCENES: Final = 4
NOUNS: Final = 8
ADJECTIVES: Final = 4
VERBS: Final = 4
AMBIGUOUS: Final = 6
MASK: Final = "[v]"
#: Places of the ambiguous words in a sentence of either language.
SOURCE_PLACES: Final = (5, 7)
TARGET_PLACES: Final = (4, 6)


class CompositionalText(Settings):
    """Knobs of a corpus."""

    cue: float = Field(1.0, ge=0, le=1, description="chance that the first word names the scene")
    sizes: Sizes = Sizes()
    pictures: Pictures = Pictures()


def balanced_table(rng: np.random.Generator, scenes: int, words: int) -> npt.NDArray[np.int64]:
    """One of two forms for each scene and word, (scenes, words): each in half of the scenes.

    Words differ in the half where they have the second form as long as there are halves enough, so
    no two scenes are alike.
    """
    halves = list(combinations(range(scenes), scenes // 2))
    if scenes % 2 or words > len(halves):
        raise InputError(
            f"{scenes} scenes for {words} words; needed an even number of scenes with at least"
            f" {words} halves"
        )
    table = np.zeros((scenes, words), dtype=np.int64)
    for word, half in enumerate(rng.permutation(len(halves))[:words]):
        table[list(halves[half]), word] = 1
    return table


@dataclass(frozen=True)
class Language:
    """What is drawn once.

    Attributes:
        genders (NOUNS,): 0 or 1, as many of each.
        senses (SCENES, AMBIGUOUS): 0 or 1, each in half of the scenes of a word.
    """

    genders: npt.NDArray[np.int64]
    senses: npt.NDArray[np.int64]

    @classmethod
    def drawn(cls, seed: int) -> Language:
        """The language of a seed."""
        rng = np.random.default_rng(seed)
        genders = rng.permutation(np.arange(NOUNS) % 2)
        return cls(genders, balanced_table(rng, SCENES, AMBIGUOUS))

    def translation(self, words: Sequence[str], senses: Sequence[int]) -> str:
        """Translation of the English ``words`` with these senses of its two ambiguous words."""
        _, _, adjective, noun, verb, first, _, second = words
        gender = "oa"[self.genders[int(noun[1:])]]
        return " ".join(
            (
                gender,
                noun.upper(),
                f"{adjective.upper()}{gender}",
                verb.upper(),
                f"{first.upper()}.{senses[0]}",
                "perto",
                f"{second.upper()}.{senses[1]}",
            )
        )

    def look_up_senses(self, words: Sequence[str], scene: int) -> list[int]:
        """Senses of the two ambiguous words of an English sentence in a scene."""
        return [int(self.senses[scene, int(words[place][1:])]) for place in SOURCE_PLACES]


LANGUAGE: Final = Language.drawn(LANGUAGE_SEED)


def looks_of_scenes(pictures: Pictures) -> npt.NDArray[np.float64]:
    """Prototypes of the language's scenes, (SCENES, size)."""
    return prototypes(SCENES, pictures.size, LANGUAGE_SEED)


def compositional_corpus(knobs: CompositionalText, seed: int) -> Corpus:
    """Splits ``train``, ``valid`` and ``test`` with fresh sentences, English to its translation.

    Sentences and scenes depend on ``seed``, sizes and sentences per video alone: corpora that
    differ in the cue have the same translations, and those that differ in the pictures the same
    text.
    """
    looks = looks_of_scenes(knobs.pictures)
    corpus = {}
    for number, (split, size) in enumerate(knobs.sizes.model_dump().items()):
        text_seed, picture_seed = np.random.SeedSequence([seed, number]).generate_state(2)
        rng = np.random.default_rng(text_seed)
        scenes = scenes_of_videos(size, SCENES, knobs.pictures.per_video, rng)
        source, target = draw_sentence_pairs(scenes, knobs.cue, rng)
        pictures = picture_vectors(scenes, looks, knobs.pictures, int(picture_seed))
        corpus[split] = PicturedText(source, target, scenes, pictures)
    return corpus


def draw_sentence_pairs(
    scenes: Scenes, cue: float, rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """English sentences about ``scenes`` and their translations."""
    count = len(scenes)
    named = rng.random(count) < cue
    drawn = (rng.integers(kinds, size=count) for kinds in (ADJECTIVES, NOUNS, VERBS, AMBIGUOUS))
    adjectives, nouns, verbs, first = drawn
    second = (first + rng.integers(1, AMBIGUOUS, size=count)) % AMBIGUOUS  # It is another word.
    source, target = [], []
    for row, scene in enumerate(scenes.tolist()):
        words = [
            f"scene{scene}" if named[row] else MASK,
            *("the", f"a{adjectives[row]}", f"n{nouns[row]}", f"v{verbs[row]}"),
            *(f"x{first[row]}", "near", f"x{second[row]}"),
        ]
        source.append(" ".join(words))
        target.append(LANGUAGE.translation(words, LANGUAGE.look_up_senses(words, scene)))
    return tuple(source), tuple(target)


def reversed_direction(corpus: Corpus) -> Corpus:
    """Translation to English: all senses are visible in the source, so no picture is needed.

    The cue is dropped: it is no word of the sentence, and nothing in the source would tell it.
    """
    return {
        split: PicturedText(
            text.target,
            tuple(line.split(" ", 1)[1] for line in text.source),
            text.scenes,
            text.pictures,
        )
        for split, text in corpus.items()
    }


def best_accuracy(cue: float, quality: float, sees_picture: bool) -> float:
    """Expected share of senses that the best possible model gets right.

    A picture of another scene shows the right sense by chance, as each sense has half of the
    scenes: q + (1 - q) / 2. Noise is taken not to hide the scene.
    """
    without_cue = (1 + quality) / 2 if sees_picture else 1 / 2
    return cue + (1 - cue) * without_cue


def ideal_translations(text: PicturedText, pictures: Pictures, sees_picture: bool) -> list[str]:
    """What a reader who knows the language makes of English sentences.

    It reads the scene off the cue, else off the picture if it sees one, else takes first senses.
    """
    seen = nearest_scene(text.pictures, looks_of_scenes(pictures)).tolist()
    found = []
    for line, shown in zip(text.source, seen, strict=True):
        words = line.split(" ")
        if words[0] != MASK:
            senses = LANGUAGE.look_up_senses(words, int(words[0].removeprefix("scene")))
        else:
            senses = LANGUAGE.look_up_senses(words, shown) if sees_picture else [0, 0]
        found.append(LANGUAGE.translation(words, senses))
    return found


def sense_accuracy(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Share of the references' ambiguous words that stand in their places in the hypotheses.

    Raises:
        InputError: not one hypothesis for each reference, or none at all.
    """
    if not references or len(hypotheses) != len(references):
        raise InputError(
            f"{len(hypotheses)} hypotheses for {len(references)} references; one for each is needed"
        )
    right = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        found, wanted = hypothesis.split(" "), reference.split(" ")
        right += sum(found[place : place + 1] == [wanted[place]] for place in TARGET_PLACES)
    return right / (len(TARGET_PLACES) * len(references))
