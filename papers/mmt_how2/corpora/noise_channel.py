"""Recognition errors without a recogniser: words heard as other words, left out or put in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import InputError

#: A word and the chance that it is heard.
Heard = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class NoiseChannel:
    """What is heard when a word is said, word by word.

    Attributes:
        substitutions: for a word, others with the chance of each; the rest is that it stays.
        deletion: chance that a word is left out instead.
        insertion: chance that a word is put in before one, as likely any of ``inserted``.
    """

    substitutions: Mapping[str, Heard]
    deletion: float = 0.0
    insertion: float = 0.0
    inserted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word, others in self.substitutions.items():
            total = sum(chance for _, chance in others) + self.deletion
            if total > 1 + 1e-9 or any(chance < 0 for _, chance in others):
                raise InputError(
                    f"noise channel: {word!r} is replaced or left out with chance {total:g};"
                    " allowed: chances of at least 0, 1 together"
                )
        if self.insertion and not self.inserted:
            raise InputError(f"insertion {self.insertion}: no words to put in")

    def heard(self, lines: Iterable[str], seed: int) -> list[str]:
        """What is heard of each line; a line is never left without words."""
        rng = np.random.default_rng(seed)
        return [" ".join(self._heard(line.split(), rng)) for line in lines]

    def _heard(self, words: Sequence[str], rng: np.random.Generator) -> list[str]:
        found = []
        added = rng.random(len(words)) < self.insertion
        for word, draw, extra in zip(words, rng.random(len(words)), added, strict=True):
            if extra:
                found.append(self.inserted[int(rng.integers(len(self.inserted)))])
            if draw < self.deletion:
                continue
            found.append(self._replaced(word, float(draw) - self.deletion))
        return found or list(words)

    def _replaced(self, word: str, draw: float) -> str:
        for other, chance in self.substitutions.get(word, ()):
            if draw < chance:
                return other
            draw -= chance
        return word


def confusions(
    pairs: Mapping[tuple[str, str], int], references: Iterable[str], among: Collection[str]
) -> NoiseChannel:
    """The channel that replaces as often as a recogniser did.

    Args:
        pairs: how often a word that was said was heard as which, as
            :func:`papers.mmt_how2.translation.scoring.word_errors` counts.
        references: what was said.
        among: only these words are replaced, and only by these.
    """
    said = Counter(word for line in references for word in line.split())
    substitutions: dict[str, list[tuple[str, float]]] = {}
    for (word, other), count in sorted(pairs.items()):
        if word in among and other in among:
            substitutions.setdefault(word, []).append((other, count / said[word]))
    return NoiseChannel({word: tuple(others) for word, others in substitutions.items()})
