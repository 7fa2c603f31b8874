"""Words of a corpus as a reader sees them: made-up ones for the generated corpus, else its own.

A made-up word begins with the syllable of its topic, so that a topic is told at a glance; words
that all topics share begin with a vowel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from common.data.language_modelling import Vocabulary, ptb
from papers.logra.tasks.corpora import CorpusSettings

_CONSONANTS: Final = "bdfgklmnprstvz"
_VOWELS: Final = "aeiou"
_SYLLABLES: Final = len(_CONSONANTS) * len(_VOWELS)


def read_words(settings: CorpusSettings) -> tuple[str, ...]:
    """The word of each token of a corpus. Raises InputError if its files are absent."""
    if settings.name == "generated":
        return made_up(settings.topics, settings.private_words, settings.shared_words)
    return Vocabulary.of(ptb("train", Path(settings.root) if settings.root else None)).tokens


def topic_name(topic: int, topics: int) -> str:
    """What its words begin with."""
    return _syllables(topic, topics)


def made_up(topics: int, private: int, shared: int) -> tuple[str, ...]:
    """Different words: ``private`` ones of each topic in turn, then ``shared`` ones."""
    own = [
        topic_name(topic, topics) + _syllables(word, private)
        for topic in range(topics)
        for word in range(private)
    ]
    return (*own, *(_syllables(word, shared)[::-1] for word in range(shared)))


def _syllables(number: int, count: int) -> str:
    """A number below ``count``, each of its digits a syllable, as many as the largest one has."""
    digits = [number % _SYLLABLES]
    while (count := -(-count // _SYLLABLES)) > 1:
        number //= _SYLLABLES
        digits.insert(0, number % _SYLLABLES)
    return "".join(map(_syllable, digits))


def _syllable(digit: int) -> str:
    # Neighbours differ in both letters; after all consonants, vowels are shifted by one.
    turn, consonant = divmod(digit, len(_CONSONANTS))
    return _CONSONANTS[consonant] + _VOWELS[(consonant + turn) % len(_VOWELS)]
