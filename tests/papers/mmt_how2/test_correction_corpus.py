"""Misheard sentences: how many errors there are, and which of them a picture can undo."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.data.how2 import transcripts
from common.data.multi30k import multi30k
from common.errors import InputError
from papers.mmt_how2.corpora.caption_corpus import CAPTION_TWINS, caption_corpus
from papers.mmt_how2.corpora.correction_corpus import (
    FUNCTION_PLACES,
    TABLE,
    TWIN_PLACES,
    TWINS,
    CorrectionText,
    correction_corpus,
    measure_floor_wer,
)
from papers.mmt_how2.corpora.function_words import is_function_word
from papers.mmt_how2.corpora.noise_channel import NoiseChannel, confusions
from papers.mmt_how2.corpora.picture_vectors import Pictures
from papers.mmt_how2.corpora.pictured_text import Sizes
from papers.mmt_how2.corpora.spoken_words import normalise_transcript
from papers.mmt_how2.translation.scoring import word_errors
from tests.common.data.real_data import skip_without

SIZES = Sizes(train=1, valid=1, test=3000)
FUNCTION = CorrectionText(function_errors=0.20, twin_errors=0.02, sizes=SIZES)
CONTEXT = CorrectionText(function_errors=0.02, twin_errors=0.30, sizes=SIZES)


def test_both_corpora_have_nearly_one_error_rate_and_floors_far_apart() -> None:
    assert pytest.approx((9.14, 8.57), abs=0.01) == (FUNCTION.input_wer_pct, FUNCTION.floor_wer_pct)
    assert pytest.approx((9.43, 0.86), abs=0.01) == (CONTEXT.input_wer_pct, CONTEXT.floor_wer_pct)


@pytest.mark.parametrize("knobs", [FUNCTION, CONTEXT], ids=["function", "context"])
def test_as_many_words_are_wrong_as_expected_and_all_of_them_replaced(
    knobs: CorrectionText,
) -> None:
    text = correction_corpus(knobs, 1)["test"]
    errors = word_errors(text.source, text.target)
    assert errors.wer_pct == pytest.approx(knobs.input_wer_pct, abs=0.7)
    assert measure_floor_wer(text) == pytest.approx(knobs.floor_wer_pct, abs=0.7)
    assert errors.deletions == errors.insertions == 0
    assert errors.substitutions == sum(
        heard != said
        for line, other in zip(text.source, text.target, strict=True)
        for heard, said in zip(line.split(), other.split(), strict=True)
    )


def test_the_scene_tells_the_twin_and_each_twin_has_half_of_the_scenes() -> None:
    text = correction_corpus(FUNCTION, 1)["test"]
    np.testing.assert_array_equal(TABLE.sum(0), np.full(len(TWINS), len(TABLE) // 2))
    pair_of = {word: pair for pair, twins in enumerate(TWINS) for word in twins}
    for line, scene in zip(text.target, text.scenes, strict=True):
        for place in TWIN_PLACES:
            word = line.split()[place]
            pair = pair_of[word]
            assert word == TWINS[pair][TABLE[scene, pair]]


def test_function_words_depend_on_nothing() -> None:
    text = correction_corpus(FUNCTION, 1)["test"]
    for place, kinds in zip(FUNCTION_PLACES, (2, 3, 2), strict=True):
        found = Counter(
            (scene, line.split()[place])
            for line, scene in zip(text.target, text.scenes.tolist(), strict=True)
        )
        assert len(found) == 4 * kinds
        expected = len(text) / (4 * kinds)
        assert max(abs(count - expected) for count in found.values()) < 5 * expected**0.5


def test_what_was_said_does_not_depend_on_what_was_misheard() -> None:
    said = correction_corpus(FUNCTION, 1)["test"]
    assert correction_corpus(CONTEXT, 1)["test"].target == said.target
    assert correction_corpus(FUNCTION, 1)["test"].source == said.source
    assert correction_corpus(FUNCTION, 2)["test"].target != said.target


def test_misspelling_makes_words_that_nobody_said_but_leaves_function_words_alone() -> None:
    spelt = correction_corpus(FUNCTION, 1)["test"]
    text = correction_corpus(FUNCTION.model_copy(update={"misspelt": 0.1}), 1)["test"]
    known = {word for line in spelt.source for word in line.split()}
    unseen = {word for line in text.source for word in line.split()} - known
    assert len(unseen) > 200
    for line, before in zip(text.source, spelt.source, strict=True):
        assert [len(word) for word in line.split()] == [len(word) for word in before.split()]
        assert all(line.split()[place] == before.split()[place] for place in FUNCTION_PLACES)
    content = [
        (line.split()[1], before.split()[1])
        for line, before in zip(text.source, spelt.source, strict=True)
    ]
    letters = [a != b for word, other in content for a, b in zip(word, other, strict=True)]
    assert np.mean(letters) == pytest.approx(0.1, abs=0.01)


def test_the_channel_replaces_leaves_out_and_puts_in_as_often_as_it_says() -> None:
    channel = NoiseChannel({"a": (("b", 0.2), ("c", 0.1))}, 0.05, 0.1, ("d",))
    heard = " ".join(channel.heard(["a " * 50] * 400, 1)).split()
    counts = {word: count / 20_000 for word, count in Counter(heard).items()}
    expected = {"a": 0.65, "b": 0.2, "c": 0.1, "d": 0.1}
    assert counts == pytest.approx(expected, abs=0.01)
    assert channel.heard(["a a a"], 3) == channel.heard(["a a a"], 3)
    assert NoiseChannel({}, deletion=1.0).heard(["a b"], 1) == ["a b"]


def test_impossible_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"'a' is replaced or left out with chance 1\.1"):
        NoiseChannel({"a": (("b", 1.0),)}, deletion=0.1)
    with pytest.raises(InputError, match="no words to put in"):
        NoiseChannel({}, insertion=0.1)


def test_a_fitted_channel_gives_the_counts_it_was_fitted_to() -> None:
    said = ["the dog and the cat", "the end"]
    pairs = {("the", "a"): 2, ("dog", "fog"): 1}
    channel = confusions(pairs, said, {"the", "a"})
    assert channel.substitutions == {"the": (("a", 2 / 3),)}


def test_function_words_are_the_closed_classes_and_their_contractions() -> None:
    for word in ("the", "in", "you're", "it's", "don't", "could"):
        assert is_function_word(word)
    for word in ("pike", "dog's", "going", "o'clock", "okay"):
        assert not is_function_word(word)


def test_captions_are_misheard_as_the_recogniser_did_and_twins_as_asked(data_root: Path) -> None:
    skip_without("how2", data_root)
    skip_without("multi30k", data_root)
    said = transcripts(data_root)
    heard = word_errors(said.hypotheses, said.references)
    functions = {word for pair in heard.pairs for word in pair if is_function_word(word)}
    channel = confusions(heard.pairs, said.references, functions)
    captions = multi30k("val", "en", tokenised=False, root=data_root)
    text = caption_corpus(captions, channel, 0.3, Pictures(), 1)
    errors = word_errors(text.source, text.target)
    count = Counter(word for line in text.target for word in line.split())
    for word in ("a", "in", "the"):
        expected = count[word] * sum(chance for _, chance in channel.substitutions[word])
        replaced = sum(n for (reference, _), n in errors.pairs.items() if reference == word)
        assert abs(replaced - expected) < 4 * expected**0.5
    twins = {word for pair in CAPTION_TWINS for word in pair}
    hit = sum(n for (word, _), n in errors.pairs.items() if word in twins)
    assert hit / sum(count[word] for word in twins) == pytest.approx(0.3, abs=0.04)
    assert all(
        {word, other} <= functions
        or (word, other) in CAPTION_TWINS
        or (other, word) in CAPTION_TWINS
        for word, other in errors.pairs
    )


def test_the_picture_of_a_caption_shows_its_twins() -> None:
    captions = ["A man.", "A man with a dog!", "Men.", "Nothing of note."]
    text = caption_corpus(captions, NoiseChannel({}), 0.0, Pictures(noise=0.0), 1)
    man, both, men, nothing = text.pictures
    assert text.target == ("a man", "a man with a dog", "men", "nothing of note")
    assert np.dot(man, both) > np.dot(men, both)
    assert not nothing.any()
    assert normalise_transcript('Two men\'s hats,  "old"-style.') == "two men's hats old style"
