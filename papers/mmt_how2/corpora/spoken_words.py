"""Text as it is spoken: lower-case words without punctuation, in any language."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: Stands for a line without words, which fairseq's text does not take and no set may lose. One
#: character, so that it is one token whatever the units are.
NOTHING: Final = "∅"
#: Between the letters of a word: the apostrophe, and the joiners that choose a letter's form.
_WITHIN: Final = "'\u200c\u200d"


class _Punctuation(dict[int, str]):
    """For ``str.translate``: what is no part of a word is a blank; the rest stays."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        marks_one = unicodedata.category(letter).startswith("M")
        kept = letter.isalnum() or marks_one or letter in _WITHIN
        return self.setdefault(code, letter if kept else " ")


_PUNCTUATION: Final = _Punctuation({ord("’"): "'", ord("\u00ad"): ""})  # A soft hyphen is not seen.


def normalise_transcript(line: str) -> str:
    """Lower-case words of letters, digits and apostrophes within them; empty if there are none.

    Combining marks belong to their letter, and are composed with it where Unicode can (NFC), so
    that one word is not two by how its accents are stored.
    """
    plain = unicodedata.normalize("NFC", line.lower()).translate(_PUNCTUATION)
    return " ".join(re.findall(r"[^\W_][^\s']*(?:'[^\W_][^\s']*)*", plain))
