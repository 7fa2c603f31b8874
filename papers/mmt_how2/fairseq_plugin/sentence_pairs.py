"""Binarised sentence pairs: that the two languages and the dictionaries belong together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import data_utils, indexed_dataset
from numpy.typing import NDArray

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


def blocks(
    path: Path, text: Any, size: int = 100_000
) -> Iterator[tuple[int, NDArray[Any], NDArray[np.int64]]]:
    """Number of the first line, tokens and line ends (as places in them) of ``size`` lines each.

    Raises:
        InputError: the file is shorter than its index says.
    """
    ends = np.cumsum(np.asarray(text.sizes), dtype=np.int64)
    every = None
    if getattr(text, "supports_prefetch", False):
        text.prefetch(range(len(ends)))  # A "cached" text has no lines before.
    if isinstance(text, indexed_dataset.MMapIndexedDataset) and len(ends):
        # Lines one by one take 15 microseconds each, at every load.
        kind = indexed_dataset.MMapIndexedDataset.Index(indexed_dataset.index_file_path(str(path)))
        every = np.memmap(indexed_dataset.data_file_path(str(path)), kind.dtype, "r")
        if len(every) < ends[-1]:
            raise InputError(f"{path}.bin: {len(every)} tokens; its index has {ends[-1]}")
    for first in range(0, len(ends), size):
        stop = min(first + size, len(ends))
        start = ends[first - 1] if first else 0
        if every is None:
            tokens = np.concatenate([text[line].numpy() for line in range(first, stop)])
        else:
            tokens = every[start : ends[stop - 1]]
        yield first, tokens, ends[first:stop] - start


def bad_token(
    tokens: NDArray[Any], ends: NDArray[np.int64], dictionary: Any
) -> tuple[int, int] | None:
    """(line, token): the first of a block's tokens that the text cannot have; None if all are good.

    That is one which the dictionary does not have, or within a line one of fairseq's own symbols.
    """
    own = np.isin(tokens, (dictionary.bos(), dictionary.pad(), dictionary.eos()))
    own[ends - 1] = False
    places = np.flatnonzero(own | (tokens >= len(dictionary)))
    if not len(places):
        return None
    return int(np.searchsorted(ends, places[0], side="right")), int(tokens[places[0]])


def check_pair(
    prefix: Path, languages: tuple[str, str], dictionaries: tuple[Any, Any], impl: str | None
) -> int:
    """The number of pairs below ``prefix`` (source, target), once they are found in order.

    A target may be absent, as it is for text that is only to be translated.

    Raises:
        InputError: line counts differ, a line is empty, or a token is none of the dictionary's or
            a symbol of fairseq's own.
    """
    counts = {}
    for language, dictionary in zip(languages, dictionaries, strict=True):
        path = Path(f"{prefix}.{language}")
        text = data_utils.load_indexed_dataset(str(path), dictionary, impl)
        if text is None:
            continue
        counts[path] = len(text)
        empty = np.flatnonzero(np.asarray(text.sizes) <= 1)  # It has the end of sentence alone.
        if len(empty):
            raise InputError(f"{path}: line {empty[0] + 1} is empty ({len(empty)} such lines)")
        for first, tokens, ends in blocks(path, text):
            if bad := bad_token(tokens, ends, dictionary):
                line, token = first + bad[0] + 1, bad[1]
                if token >= len(dictionary):
                    raise InputError(
                        f"{path}: line {line} holds token number {token}, dict.{language}.txt has"
                        f" {len(dictionary)} types: it was made with another dictionary"
                    )
                raise InputError(
                    f"{path}: line {line} holds the word {dictionary[token]}, a symbol of"
                    " fairseq's, which would be lost; allowed: any word but <s>, <pad>, </s>"
                )
    if len(set(counts.values())) > 1:
        (short, few), (long, many) = sorted(counts.items(), key=lambda item: item[1])
        raise InputError(f"{short}: {few} lines, {long.name} has {many}: line {few + 1} is missing")
    return next(iter(counts.values()))
