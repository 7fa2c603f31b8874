"""Text as everything here takes it: lines of words between single blanks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from common.data.files import read_text

log = logging.getLogger("mmt_how2.plain_text")
#: In front of a text it is a mark that some editors write; a word it is part of is another word.
BYTE_ORDER_MARK: Final = "\ufeff"


def single_blanks(line: str) -> str:
    """Words of a line, whatever blanks are between them, with one U+0020 between them.

    fairseq cuts at any blank; jiwer, subword-nmt and others at U+0020 alone.
    """
    return " ".join(line.split())


def read_words(path: Path) -> list[str]:
    r"""Lines of a UTF-8 file as words between single blanks; what was changed is said once.

    Only ``\n`` ends a line, with or without ``\r`` before it: a ``\r`` or U+2028 within a line is a
    blank, as it is to those who count the lines of the other language.

    Raises:
        InputError: the file is absent or no UTF-8 text.
    """
    lines = read_text(path).split("\n")
    if not lines[-1]:
        del lines[-1]
    marked = [number for number, line in enumerate(lines, 1) if line.startswith(BYTE_ORDER_MARK)]
    lines = [line.removeprefix(BYTE_ORDER_MARK) for line in lines]
    ended = [number for number, line in enumerate(lines, 1) if line.endswith("\r")]
    lines = [line.removesuffix("\r") for line in lines]
    words = [single_blanks(line) for line in lines]
    blanks = [number for number, line in enumerate(lines, 1) if line != words[number - 1]]
    changes = [
        f"{what} ({len(found)} lines, first line {found[0]})"
        for what, found in (
            ("byte-order marks removed", marked),
            (r"line ends \r\n read as \n", ended),
            ("other blanks read as single spaces", blanks),
        )
        if found
    ]
    if changes:
        log.warning("%s: %s", path, "; ".join(changes))
    return words
