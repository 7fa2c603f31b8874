"""Text as it is spoken: lower-case words without punctuation, in any language."""

from __future__ import annotations

import re
from typing import Final

#: Stands for a line without words, which fairseq's text does not take and no set may lose. One
#: character, so that it is one token whatever the units are.
NOTHING: Final = "∅"


def spoken(line: str) -> str:
    """Lower-case words of letters, digits and apostrophes within them; empty if there are none."""
    return " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", line.lower().replace("’", "'")))
