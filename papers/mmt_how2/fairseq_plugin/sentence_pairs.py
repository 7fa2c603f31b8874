"""Binarised sentence pairs: that the two languages and the dictionaries belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import data_utils, indexed_dataset

from common.errors import InputError


def pair_prefix(data: Path, split: str, source: str, target: str, impl: str | None) -> Path:
    """``data/split.xx-yy``, in whichever order of the languages it was binarised.

    Raises:
        InputError: there is none.
    """
    for pair in (f"{source}-{target}", f"{target}-{source}"):
        prefix = data / f"{split}.{pair}"
        if indexed_dataset.dataset_exists(f"{prefix}.{source}", impl=impl):
            return prefix
    found = sorted({path.name.split(".")[0] for path in data.glob("*.*-*.*")})
    raise InputError(f"{data}/{split}.{source}-{target}.{source}: no such text; splits: {found}")


def check_pair(
    prefix: Path, languages: tuple[str, str], dictionaries: tuple[Any, Any], impl: str | None
) -> int:
    """The number of pairs below ``prefix`` (source, target), once they are found in order.

    A target may be absent, as it is for text that is only to be translated.

    Raises:
        InputError: line counts differ, a line is empty, or a token is none of the dictionary's.
    """
    counts = {}
    for language, dictionary in zip(languages, dictionaries, strict=True):
        path = Path(f"{prefix}.{language}")
        text = data_utils.load_indexed_dataset(str(path), dictionary, impl)
        if text is None:
            continue
        counts[path] = len(text)
        empty = np.flatnonzero(np.asarray(text.sizes) <= 1)  # the end of sentence alone
        if len(empty):
            raise InputError(f"{path}: line {empty[0] + 1} is empty ({len(empty)} such lines)")
        for line in range(len(text)):
            most = int(text[line].max())
            if most >= len(dictionary):
                raise InputError(
                    f"{path}: line {line + 1} holds token number {most}, dict.{language}.txt has"
                    f" {len(dictionary)} types: it was made with another dictionary"
                )
    if len(set(counts.values())) > 1:
        (short, few), (long, many) = sorted(counts.items(), key=lambda item: item[1])
        raise InputError(f"{short}: {few} lines, {long.name} has {many}: line {few + 1} is missing")
    return next(iter(counts.values()))
