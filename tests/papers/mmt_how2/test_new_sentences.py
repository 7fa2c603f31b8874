"""What a trained model is taken on to: lines in no file, the mean of epochs, another training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError
from papers.mmt_how2.methods.systems import CorpusText, System, TrainedSystem
from papers.mmt_how2.translation.binarised_text import SentencePairs
from papers.mmt_how2.translation.checkpoint_averaging import average_checkpoints
from papers.mmt_how2.translation.configuration import configuration
from papers.mmt_how2.translation.fairseq_start import old_calls
from papers.mmt_how2.translation.generation import Search, Translator
from papers.mmt_how2.translation.subwords import Units
from papers.mmt_how2.translation.training import make_trainer, restored, train
from papers.mmt_how2.translation.training_settings import TranslationModel
from tests.papers.mmt_how2 import scenes
from tests.papers.mmt_how2.conftest import MODEL, SCHEDULE, SMALL, Trained

ONE = SCHEDULE.model_copy(update={"epochs": 1})
FUSIONS = ["step_wise_decoder", "attention_modulation", "output"]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["model"]
    return found


# Lines that are in no file


def test_lines_with_their_pictures_are_translated_as_in_a_split(
    trained: Trained, tmp_path: Path
) -> None:
    whole = Translator(trained.training.best, trained.data, trained.visual)
    expected = whole.translate("test", Search(beam=3, nbest=2))
    text = whole.task.dataset("test")
    words = whole.task.source_dictionary
    lines = [words.string(text[n]["source"]) for n in range(len(text))]
    pictures = np.load(trained.visual / "test.npy")
    # No folder of pictures is needed, and a batch of other neighbours gives the same.
    alone = Translator(trained.training.best, trained.data)
    for translator, batch in ((whole, 128), (alone, 5)):
        found = translator.translate_lines(
            lines, Search(beam=3, nbest=2, batch_size=batch), pictures
        )
        assert found.best == expected.best
        for ours, theirs in zip(found.hypotheses, expected.hypotheses, strict=True):
            assert ours[0].score == pytest.approx(theirs[0].score, abs=1e-4)
    stacked = np.stack([pictures - 1, pictures + 1], axis=1)  # a sequence counts as its mean
    assert alone.translate_lines(lines, Search(beam=3), stacked).best == expected.best
    assert alone.translate_lines(lines[3:4], Search(beam=3), pictures[3:4]).best == [
        expected.best[3]
    ]
    assert alone.translate_lines(lines, Search(beam=3), pictures[::-1]).best != expected.best


def test_unusable_lines_and_pictures(trained: Trained) -> None:
    translator = Translator(trained.training.best, trained.data)
    picture = np.zeros((1, scenes.WIDTH), dtype=np.float32)
    for lines, pictures, message in (
        (["the bank"], None, "pictures: None; fusion step_wise_decoder reads 8 numbers a line"),
        (["the bank"] * 2, picture, "pictures: 1 rows for 2 sentences"),
        (["the bank"], picture[:, :3], "pictures: rows of 3 numbers; the model reads 8"),
        (["the bank"], picture[0], r"pictures: shape \(8,\); allowed: \(n, D\) or \(n, t, D\)"),
        (["the bank"], picture.astype(int), "pictures: holds int64; allowed: floats"),
        (["the bank"], picture * np.nan, "pictures: row 1 holds NaN or infinity"),
        (["the bank", " "], picture, "lines: line 2 is empty"),
        ([], picture[:0], "lines: there is none"),
        (["the </s> bank"], picture, "line 'the </s> bank': holds the word </s>, a symbol of"),
        (["the bank " * 600], picture, "lines: line 1 has"),
    ):
        with pytest.raises(InputError, match=message):
            translator.translate_lines(lines, Search(), pictures)
    assert translator.task.datasets == {}


def test_a_system_takes_and_gives_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    splits: dict[str, SentencePairs] = {}
    for name, count in (("train", 60), ("valid", 5), ("test", 7)):
        splits[name], pictures = scenes.pairs(rng, count)
        np.save(tmp_path / f"{name}.npy", pictures)
    system = System(model=MODEL, source=Units(unit="characters"), target=Units(unit="characters"))
    text = CorpusText(splits, tmp_path / "text")
    trained = TrainedSystem(system, ONE, text, tmp_path, tmp_path / "work", 1)
    lines = list(splits["test"].source)
    found = trained.translate_lines(lines, Search(beam=2), pictures)
    assert found.best == trained.translate("test", Search(beam=2)).best
    with pytest.raises(InputError, match="lines: line 1, 'the▁bank', comes back"):
        trained.translate_lines(["the▁bank"], Search(), pictures[:1])


# Lines that are typed in


def test_a_line_without_words_has_a_translation_without_words(tmp_path: Path) -> None:
    """As fairseq-interactive asks for it, alone and in a batch with others."""
    data, _ = scenes.write(tmp_path, train=30, valid=5)
    training = train(data, tmp_path / "work", TranslationModel(options=SMALL), ONE, seed=1)
    translator = Translator(training.best, data)
    task, generator = translator.task, translator._generator(Search(beam=3))
    for lines in ([""], ["the n1 bank", " ", "the bank"]):
        tokens, lengths = task.get_interactive_tokens_and_lengths(lines, str)
        batch = task.build_dataset_for_inference(tokens, lengths)
        sample = batch.collater([batch[n] for n in range(len(lines))])
        sample = {"net_input": sample["net_input"], "id": sample["id"]}
        found = task.inference_step(generator, [translator.model], sample)
        for number, hypotheses in zip(sample["id"].tolist(), found, strict=True):
            text = task.target_dictionary.string(hypotheses[0]["tokens"])
            assert (text == "") == (not lines[number].strip())
            if not text:
                assert len(hypotheses) == 1
                assert translator._plain(hypotheses[0]) == ("", 0.0, (0.0,))
    for word in ("<s>", "<pad>", "</s>"):
        with pytest.raises(InputError, match=f"line 'a {word}': holds the word {word}"):
            task.get_interactive_tokens_and_lengths(["the", f"a {word}"], str)
    task.get_interactive_tokens_and_lengths(["a <unk>"], str)


# The mean of epochs


def test_checkpoints_are_averaged(tmp_path: Path) -> None:
    data, visual = scenes.write(tmp_path, train=40, valid=5, test=6)
    work = tmp_path / "work"
    longer = SCHEDULE.model_copy(update={"epochs": 3})
    training = train(data, work, MODEL, longer, seed=1, visual=visual, keep=2)
    assert [path.name for path in training.kept] == ["checkpoint2.pt", "checkpoint3.pt"]
    assert not (work / "checkpoint1.pt").exists()
    last = weights(training.last)
    assert all(map(torch.equal, weights(training.kept[1]).values(), last.values()))
    path = average_checkpoints(training.kept, tmp_path / "averaged.pt")
    parts = [weights(checkpoint) for checkpoint in training.kept]
    for name, value in weights(path).items():
        if value.is_floating_point():
            mean = (parts[0][name].double() + parts[1][name].double()) / 2
            torch.testing.assert_close(value, mean.float(), rtol=0, atol=0)
        else:
            assert torch.equal(value, last[name]), name
    assert Translator(path, data, visual).translate("test", Search()).best
    same = weights(average_checkpoints([training.last] * 3, tmp_path / "same.pt"))
    for name, value in same.items():
        torch.testing.assert_close(value, last[name], rtol=1e-7, atol=0)
    # The epochs are there after a resume, and gone with another training.
    assert train(data, work, MODEL, longer, seed=1, visual=visual, keep=2).kept == training.kept
    assert train(data, work, MODEL, ONE, seed=2, visual=visual).kept == ()
    assert not (work / "checkpoint3.pt").exists()
    plain = train(data, tmp_path / "plain", MODEL.model_copy(update={"fusion": "none"}), ONE, 1)
    for checkpoints, message in (
        ([], "0 checkpoints"),
        ([plain.best, path], f"{plain.best}: another model than {path}'s: decoder.visual_input"),
        ([tmp_path / "none.pt"], "none.pt: no such checkpoint"),
    ):
        with pytest.raises(InputError, match=message):
            average_checkpoints(checkpoints, tmp_path / "no.pt")
    assert not (tmp_path / "no.pt").exists()


# A fusion that starts from a model of text


@pytest.mark.parametrize("fusion", [*FUSIONS, "none"])
@old_calls()
def test_a_fusion_starts_from_a_model_of_text(
    tmp_path: Path, fusion: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, visual = scenes.write(tmp_path, train=30, valid=5)
    text = TranslationModel(options=SMALL)
    start = train(data, tmp_path / "text", text, ONE, seed=1).best
    model = MODEL.model_copy(
        update={
            "fusion": fusion,
            "regularizer_gamma": 0.1 if fusion == "none" else None,
            "options": {**SMALL, "finetune_from_model": str(start)},
        }
    )
    work = tmp_path / "work"
    config = configuration(data, work, model, ONE, 2, visual)
    trainer = make_trainer(config)
    drawn = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert restored(config, trainer)[0] == []
    known = weights(start)
    assert not any("visual" in name for name in known)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, known[name] if name in known else drawn[name]), name
        assert (name in known) != ("visual" in name)
    (record,) = caplog.records
    assert "was trained on text alone; as they were drawn stay: encoder.visual." in record.message
    caplog.clear()
    training = train(data, work, model, ONE, seed=2, visual=visual)
    assert (training.resumed, len(training.history)) == (0, 1)
    assert train(data, work, model, ONE, seed=2, visual=visual).resumed == 1
    assert len(caplog.records) == 1  # a resume loads all of it


def test_models_that_a_training_cannot_start_from(tmp_path: Path) -> None:
    data, visual = scenes.write(tmp_path, train=30, valid=5)
    wide = TranslationModel(options={**SMALL, "decoder_hidden_size": 48})
    other = train(data, tmp_path / "wide", wide, ONE, seed=1).best
    for path, message in (
        (other, "size mismatch"),
        (tmp_path / "none.pt", "none.pt does not exist"),
    ):
        model = MODEL.model_copy(update={"options": {**SMALL, "finetune_from_model": str(path)}})
        with pytest.raises(InputError, match=f"^finetune_from_model {path}: .*{message}"):
            train(data, tmp_path / "work", model, ONE, seed=1, visual=visual)


# A checkpoint without the plugin


def test_a_checkpoint_opens_without_the_plugin_as_the_readme_says(trained: Trained) -> None:
    program = """if True:
        import sys, torch
        try:
            torch.load(sys.argv[1])
        except Exception as error:
            print(type(error).__name__, "argparse.Namespace" in str(error))
        state = torch.load(sys.argv[1], weights_only=False)
        print(len(state["model"]), {type(value).__name__ for value in state["model"].values()})
        print([name for name in sys.modules if name.startswith(("fairseq", "papers"))])
        import argparse
        with torch.serialization.safe_globals([argparse.Namespace]):
            print(len(torch.load(sys.argv[1])["model"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(trained.training.best)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    count = len(weights(trained.training.best))
    assert done.stdout.splitlines() == [
        "UnpicklingError True", f"{count} {{'Tensor'}}", "[]", str(count),
    ], done.stderr  # fmt: skip
