"""Translations, transcripts and covers pair up as published; what does not pair is refused."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.data.covers80 import covers80
from common.data.how2 import baseline_scores, features, sentences, split_sizes, transcripts
from common.data.multi30k import LANGUAGES, SPLITS, image_split, multi30k
from common.errors import InputError
from tests.common.data.real_data import skip_without


def test_multi30k_has_the_published_token_counts_on_aligned_lines(data_root: Path) -> None:
    skip_without("multi30k", data_root)
    sizes = dict(zip(SPLITS, (29_000, 1014, 1000, 1000, 461, 1071), strict=True))
    words = {
        "train": (377_534, 360_706, 409_845),
        "val": (13_308, 12_828, 14_381),
        "test_2016_flickr": (12_968, 12_103, 13_988),
        "test_2017_flickr": (11_376, 10_758, 12_596),
        "test_2017_mscoco": (5_239, 5_158, 5_710),
        "test_2018_flickr": (14_697, 13_707, 16_697),
    }
    for split, size in sizes.items():
        assert len(image_split(split, data_root)) == size
        for language, expected in zip(LANGUAGES, words[split], strict=True):
            tokenised = multi30k(split, language, True, data_root)
            assert len(tokenised) == len(multi30k(split, language, False, data_root)) == size
            assert sum(len(line.split()) for line in tokenised) == expected


def test_multi30k_word_types_are_those_of_the_lower_cased_text(data_root: Path) -> None:
    skip_without("multi30k", data_root)
    english = Counter(
        word for line in multi30k("train", "en", True, data_root) for word in line.split()
    )
    assert len(english) == 10_210
    assert sum(count >= 2 for count in english.values()) == 5_917
    raw = multi30k("val", "en", False, data_root)
    assert raw[0] == "A group of men are loading cotton onto a truck"


def test_a_language_with_another_number_of_lines_is_named(tmp_path: Path) -> None:
    for folder in ("tok", "image_splits"):
        (tmp_path / "multi30k" / folder).mkdir(parents=True)
    (tmp_path / "multi30k" / "image_splits" / "val.txt").write_text("1.jpg\n2.jpg\n")
    (tmp_path / "multi30k" / "tok" / "val.lc.norm.tok.en").write_text("a\u2028b\nc\n")
    (tmp_path / "multi30k" / "tok" / "val.lc.norm.tok.de").write_text("a\nb\nc\n")
    assert multi30k("val", "en", root=tmp_path) == ("a\u2028b", "c")
    with pytest.raises(InputError, match=r"val\.lc\.norm\.tok\.de: 3 lines; expected 2, one for"):
        multi30k("val", "de", root=tmp_path)
    with pytest.raises(InputError, match="no language 'cs'; allowed: en, de, fr"):
        multi30k("val", "cs", root=tmp_path)
    with pytest.raises(InputError, match="no split 'test'; allowed: train, val, test_2016_flickr"):
        multi30k("test", "en", root=tmp_path)


def word_errors(reference: list[str], hypothesis: list[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(hypothesis) + 1))
    for i, said in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, heard in enumerate(hypothesis, start=1):
            cost = diagonal + (said != heard)
            diagonal = row[j]
            row[j] = min(cost, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def test_how2_recogniser_has_the_known_word_error_rate(data_root: Path) -> None:
    skip_without("how2", data_root)
    spoken = transcripts(data_root)
    assert len(spoken) == 2305
    pairs = [
        (said.split(), heard.split())
        for said, heard in zip(spoken.references, spoken.hypotheses, strict=True)
    ]
    said, heard = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    assert said == 40_901
    assert heard - said == 1540 - 1307  # insertions less deletions
    errors = [word_errors(*pair) for pair in pairs]
    assert sum(errors) == 4684 + 1307 + 1540
    assert sum(errors) / said == pytest.approx(0.1841, abs=5e-5)
    assert np.mean(np.array(errors) > 0) == pytest.approx(0.755, abs=5e-4)


def test_how2_scores_and_sizes_are_the_published_ones(data_root: Path) -> None:
    skip_without("how2", data_root)
    scores = baseline_scores(data_root)
    assert Counter((score.task, score.visual) for score in scores) == dict.fromkeys(
        [(task, visual) for task in ("asr", "nmt", "slt") for visual in (False, True)], 3
    )
    assert scores[0].value == 19.16
    assert {score.metric for score in scores if score.task == "asr"} == {"WER"}
    sizes = {(size.corpus, size.split): size for size in split_sizes(data_root)}
    assert sizes["300h", "test"].sentences == len(transcripts(data_root))
    assert sizes["2000h", "train"].videos == 73_993
    assert sizes["2000h", "train"].sentences is None


def test_how2_features_are_rows_of_2048_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "how2_full" / "features" / "resnext101-action-avgpool-300h"
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).standard_normal((3, 2048)).astype(np.float32)
    np.save(folder / "val.npy", rows)
    np.testing.assert_array_equal(features("val", tmp_path), rows)
    np.save(folder / "val.npy", rows[:, :64])
    with pytest.raises(InputError, match=r"shape \(3, 64\); expected rows of 2048 real numbers"):
        features("val", tmp_path)
    with pytest.raises(InputError, match="no split 'test'; allowed: train, val, dev5"):
        features("test", tmp_path)
    with pytest.raises(InputError, match="no language 'de'; allowed: en, pt"):
        sentences("val", "de", tmp_path)


@pytest.mark.parametrize(
    ("heard", "message"),
    [
        ("hi (a-a_2)\n", "1 utterances do not pair with the 2 .*id 'a-a_1' is in one file alone"),
        ("yo (a-a_2)\nhi (a-a_1)\n", "the ids stand in another order"),
        ("hi (a-a_1)\nyo\n", "line 2 is 'yo'; expected words"),
    ],
)
def test_transcripts_that_do_not_pair_are_refused(tmp_path: Path, heard: str, message: str) -> None:
    folder = tmp_path / "how2" / "eval_asr"
    folder.mkdir(parents=True)
    (folder / "dev5.filtered.en").write_text("hi (a-a_1)\nyou (a-a_2)\n")
    hypothesis = folder / "hyp.filtered.word.wer.r9216e.max150.dev5.beam10.sclite"
    hypothesis.write_text(heard)
    with pytest.raises(InputError, match=message):
        transcripts(tmp_path)


def test_malformed_score_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "how2").mkdir()
    path = tmp_path / "how2" / "splits.csv"
    path.write_text("set,split,videos,hours\n300h,train,1,2\n")
    with pytest.raises(InputError, match=r"splits\.csv: columns \['sentences'\] are missing"):
        split_sizes(tmp_path)
    path.write_text("set,split,videos,hours,sentences\n300h,train,many,2,3\n")
    with pytest.raises(InputError, match=r"splits\.csv: row 2: .*'many'"):
        split_sizes(tmp_path)
    path.write_text("set,split,videos,hours,sentences\n300h,train,1\n")
    with pytest.raises(InputError, match=r"splits\.csv: row 2 has 3 cells; expected 5"):
        split_sizes(tmp_path)


def test_covers80_has_79_pairs_and_a_work_of_four(data_root: Path) -> None:
    skip_without("covers80", data_root)
    tracks = covers80(data_root)
    assert len(tracks) == 162
    assert Counter(Counter(tracks.labels.tolist()).values()) == {2: 79, 4: 1}
    beats = [len(chroma) for chroma in tracks.chroma]
    assert (min(beats), np.median(beats), max(beats)) == (315, 943, 2708)
    assert min(chroma.min() for chroma in tracks.chroma) >= 0
    assert max(chroma.max() for chroma in tracks.chroma) == pytest.approx(2.24, abs=5e-3)
    assert tracks.works[tracks.labels[0]] == "I_m_Not_In_Love"


def test_chroma_that_is_not_what_the_index_says_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "covers80"
    folder.mkdir()
    index = folder / "covers80_index.csv"
    np.savez(folder / "covers80_beat_chroma.npz", x000=np.zeros((5, 12), np.float32))
    index.write_text("key,work_id,track_id,n_beats\nx000,W,T,5\n")
    assert covers80(tmp_path).chroma[0].shape == (5, 12)
    index.write_text("key,work_id,track_id,n_beats\nx000,W,T,6\n")
    with pytest.raises(InputError, match=r"x000 is \(5, 12\) float32; expected \(6, 12\)"):
        covers80(tmp_path)
    index.write_text("key,work_id,track_id,n_beats\nx001,W,T,5\n")
    with pytest.raises(InputError, match=r"chroma\.npz: has no entry .*x001"):
        covers80(tmp_path)
    shutil.copy(index, folder / "covers80_beat_chroma.npz")
    with pytest.raises(InputError, match=r"chroma\.npz: cannot be read"):
        covers80(tmp_path)
