"""Text loaders give what each set is known to hold; a malformed file is one line that names it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.files import read_json
from common.data.language_modelling import (
    Vocabulary,
    ptb,
    tinyshakespeare,
    wikitext2,
    wikitext2_raw,
)
from common.data.registry import find
from common.data.text_classification import agnews_test, sst2, trec6
from common.data.tokenizers import bert_word_pieces, gpt2_byte_pairs
from common.data.wrench import wrench
from common.errors import InputError
from tests.common.data.real_data import skip_without


def counts(labels: Any) -> list[int]:
    return np.bincount(labels).tolist()


@pytest.mark.parametrize(
    ("name", "sizes", "functions", "classes"),
    [
        ("trec", (5033, 500, 500), 68, 6),
        ("semeval", (1749, 178, 600), 164, 9),
        ("sms", (4571, 500, 500), 73, 2),
        ("youtube", (1686, 120, 250), 10, 2),
    ],
)
def test_wrench_sets_have_the_published_sizes(
    data_root: Path, name: str, sizes: tuple[int, ...], functions: int, classes: int
) -> None:
    skip_without("wrench", data_root)
    splits = [wrench(name, split, data_root) for split in ("train", "valid", "test")]
    assert tuple(map(len, splits)) == sizes
    for size, split in zip(sizes, splits, strict=True):
        assert split.weak_labels.shape == (size, functions)
        assert split.weak_labels.min() == -1
        assert len(split.class_names) == classes
    voted = splits[0].weak_labels != -1
    right = splits[0].weak_labels == splits[0].labels[:, None]
    assert np.mean(right[voted]) > 1 / classes  # votes know more than chance


def test_wrench_train_labels_and_labelled_rows_are_as_counted(data_root: Path) -> None:
    skip_without("wrench", data_root)
    trec, youtube = (wrench(name, "train", data_root) for name in ("trec", "youtube"))
    assert counts(trec.labels) == [1060, 1165, 1125, 81, 762, 840]
    assert counts(youtube.labels) == [801, 885]
    # the published sizes of the training splits leave the labelled rows out
    assert len(trec) - len(trec.labelled) == 4965
    assert len(youtube) - len(youtube.labelled) == 1586
    assert trec.labelled.tolist() == list(range(4965, 5033))


def test_spans_are_the_entities_of_the_file(data_root: Path) -> None:
    skip_without("wrench", data_root)
    semeval = wrench("semeval", "test", data_root)
    rows = read_json(find("wrench", data_root) / "semeval" / "test.json").values()
    for text, (first, second), row in zip(semeval.texts, semeval.spans, rows, strict=True):
        assert text[slice(*first)] == row["data"]["entity1"]
        assert text[slice(*second)] == row["data"]["entity2"]


def test_trec_test_leaks_its_fine_class_as_released_and_not_by_default(data_root: Path) -> None:
    skip_without("wrench", data_root)
    skip_without("trec6", data_root)
    plain = trec6(train=False, fine=True, root=data_root)
    fine = [plain.class_names[label].partition(":")[2] for label in plain.labels]
    leaking = wrench("trec", "test", data_root, repair_leak=False).texts
    assert [text.split()[0] for text in leaking] == fine
    repaired = wrench("trec", "test", data_root)
    assert repaired.texts == tuple(text.lower() for text in plain.texts)
    for split in ("train", "valid"):
        assert all(text == text.lower() for text in wrench("trec", split, data_root).texts)


def test_chemprot_has_test_but_no_train(data_root: Path, tmp_path: Path) -> None:
    skip_without("wrench", data_root)
    test = wrench("chemprot", "test", data_root)
    assert counts(test.labels) == [65, 438, 202, 519, 53, 59, 9, 2, 192, 68]
    assert test.weak_labels.shape == (1607, 26)
    assert test.spans.shape == (1607, 2, 2)
    (tmp_path / "wrench" / "chemprot").mkdir(parents=True)
    with pytest.raises(InputError, match=r"train\.json: ChemProt's train split is not distributed"):
        wrench("chemprot", "train", tmp_path)
    with pytest.raises(InputError, match="no split 'dev' of 'sms'; allowed: train, valid, test"):
        wrench("sms", "dev", data_root)


def good_example() -> dict[str, Any]:
    return {"label": 1, "weak_labels": [-1, 0], "data": {"text": "free ringtone"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0": {"label"', r"train\.json: cannot be read \(Expecting"),
        ("[]", r"train\.json: expected an object"),
        (json.dumps({"0": good_example() | {"label": 2}}), "label 2; allowed 0 to 1"),
        (json.dumps({"0": good_example() | {"label": 0.5}}), "whole numbers"),
        (json.dumps({"0": good_example() | {"weak_labels": [-2, 0]}}), "label -2; allowed -1 to 1"),
        (json.dumps({"0": good_example() | {"data": {}}}), r"malformed \(KeyError\('text'\)\)"),
        (
            json.dumps({"0": good_example(), "1": good_example() | {"weak_labels": [0]}}),
            "as many weak_labels in each",
        ),
    ],
)
def test_a_malformed_wrench_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "wrench" / "sms"
    folder.mkdir(parents=True)
    (folder / "label.json").write_text('{"0": "ham", "1": "spam"}')
    (folder / "train.json").write_text(json.dumps({"0": good_example()}))
    assert wrench("sms", "train", tmp_path).weak_labels.tolist() == [[-1, 0]]
    (folder / "train.json").write_text(text)
    with pytest.raises(InputError, match=message):
        wrench("sms", "train", tmp_path)


def test_trec_has_the_published_class_counts(data_root: Path) -> None:
    skip_without("trec6", data_root)
    train, test = trec6(True, root=data_root), trec6(False, root=data_root)
    assert counts(train.labels) == [86, 1162, 1250, 1223, 835, 896]
    assert counts(test.labels) == [9, 138, 94, 65, 81, 113]
    fine = trec6(True, fine=True, root=data_root)
    assert len(fine.class_names) == 50
    assert test.texts[0] == "How far is it from Denver to Aspen ?"
    assert test.class_names[test.labels[0]] == "NUM"


def test_ag_news_test_has_1900_of_each_class(data_root: Path) -> None:
    skip_without("agnews_test", data_root)
    news = agnews_test(data_root)
    assert counts(news.labels) == [1900] * 4
    assert news.class_names == ("World", "Sports", "Business", "Sci/Tech")
    assert news.texts[0].startswith("Fears for T N pension after talks Unions representing")


def test_malformed_questions_and_news_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "trec6").mkdir()
    (tmp_path / "trec6" / "train_5500.label").write_text("NUM:dist How far ?\nWho ?\n")
    with pytest.raises(InputError, match=r"train_5500\.label: line 2 is 'Who \?'; expected COARSE"):
        trec6(root=tmp_path)
    (tmp_path / "agnews_test").mkdir()
    (tmp_path / "agnews_test" / "classes.txt").write_text("World\nSports\n")
    (tmp_path / "agnews_test" / "test.csv").write_text('"1","a","b"\n"3","a","b"\n')
    with pytest.raises(InputError, match=r"test\.csv: row 2 .*expected class 1 to 2"):
        agnews_test(tmp_path)


def test_penn_treebank_has_the_published_token_and_type_counts(data_root: Path) -> None:
    skip_without("ptb", data_root)
    train = ptb("train", data_root)
    assert len(train) == 929_589
    assert train.count("<eos>") == 42_068
    assert len(ptb("valid", data_root)) == 73_760
    test = ptb("test", data_root)
    assert len(test) == 82_430
    vocabulary = Vocabulary.of(train)
    assert len(vocabulary) == 10_000
    assert vocabulary.tokens[0] == "the"
    assert vocabulary.decode(vocabulary.encode(test)) == test  # a closed vocabulary
    with pytest.raises(InputError, match="Penn Treebank: no split 'dev'; allowed: train, valid"):
        ptb("dev", data_root)


def test_penn_treebank_is_the_same_packed_or_plain(tmp_path: Path) -> None:
    folder = tmp_path / "ptb"
    folder.mkdir()
    (folder / "ptb.valid.txt.gz").write_bytes(gzip.compress(b" a <unk> \n b \n"))
    (folder / "ptb.test.txt").write_bytes(b" a <unk> \n b \n")
    words = ("a", "<unk>", "<eos>", "b", "<eos>")
    assert ptb("valid", tmp_path) == ptb("test", tmp_path) == words


def test_wikitext2_has_the_published_token_counts_and_no_train(data_root: Path) -> None:
    skip_without("wikitext2_valid_test", data_root)
    assert len(wikitext2("valid", data_root)) == 217_646
    assert len(wikitext2("test", data_root)) == 245_569
    with pytest.raises(InputError, match="WikiText-2: no split 'train'; allowed: valid, test"):
        wikitext2("train", data_root)


@pytest.mark.parametrize(("split", "lines"), [("train", 36_718), ("valid", 3_760), ("test", 4_358)])
def test_raw_wikitext2_has_the_published_lines(data_root: Path, split: str, lines: int) -> None:
    skip_without("wikitext2_raw", data_root)
    found = wikitext2_raw(split, data_root)
    assert len(found) == lines
    assert not any("<unk>" in line for line in found)


def test_raw_lines_keep_their_end_and_blank_ones_are_empty(tmp_path: Path) -> None:
    (tmp_path / "wikitext2_raw").mkdir()
    text = " \n = A title = \n \n Words \u2028 and more . \n"
    (tmp_path / "wikitext2_raw" / "wiki.valid.raw").write_text(text)
    found = wikitext2_raw("valid", tmp_path)
    assert found == ("", " = A title = \n", "", " Words \u2028 and more . \n")
    with pytest.raises(InputError, match=r"wiki\.test\.raw: no such file"):
        wikitext2_raw("test", tmp_path)


def test_tinyshakespeare_has_65_characters_cut_at_nine_tenths(data_root: Path) -> None:
    skip_without("tinyshakespeare", data_root)
    train, valid = (tinyshakespeare(split, data_root) for split in ("train", "valid"))
    assert len(train) == 1_003_854
    assert len(train) + len(valid) == 1_115_394
    vocabulary = Vocabulary.of(train + valid)
    assert len(vocabulary) == 65
    assert "".join(vocabulary.decode(vocabulary.encode("To be, or not"))) == "To be, or not"


def test_vocabulary_orders_by_frequency_and_knows_the_unknown() -> None:
    vocabulary = Vocabulary.of(["b", "a", "c", "b", "a", "b", "<unk>"])
    assert vocabulary.tokens == ("b", "a", "<unk>", "c")
    assert vocabulary.encode(["c", "zebra"]).tolist() == [3, 2]
    with pytest.raises(InputError, match="token 'z' is not in the vocabulary of 2"):
        Vocabulary.of("ab").encode("z")


def test_a_cut_corpus_is_named(tmp_path: Path) -> None:
    (tmp_path / "ptb").mkdir()
    path = tmp_path / "ptb" / "ptb.train.txt.gz"
    path.write_bytes(gzip.compress(b" a b \n")[:-4])
    with pytest.raises(InputError, match=r"ptb\.train\.txt\.gz: cannot be read"):
        ptb(root=tmp_path)
    path.write_bytes(gzip.compress(b" a b \n c d"))
    with pytest.raises(InputError, match=r"ptb\.train\.txt\.gz: ends with .*expected whole lines"):
        ptb(root=tmp_path)


def test_gpt2_pieces_are_bytes_then_merges_then_the_end_of_text(data_root: Path) -> None:
    skip_without("tokenizers", data_root)
    pairs = gpt2_byte_pairs(data_root)
    assert len(pairs.ids) == 256 + 50_000 + 1
    assert len(pairs.merges) == 50_000
    # piece 256 + i is what merge i makes
    assert all(pairs.ids[a + b] == 256 + i for i, (a, b) in enumerate(pairs.merges))
    assert pairs.ids["<|endoftext|>"] == 50_256
    assert [pairs.ids[piece] for piece in ("Hello", "Ġworld", ",", "Ġreal", "Ġdata", ".")] == [
        15496,
        995,
        11,
        1103,
        1366,
        13,
    ]


def test_bert_has_30522_pieces_with_the_special_ones_in_place(data_root: Path) -> None:
    skip_without("tokenizers", data_root)
    pieces = bert_word_pieces(data_root)
    assert len(pieces) == 30_522
    assert pieces[0] == "[PAD]"
    assert pieces[100:104] == ("[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert pieces[7592] == "hello"


def test_malformed_tokenizer_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizers"
    folder.mkdir()
    (folder / "gpt2_vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (folder / "gpt2_merges.txt").write_text("#version: 0.2\na b\n")
    assert gpt2_byte_pairs(tmp_path).merges == (("a", "b"),)
    (folder / "gpt2_merges.txt").write_text("#version: 0.2\na b\nb b\n")
    with pytest.raises(InputError, match=r"gpt2_merges\.txt: line 3 is 'b b'"):
        gpt2_byte_pairs(tmp_path)
    (folder / "gpt2_vocab.json").write_text('{"a": 0, "b": 2}')
    with pytest.raises(InputError, match=r"gpt2_vocab\.json: expected an object of pieces to 0, 1"):
        gpt2_byte_pairs(tmp_path)
    (folder / "bert-base-uncased-vocab.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match="3 lines but 2 distinct pieces"):
        bert_word_pieces(tmp_path)


@pytest.mark.parametrize(
    ("split", "sizes"), [("train", [3310, 3610]), ("dev", [428, 444]), ("test", [912, 909])]
)
def test_film_reviews_have_the_published_sizes(
    data_root: Path, split: Any, sizes: list[int]
) -> None:
    skip_without("sst2", data_root)
    reviews = sst2(split, data_root)
    assert counts(reviews.labels) == sizes
    assert len(reviews) == sum(sizes)
    assert all(text == text.lower() for text in reviews.texts)


def test_film_reviews_are_a_label_a_tab_and_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    path = tmp_path / "sst2" / "dev.tsv"
    path.write_text('1\ta "good" film\n0\ta bad one .\n')
    reviews = sst2("dev", tmp_path)
    assert reviews.texts == ('a "good" film', "a bad one .")
    assert reviews.labels.tolist() == [1, 0]
    for line in ("sentence\tlabel", "1 no tab", "0\t "):
        path.write_text(f"1\ta film\n{line}\n")
        with pytest.raises(InputError, match=r"dev\.tsv: line 2 is .*expected 0 or 1, tab, text"):
            sst2("dev", tmp_path)
