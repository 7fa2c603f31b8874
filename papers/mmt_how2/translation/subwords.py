"""Units of text: words, characters, byte pairs by subword-nmt, and SentencePiece.

All cut lines of words into lines of units, separated by blanks, and put them together again, so
that everything else works on tokens separated by blanks.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, Protocol

from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings
from papers.mmt_how2.translation.plain_text import single_blanks

log = logging.getLogger("mmt_how2.subwords")
#: Stands for the blank between words where each character is a token.
WORD_BOUNDARY: Final = "▁"


class Units(Settings):
    """What one token of a side of a corpus is."""

    unit: Literal["words", "characters", "byte_pairs", "sentence_pieces"] = "words"
    size: int = Field(
        10_000, gt=0, description="merges of byte pairs, types of SentencePiece (published: 5,000)"
    )

    def learned(self, lines: Sequence[str]) -> Subwords:
        """The cut into these units, learned from ``lines``.

        Raises:
            InputError: no text, or too little for so many units.
        """
        if self.unit == "byte_pairs":
            return BytePairs(lines, self.size)
        if self.unit == "sentence_pieces":
            return SentencePieces(lines, self.size)
        return Characters() if self.unit == "characters" else Words()


class Subwords(Protocol):
    """A cut of words into units."""

    def cut(self, line: str) -> str:
        """Units of a line of words."""
        ...

    def join(self, line: str) -> str:
        """The words of a line of units."""
        ...


class BytePairs:
    """subword-nmt's byte-pair encoding (Sennrich et al. 2016), continued units marked ``@@``.

    Args:
        lines: text to learn from.
        merges: number of merges.

    Raises:
        InputError: no text.
    """

    def __init__(self, lines: Sequence[str], merges: int) -> None:
        from subword_nmt.apply_bpe import BPE
        from subword_nmt.learn_bpe import learn_bpe

        if not any(line.split() for line in lines):
            raise InputError("byte-pair encoding: no text to learn from")
        codes = io.StringIO()
        learn_bpe(io.StringIO("".join(f"{single_blanks(line)}\n" for line in lines)), codes, merges)
        codes.seek(0)
        self._bpe: Any = BPE(codes)

    def cut(self, line: str) -> str:
        """Units of a line of words."""
        return str(self._bpe.process_line(single_blanks(line)))

    def join(self, line: str) -> str:
        """The words of a line of units."""
        return f"{line} ".replace("@@ ", "").rstrip()


class SentencePieces:
    """SentencePiece's unigram model (Kudo 2018); a unit that begins a word is marked ``▁``.

    Args:
        lines: text to learn from.
        types: number of units.

    Raises:
        InputError: the text does not allow so many.
    """

    def __init__(self, lines: Iterable[str], types: int) -> None:
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                vocab_size=types,
                character_coverage=1.0,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"SentencePiece with {types} types: {reason}") from None
        self._model = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def cut(self, line: str) -> str:
        """Units of a line of words."""
        return " ".join(self._model.encode(line, out_type=str))

    def join(self, line: str) -> str:
        """The words of a line of units."""
        return str(self._model.decode(line.split()))


class Words:
    """A unit is a word."""

    def cut(self, line: str) -> str:
        """The line's words."""
        return single_blanks(line)

    def join(self, line: str) -> str:
        """The line as it is."""
        return line


class Characters:
    """A unit is a character, the blank between words too: the ASR corrector's input."""

    def cut(self, line: str) -> str:
        """``a b ▁ c`` for ``ab c``."""
        return " ".join(WORD_BOUNDARY.join(line.split()))

    def join(self, line: str) -> str:
        """The words of a line of characters."""
        return line.replace(" ", "").replace(WORD_BOUNDARY, " ")


def cut_lines(units: Subwords, lines: Sequence[str], name: str) -> list[str]:
    """Units of each line, from which its words come back.

    SentencePiece normalises characters (NFKC); how many lines that changes is said.

    Raises:
        InputError: words do not come back, since they hold a unit's own mark, naming the line.
    """
    cut = [units.cut(line) for line in lines]
    changed = [
        (number, line, back)
        for number, (line, back) in enumerate(zip(lines, map(units.join, cut), strict=True), 1)
        if back != single_blanks(line)
    ]
    if not changed:
        return cut
    number, line, back = changed[0]
    first = f"line {number}, {line!r}, comes back from its units as {back!r}"
    if not isinstance(units, SentencePieces):
        raise InputError(
            f"{name}: {first}; allowed: text without the units' marks, @@ and {WORD_BOUNDARY}"
        )
    log.warning("%s: %d lines are normalised by SentencePiece; %s", name, len(changed), first)
    return cut
