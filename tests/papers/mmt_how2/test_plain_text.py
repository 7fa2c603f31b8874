"""Text from files: what a line is, what a word is, and that every change is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from papers.mmt_how2.translation.binarised_text import SentencePairs, binarise, read_pairs
from papers.mmt_how2.translation.plain_text import read_words


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_lines_end_at_line_feeds_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = written(tmp_path / "en", "a b\rc\nd\u2028e\x85f\x0cg\nh")
    plain = written(tmp_path / "pt", "one\ntwo\nthree\n")
    assert read_pairs(odd, plain) == SentencePairs(
        ["a b c", "d e f g", "h"], ["one", "two", "three"]
    )
    (record,) = caplog.records
    assert record.message == (f"{odd}: other blanks read as single spaces (2 lines, first line 1)")


def test_marks_and_line_ends_of_other_systems_are_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "en", "\ufeffthe dog\r\n  the\tcat \r\n\ufeffa pike\r\n")
    assert read_words(path) == ["the dog", "the cat", "a pike"]
    (record,) = caplog.records
    assert record.message == (
        f"{path}: byte-order marks removed (2 lines, first line 1); line ends \\r\\n read as \\n"
        " (3 lines, first line 1); other blanks read as single spaces (1 lines, first line 2)"
    )


def test_of_plain_text_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_words(written(tmp_path / "en", "a b\n\nc")) == ["a b", "", "c"]
    assert not caplog.records
    (tmp_path / "en").write_bytes(b"\xff\xfea\x00")
    with pytest.raises(InputError, match="en: cannot be read"):
        read_words(tmp_path / "en")


@pytest.mark.parametrize("symbol", ["<s>", "<pad>", "</s>"])
def test_words_that_fairseq_would_lose_are_refused(tmp_path: Path, symbol: str) -> None:
    good, bad = (
        written(tmp_path / name, f"a\nb {word} c\n") for name, word in (("en", "x"), ("pt", symbol))
    )
    with pytest.raises(InputError, match=f"^{bad}: line 2 holds the word {symbol}, a symbol"):
        read_pairs(good, bad)
    pairs = SentencePairs(["a", f"b {symbol}"], ["x", "y"])
    with pytest.raises(InputError, match=rf"^train\.src: line 2 holds the word {symbol}"):
        binarise({"train": pairs}, tmp_path / "data")


def test_a_word_with_the_name_of_the_unknown_word_stays(tmp_path: Path) -> None:
    text = written(tmp_path / "en", "a <unk> b\n")
    assert read_pairs(text, text).source == ["a <unk> b"]
