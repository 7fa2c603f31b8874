"""Binarised text: every fault is found, in whichever of fairseq's formats and block it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from papers.mmt_how2.translation.fairseq_start import start_fairseq

LANGUAGES = ("en", "pt")
#: As fairseq-preprocess --dataset-impl has them; "cached" writes what "lazy" reads, too.
FORMATS = ["mmap", "cached", "lazy"]


def dictionary() -> Any:
    start_fairseq()
    from fairseq.data import Dictionary

    found = Dictionary()
    for word in "abcdefgh":
        found.add_symbol(word)
    return found


def written(folder: Path, lines: list[str], impl: str, changed: dict[int, list[int]]) -> Path:
    """A pair of which the target is ``lines``; some of its lines are given as numbers."""
    from fairseq.data import indexed_dataset

    words = dictionary()
    for language in LANGUAGES:
        path = folder / f"train.en-pt.{language}"
        builder = indexed_dataset.make_builder(f"{path}.bin", impl, vocab_size=len(words))
        for number, line in enumerate(lines):
            tokens = words.encode_line(line, add_if_not_exist=False)
            if language == "pt" and number in changed:
                tokens = torch.tensor(changed[number], dtype=torch.int32)
            builder.add_item(tokens)
        builder.finalize(f"{path}.idx")
    return folder / "train.en-pt"


def checked(prefix: Path, impl: str) -> int:
    from papers.mmt_how2.fairseq_plugin.sentence_pairs import check_pair

    return check_pair(prefix, LANGUAGES, (dictionary(), dictionary()), impl)


def random_lines(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(list("abcdefgh"), size=rng.integers(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("impl", FORMATS)
def test_each_fault_is_named_with_its_line(tmp_path: Path, impl: str) -> None:
    lines = random_lines(50)
    assert checked(written(tmp_path, lines, impl, {}), impl) == 50
    for tokens, fault in (
        ([5, 2, 6, 2], "holds the word </s>, a symbol of fairseq's, which would be lost"),
        ([2, 5, 2], "holds the word </s>"),
        ([5, 0, 2], "holds the word <s>"),
        ([1, 5, 2], "holds the word <pad>"),
        ([5, 12, 2], "holds token number 12, dict.pt.txt has 12 types: it was made with another"),
        ([5, 99], "holds token number 99"),
    ):
        for line in (0, 29, 49):
            prefix = written(tmp_path, lines, impl, {line: tokens})
            with pytest.raises(InputError, match=rf"^{prefix}\.pt: line {line + 1} {fault}"):
                checked(prefix, impl)


def test_lines_are_counted_through_all_blocks(tmp_path: Path) -> None:
    from papers.mmt_how2.fairseq_plugin.sentence_pairs import bad_token, blocks

    lines = random_lines(101)
    path = Path(f"{written(tmp_path, lines, 'mmap', {67: [5, 0, 5, 2]})}.pt")
    from fairseq.data import data_utils

    text = data_utils.load_indexed_dataset(str(path), dictionary(), "mmap")
    for size in (1, 2, 7, 100, 101, 1000):
        found, seen = [], 0
        for first, tokens, ends in blocks(path, text, size):
            for line, stop in enumerate(ends):
                start = ends[line - 1] if line else 0
                np.testing.assert_array_equal(tokens[start:stop], text[first + line].numpy())
            seen += len(ends)
            if bad := bad_token(tokens, ends, dictionary()):
                found.append((first + bad[0], bad[1]))
        assert (found, seen) == ([(67, 0)], 101)


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    prefix = written(tmp_path, random_lines(20), "mmap", {})
    path = Path(f"{prefix}.pt.bin")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=rf"^{path}: \d+ tokens; its index has \d+"):
        checked(prefix, "mmap")


def test_words_that_are_unknown_stay(tmp_path: Path) -> None:
    assert checked(written(tmp_path, ["a <unk> zebra", "b"], "mmap", {}), "mmap") == 2
