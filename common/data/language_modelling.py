"""Streams of tokens for language models, and the vocabulary that turns them into numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from common.data.files import frozen, read_lines, read_text
from common.data.registry import find
from common.errors import InputError

SPLITS: Final = ("train", "valid", "test")
END_OF_LINE: Final = "<eos>"
UNKNOWN: Final = "<unk>"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens numbered by their place in ``tokens``."""

    tokens: tuple[str, ...]

    @classmethod
    def of(cls, stream: Iterable[str]) -> Vocabulary:
        """The distinct tokens of ``stream``, most frequent first, ties in alphabetical order."""
        counts = Counter(stream)
        return cls(tuple(sorted(counts, key=lambda token: (-counts[token], token))))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Number of each token."""
        return {token: index for index, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, stream: Iterable[str]) -> npt.NDArray[np.int64]:
        """Numbers (n,) of the tokens; one that is not known counts as ``<unk>``.

        Raises: InputError for such a token if the vocabulary has no ``<unk>``.
        """
        unknown = self.ids.get(UNKNOWN)
        if unknown is None:
            try:
                numbers = [self.ids[token] for token in stream]
            except KeyError as error:
                raise InputError(
                    f"token {error} is not in the vocabulary of {len(self)}, which has no {UNKNOWN}"
                ) from None
        else:
            numbers = [self.ids.get(token, unknown) for token in stream]
        return frozen(np.array(numbers, dtype=np.int64))

    def decode(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> tuple[str, ...]:
        """Tokens of ``numbers``."""
        return tuple(self.tokens[number] for number in numbers)


def ptb(split: str = "train", root: Path | None = None) -> tuple[str, ...]:
    """Words of a Penn Treebank split with ``<eos>`` after each sentence: 929,589, 73,760 or 82,430.

    Raises: InputError for an unknown split or a file that is absent or malformed.
    Source: Marcus et al. 1993, split and 10,000 types of Mikolov et al. 2010.
    """
    _check_split("Penn Treebank", split, SPLITS)
    plain = find("ptb", root) / f"ptb.{split}.txt"
    return _words(plain if plain.exists() else plain.with_suffix(".txt.gz"))


def wikitext2(split: str = "valid", root: Path | None = None) -> tuple[str, ...]:
    """Words of a WikiText-2 split with ``<eos>`` after each line: valid 217,646, test 245,569.

    Rare words are ``<unk>``; :func:`wikitext2_raw` has them all, and the training split.

    Raises: InputError for another split or a file that is absent or malformed.
    Source: Merity, Xiong, Bradbury, Socher 2016.
    """
    _check_split("WikiText-2", split, SPLITS[1:])
    return _words(find("wikitext2_valid_test", root) / f"wiki.{split}.tokens")


def wikitext2_raw(split: str = "train", root: Path | None = None) -> tuple[str, ...]:
    r"""Lines of a split of raw WikiText-2 with their ``\n``: 36,718, 3,760 or 4,358.

    A line of spaces alone is "", as in the Hugging Face data set that language models are
    fine-tuned on.

    Raises: InputError for an unknown split or a file that is absent or malformed.
    Source: Merity, Xiong, Bradbury, Socher 2016.
    """
    _check_split("WikiText-2", split, SPLITS)
    lines = read_lines(find("wikitext2_raw", root) / f"wiki.{split}.raw")
    return tuple(f"{line}\n" if line.strip() else "" for line in lines)


def tinyshakespeare(split: str = "train", root: Path | None = None) -> str:
    """Characters of the plays: the first 90 % are ``train`` (1,003,854), the rest ``valid``.

    Raises: InputError for another split or a file that is absent or malformed.
    Source: Karpathy 2015 (char-rnn).
    """
    _check_split("tiny-shakespeare", split, SPLITS[:2])
    text = read_text(find("tinyshakespeare", root) / "input.txt")
    cut = len(text) * 9 // 10
    return text[:cut] if split == "train" else text[cut:]


def _words(path: Path) -> tuple[str, ...]:
    text = read_text(path)
    if not text.endswith("\n"):
        raise InputError(f"{path}: ends with {text[-20:]!r}; expected whole lines")
    return tuple(text.replace("\n", f" {END_OF_LINE} ").split())


def _check_split(name: str, split: str, allowed: tuple[str, ...]) -> None:
    if split not in allowed:
        raise InputError(f"{name}: no split {split!r}; allowed: {', '.join(allowed)}")
