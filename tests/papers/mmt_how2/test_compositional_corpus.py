"""The language, its balance, and what a reader who knows it reaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from papers.mmt_how2.corpora.compositional_corpus import (
    AMBIGUOUS,
    LANGUAGE,
    MASK,
    SCENES,
    SOURCE_PLACES,
    CompositionalText,
    best_accuracy,
    compositional_corpus,
    ideal_translations,
    reversed_direction,
    sense_accuracy,
)
from papers.mmt_how2.corpora.picture_vectors import Pictures
from papers.mmt_how2.corpora.pictured_text import Sizes, write_corpus

SMALL = Sizes(train=400, valid=20, test=60)


def test_every_sense_has_half_of_the_scenes_and_no_two_scenes_are_alike() -> None:
    assert LANGUAGE.senses.shape == (SCENES, AMBIGUOUS)
    np.testing.assert_array_equal(LANGUAGE.senses.sum(0), np.full(AMBIGUOUS, SCENES // 2))
    assert len(np.unique(LANGUAGE.senses, axis=0)) == SCENES
    assert LANGUAGE.genders.mean() == 0.5


def test_article_and_adjective_agree_with_the_noun_and_senses_with_the_scene() -> None:
    text = compositional_corpus(CompositionalText(sizes=SMALL), 1)["train"]
    for source, target, scene in zip(text.source, text.target, text.scenes, strict=True):
        cue, the, adjective, noun, verb, first, near, second = source.split(" ")
        gender = "oa"[LANGUAGE.genders[int(noun[1:])]]
        senses = LANGUAGE.senses[scene]
        assert (cue, the, near) == (f"scene{scene}", "the", "near")
        assert first != second
        assert target.split(" ") == [
            gender,
            noun.upper(),
            adjective.upper() + gender,
            verb.upper(),
            f"{first.upper()}.{senses[int(first[1:])]}",
            "perto",
            f"{second.upper()}.{senses[int(second[1:])]}",
        ]


def test_a_sentence_with_a_cue_has_one_translation_and_without_one_several() -> None:
    def most_translations(cue: float) -> int:
        text = compositional_corpus(CompositionalText(cue=cue), 1)["train"]
        found: dict[str, set[str]] = {}
        for source, target in zip(text.source, text.target, strict=True):
            found.setdefault(source, set()).add(target)
        return max(map(len, found.values()))

    assert most_translations(1) == 1
    assert most_translations(0) > 1


def test_text_does_not_depend_on_pictures_nor_translations_on_the_cue() -> None:
    clear = compositional_corpus(CompositionalText(sizes=SMALL), 1)["test"]
    wrong = CompositionalText(sizes=SMALL, pictures=Pictures(quality=0, noise=1, common=1))
    blurred = compositional_corpus(wrong, 1)["test"]
    masked = compositional_corpus(CompositionalText(sizes=SMALL, cue=0), 1)["test"]
    assert (clear.source, clear.target) == (blurred.source, blurred.target)
    assert not np.array_equal(clear.pictures, blurred.pictures)
    assert masked.target == clear.target
    np.testing.assert_array_equal(masked.pictures, clear.pictures)
    assert {line.split(" ")[0] for line in masked.source} == {MASK}


@pytest.mark.parametrize("quality", [0, 0.5, 1])
@pytest.mark.parametrize("cue", [0, 0.5, 1])
def test_a_reader_who_knows_the_language_reaches_what_is_possible(
    cue: float, quality: float
) -> None:
    pictures = Pictures(quality=quality)
    knobs = CompositionalText(cue=cue, pictures=pictures, sizes=Sizes(test=4000, train=1, valid=1))
    text = compositional_corpus(knobs, 1)["test"]
    for sees in (False, True):
        accuracy = sense_accuracy(ideal_translations(text, pictures, sees), text.target)
        assert accuracy == pytest.approx(best_accuracy(cue, quality, sees), abs=0.025)


def test_what_is_possible_is_all_by_the_cue_and_half_by_nothing() -> None:
    assert best_accuracy(1, 0, False) == best_accuracy(0, 1, True) == 1
    assert best_accuracy(0, 0.5, True) == 0.75
    assert best_accuracy(0, 0, True) == best_accuracy(0, 1, False) == 0.5


def test_a_seed_draws_one_corpus() -> None:
    knobs = CompositionalText(sizes=SMALL)
    first, again, other = (compositional_corpus(knobs, seed) for seed in (1, 1, 2))
    for split, size in SMALL.model_dump().items():
        assert len(first[split]) == size
        assert first[split].source == again[split].source
        np.testing.assert_array_equal(first[split].pictures, again[split].pictures)
        assert first[split].source != other[split].source
    assert first["train"].source[:20] != first["valid"].source


def test_senses_are_visible_in_the_other_direction() -> None:
    corpus = compositional_corpus(CompositionalText(cue=0), 1)
    turned = reversed_direction(corpus)["train"]
    translations = dict(zip(turned.source, turned.target, strict=True))
    assert all(
        translations[source] == target
        for source, target in zip(turned.source, turned.target, strict=True)
    )
    assert f"{MASK} {turned.target[0]}" == corpus["train"].source[0]


def test_senses_count_in_their_places_alone() -> None:
    reference = ["o N1 A1o V1 X1.0 perto X2.1"]
    assert sense_accuracy(reference, reference) == 1
    assert sense_accuracy(["o N1 A1o V1 X1.1 perto X2.1"], reference) == 0.5
    assert sense_accuracy(["o N1 V1 X1.0 perto X2.1"], reference) == 0
    assert sense_accuracy([""], reference) == 0
    with pytest.raises(InputError, match="0 hypotheses for 1 references"):
        sense_accuracy([], reference)


def test_sentences_of_a_video_share_scene_and_picture() -> None:
    knobs = CompositionalText(sizes=SMALL, pictures=Pictures(per_video=10, quality=0.5))
    text = compositional_corpus(knobs, 1)["train"]
    by_video = text.pictures.reshape(40, 10, -1)
    np.testing.assert_array_equal(by_video, np.broadcast_to(by_video[:, :1], by_video.shape))
    assert (text.scenes.reshape(40, 10) == text.scenes[::10, None]).all()
    assert len(np.unique(text.pictures, axis=0)) == 40
    assert (
        len({tuple(line.split(" ")[place] for place in SOURCE_PLACES) for line in text.source}) > 10
    )


def test_files_are_what_fairseq_and_the_plugin_read(tmp_path: Path) -> None:
    corpus = compositional_corpus(CompositionalText(sizes=SMALL), 1)
    write_corpus(corpus, tmp_path / "text", "en", "pt")
    names = {f"{split}.{end}" for split in corpus for end in ("en", "pt", "npy")}
    assert {path.name for path in (tmp_path / "text").iterdir()} == names
    for split, text in corpus.items():
        english = (tmp_path / "text" / f"{split}.en").read_text(encoding="utf8")
        assert english.endswith("\n")
        assert tuple(english.splitlines()) == text.source
        pictures = np.load(tmp_path / "text" / f"{split}.npy")
        assert pictures.dtype == np.float32
        np.testing.assert_array_equal(pictures, text.pictures)
