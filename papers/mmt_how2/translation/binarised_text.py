"""Sentence pairs as fairseq's data folder: dictionaries and binarised text."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from common.errors import InputError
from papers.mmt_how2.translation.plain_text import read_words

#: What fairseq's dictionaries begin with, but for ``<unk>``, which as a word is what it says.
RESERVED: Final = frozenset({"<s>", "<pad>", "</s>"})


class SentencePairs(NamedTuple):
    """Lines of a split, already cut into tokens by blanks; line i of both belong together."""

    source: Sequence[str]
    target: Sequence[str]


def read_pairs(source: Path, target: Path) -> SentencePairs:
    """The lines of two files, as :func:`~.plain_text.read_words` reads them.

    Raises:
        InputError: a file is absent or no UTF-8 text, their line counts differ, or a line is empty
            or holds a symbol of fairseq's.
    """
    pairs = SentencePairs(read_words(source), read_words(target))
    check_pairs(pairs, str(source), str(target))
    return pairs


def check_pairs(pairs: SentencePairs, source: str, target: str) -> None:
    """Raises InputError, naming file and line, unless all lines have words and a counterpart.

    Words that fairseq takes for its own symbols are refused, as they would be lost.
    """
    if not pairs.source or len(pairs.source) != len(pairs.target):
        raise InputError(
            f"{source}: {len(pairs.source)} lines, {target} has {len(pairs.target)}: line"
            f" {min(len(pairs.source), len(pairs.target)) + 1} is missing"
        )
    for name, lines in ((source, pairs.source), (target, pairs.target)):
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                raise InputError(f"{name}: line {number} is empty")
            for symbol in RESERVED.intersection(words):
                raise InputError(
                    f"{name}: line {number} holds the word {symbol}, a symbol of fairseq's;"
                    f" allowed: any word but {', '.join(sorted(RESERVED))}"
                )


def binarise(
    splits: Mapping[str, SentencePairs],
    folder: Path,
    source: str = "src",
    target: str = "tgt",
    min_count: int = 1,
    joined: bool = False,
) -> Path:
    """Write what ``fairseq-preprocess`` would write, and return ``folder``.

    The folder is there whole or not at all: several runs may share it.

    Args:
        splits: ``train``, ``valid`` and so on; dictionaries are those of ``train``.
        folder: replaced if it is there.
        source, target: language codes in the names of files.
        min_count: rarer words become unknown.
        joined: one dictionary for both sides.

    Raises:
        InputError: no ``train``, or line counts differ, or a line is empty.
    """
    from papers.mmt_how2.translation.fairseq_start import start_fairseq

    start_fairseq()
    if "train" not in splits:
        raise InputError(f"splits {sorted(splits)}: no 'train', whose words make the dictionary")
    for name, pairs in splits.items():
        check_pairs(pairs, f"{name}.{source}", f"{name}.{target}")
    train = splits["train"]
    sides = [[*train.source, *train.target]] * 2 if joined else [train.source, train.target]
    dictionaries = [build_dictionary(lines, min_count) for lines in sides]
    writing = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    for language, dictionary in zip((source, target), dictionaries, strict=True):
        dictionary.save(str(writing / f"dict.{language}.txt"))
    for name, pairs in splits.items():
        for language, dictionary, lines in zip((source, target), dictionaries, pairs, strict=True):
            write_binary(writing / f"{name}.{source}-{target}.{language}", dictionary, lines)
    shutil.rmtree(folder, ignore_errors=True)
    writing.replace(folder)
    return folder


def build_dictionary(lines: Sequence[str], min_count: int) -> Any:
    """fairseq's dictionary of the words in ``lines``, the frequent ones first."""
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    counts = Counter(word for line in lines for word in line.split())
    counts[dictionary.eos_word] += len(lines)
    for word, count in sorted(counts.items()):
        dictionary.add_symbol(word, count)
    dictionary.finalize(threshold=min_count)
    return dictionary


def write_binary(prefix: Path, dictionary: Any, lines: Sequence[str]) -> None:
    """Write ``prefix.bin`` and ``prefix.idx``."""
    import torch
    from fairseq.data import indexed_dataset

    builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary))
    for line in lines:
        # fairseq's own encode_line sets one number of a tensor after the other.
        numbers = [*map(dictionary.index, line.split()), dictionary.eos()]
        builder.add_item(torch.tensor(numbers, dtype=torch.int32))
    builder.finalize(f"{prefix}.idx")
