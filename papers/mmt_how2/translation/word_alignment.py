"""Alignment of words with the weights of NIST's sclite.

Several alignments may have as few edits as can be, and which of them a program takes decides how
many of its errors are substitutions and which pairs are confused most often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: What sclite counts for each edit. A word lost and another added (6) are dearer than one replaced
#: (4), three replaced (12) as dear as two lost and two added.
SUBSTITUTION: Final = 4
LOST_OR_ADDED: Final = 3
Edit = tuple[str | None, str | None]


def sclite_edits(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Edit]:
    """(said, heard) of the cheapest edits, in order; None for a word that is lost or added.

    Of edits that cost the same those are taken that, from the end, keep or replace a word as long
    as they can, and then lose one.
    """
    rows = [[LOST_OR_ADDED * column for column in range(len(hypothesis) + 1)]]
    for said in reference:
        above = rows[-1]
        row = [above[0] + LOST_OR_ADDED]
        for column, heard in enumerate(hypothesis):
            replaced = above[column] + (0 if said == heard else SUBSTITUTION)
            row.append(min(replaced, LOST_OR_ADDED + min(above[column + 1], row[column])))
        rows.append(row)
    edits: list[Edit] = []
    i, j = len(reference), len(hypothesis)
    while i or j:
        cost = rows[i][j]
        same = i and j and reference[i - 1] == hypothesis[j - 1]
        if i and j and cost == rows[i - 1][j - 1] + (0 if same else SUBSTITUTION):
            i, j = i - 1, j - 1
            edits += [] if same else [(reference[i], hypothesis[j])]
        elif i and cost == rows[i - 1][j] + LOST_OR_ADDED:
            i -= 1
            edits.append((reference[i], None))
        else:
            j -= 1
            edits.append((None, hypothesis[j]))
    return edits[::-1]
