"""Systems of several units of text, trained and compared on one corpus."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from papers.mmt_how2.corpora.compositional_corpus import (
    MASK,
    CompositionalText,
    compositional_corpus,
    looks_of_scenes,
)
from papers.mmt_how2.corpora.parallel_corpora import multi30k_pairs
from papers.mmt_how2.corpora.picture_vectors import Pictures, nearest_scene
from papers.mmt_how2.corpora.pictured_text import Sizes
from papers.mmt_how2.corpora.spoken_words import normalise_transcript
from papers.mmt_how2.experiments.translation import TranslationCorpus, TranslationSettings
from papers.mmt_how2.methods.systems import CorpusText, System, TrainedSystem
from papers.mmt_how2.translation.binarised_text import SentencePairs
from papers.mmt_how2.translation.generation import Search
from papers.mmt_how2.translation.scoring import bleu
from papers.mmt_how2.translation.subwords import Units
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel
from tests.common.data.real_data import skip_without
from tests.papers.mmt_how2.runs import opened, record_of, settings_of

TINY = Sizes(train=60, valid=9, test=11)


def test_a_run_compares_its_systems(tmp_path: Path) -> None:
    record, out = record_of("fusions", "en_pt", "systems", tmp_path)
    found = record.metrics
    translations = json.loads((out / "translations.json").read_text())
    references = translations.pop("reference")
    assert list(translations) == ["text", "step_wise", "attention", "regularizer"]
    for name, lines in translations.items():
        assert len(lines) == len(references)
        assert found[f"{name}_bleu"] == pytest.approx(bleu(lines, references).value)
    # The regulariser reads pictures in training alone.
    assert found["regularizer_permuted_changed_pct"] == 0
    assert "text_permuted_bleu" not in found
    assert "tok:none" in json.loads((out / "signatures.json").read_text())["bleu"]
    # A fusion only adds weights.
    sizes = {name: found[f"{name}_parameters_count"] for name in translations}
    assert min(sizes.values()) == sizes["text"]


def test_attention_maps_are_distributions_over_the_source(tmp_path: Path) -> None:
    record, out = record_of("unrelated_pictures", "compositional", "systems", tmp_path)
    for maps in json.loads((out / "attention.json").read_text()).values():
        for one in maps.values():
            text, visual = np.array(one["text"]), np.array(one["visual"])
            assert text.shape == (len(one["target"]), len(one["source"]))
            assert visual.shape == (len(one["source"]),)
            assert text.sum(1) == pytest.approx(np.ones(len(text)), abs=1e-5)
            assert visual.sum() == pytest.approx(1, abs=1e-5)
    words = len(one["source"])
    assert 0 <= record.metrics["gamma_10_visual_entropy_nats"] <= np.log(words)
    assert 1 / words <= record.metrics["gamma_10_visual_largest_weight"] <= 1


def test_text_and_pictures_of_the_knobs(tmp_path: Path) -> None:
    def text(**changes: Any) -> TranslationCorpus:
        settings = settings_of("masked_text", "compositional", "systems", **changes)
        with opened("masked_text", "compositional", "systems", settings, tmp_path) as run:
            found = TranslationCorpus(settings, run)
            for system in settings.systems.values():
                found.pictures(system)
        return found

    plain = text()
    shown = {path.parent.name: np.load(path) for path in tmp_path.glob("work/pictures_*/train.npy")}
    assert sorted(shown) == ["pictures_0.0", "pictures_0.5", "pictures_1.0"]
    rows = len(plain.splits["train"].source)
    looks = looks_of_scenes(Pictures())
    scenes = {name: nearest_scene(rows, looks) for name, rows in shown.items()}
    # The rest shows any of four scenes: 1/4, and 1/2 + 1/8, of them show the sentence's.
    for quality, share in (("0.0", 0.25), ("0.5", 0.625)):
        found = scenes[f"pictures_{quality}"]
        assert len(found) == rows
        assert np.mean(found == scenes["pictures_1.0"]) == pytest.approx(share, abs=0.12)
    back = text(source="pt", target="en").splits["test"]
    assert back.source == plain.splits["test"].target
    alone = text(picture_alone=True).splits["test"]
    assert set(alone.source) == {MASK}
    assert alone.target == plain.splits["test"].target


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (Units(unit="characters"), Units()),
        (Units(unit="byte_pairs", size=20), Units(unit="sentence_pieces", size=30)),
    ],
)
def test_translations_of_any_units_are_words(tmp_path: Path, source: Units, target: Units) -> None:
    corpus = compositional_corpus(CompositionalText(sizes=TINY), 0)
    splits = {name: SentencePairs(text.source, text.target) for name, text in corpus.items()}
    model = TranslationModel(architecture="multimodal_lstm_small")
    schedule = Schedule(epochs=1, batch_size=30, learning_rate=0.01)
    system = System(model=model, source=source, target=target)
    text = CorpusText(splits, tmp_path / "text")
    trained = TrainedSystem(system, schedule, text, None, tmp_path / "model", 0)
    lines = splits["test"].target
    cut = trained.text.target
    assert [cut.join(cut.cut(line)) for line in lines] == list(lines)
    found = trained.translate("test", Search(beam=2)).best
    assert len(found) == len(lines)
    assert not any("▁" in line or "@@" in line for line in found)


def test_systems_of_the_same_units_share_their_text(tmp_path: Path) -> None:
    corpus = compositional_corpus(CompositionalText(sizes=TINY), 0)
    splits = {name: SentencePairs(text.source, text.target) for name, text in corpus.items()}
    text = CorpusText(splits, tmp_path)
    words, again, common, characters = (
        text.cut(system)
        for system in (
            System(),
            System(model=TranslationModel(dropout=0.3)),
            System(min_count=30),
            System(source=Units(unit="characters")),
        )
    )
    assert words is again
    folders = [words.data, common.data, characters.data]
    types = [
        len((folder / f"dict.{side}.txt").read_text().splitlines())
        for side in ("src", "tgt")
        for folder in folders
    ]
    assert types[1] < types[0] != types[2]
    assert types[4] < types[3] == types[5]


def test_narrow_networks_start_from_larger_weights(tmp_path: Path) -> None:
    corpus = compositional_corpus(CompositionalText(sizes=TINY), 0)
    splits = {name: SentencePairs(text.source, text.target) for name, text in corpus.items()}
    text = CorpusText(splits, tmp_path / "text")
    schedule = Schedule(epochs=1, batch_size=60, learning_rate=1e-9)
    spread = {}
    for wide in (0.1, 0.3):
        model = TranslationModel(
            architecture="multimodal_lstm_small",
            options={"init_range": wide, "embed_init_range": 10 * wide},
        )
        work = tmp_path / str(wide)
        trained = TrainedSystem(System(model=model), schedule, text, None, work, 0)
        spread[wide] = torch.load(trained.training.best, weights_only=True)["model"]
    for name, weights in spread[0.1].items():
        if weights.is_floating_point() and weights.numel() > 1 and "version" not in name:
            factor = 3.0
            assert torch.allclose(spread[0.3][name], factor * weights, atol=1e-5), name
            largest = 1.0 if "embed_tokens" in name else 0.1
            assert 0.8 * largest < weights.abs().max() <= largest + 1e-6, name


def test_multi30k_is_read_as_published_and_has_no_pictures(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without("multi30k", data_root)
    monkeypatch.setenv("REPRO_DATA", str(data_root))
    splits = multi30k_pairs("en", "de")
    sizes = {name: len(pairs.source) for name, pairs in splits.items()}
    assert sizes == {"train": 29_000, "valid": 1014, "test": 1000}
    with pytest.raises(InputError, match="multi30k has text alone"):
        record_of("fusions", "en_pt", "systems", tmp_path, corpus="multi30k", target="de")


def test_lines_lose_punctuation() -> None:
    assert normalise_transcript("I'm on-site, it’s 5 o'clock!") == "i'm on site it's 5 o'clock"
    assert normalise_transcript("Não é “assim”.") == "não é assim"
    assert normalise_transcript("...") == ""
    assert normalise_transcript("'tis rock''n_roll 'quoted' x'1½") == "tis rock n roll quoted x'1½"


def test_combining_marks_belong_to_their_letters() -> None:
    for word in ("não", "İzmir", "ção", "ἄνθρωπος"):
        stored = [unicodedata.normalize(form, word) for form in ("NFC", "NFD")]
        assert normalise_transcript(stored[0]) == normalise_transcript(stored[1])
        assert len(normalise_transcript(stored[1]).split()) == 1
    assert normalise_transcript("na\u0303o") == "não"
    # Vowel signs and the virama; a letter that has no composed form; a joiner; a vowelled word.
    for word in ("हिन्दी", "q\u0303a", "می\u200cخواهم", "كِتَاب"):
        assert normalise_transcript(f"({word}), {word}.") == f"{word} {word}"
    assert normalise_transcript("co\u00adoperate \u0303 - \u200d") == "cooperate"


def test_spoken_words_of_text_without_marks_are_runs_of_letters_and_digits() -> None:
    rng = np.random.default_rng(0)
    letters = [chr(code) for code in range(0x20, 0x300) if chr(code) not in "\u00ad"]
    for _ in range(200):
        line = "".join(rng.choice([*letters, *" ' ’ _ - "], size=80))
        plain = line.lower().replace("’", "'")
        if any(map(unicodedata.combining, plain)):  # i with a dot above
            continue
        assert normalise_transcript(line) == " ".join(re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain))


def test_settings_need_a_system() -> None:
    with pytest.raises(ValueError, match="systems"):
        TranslationSettings(
            corpus="how2", systems={}, schedule=Schedule(epochs=1, batch_size=1, learning_rate=0.1)
        )
