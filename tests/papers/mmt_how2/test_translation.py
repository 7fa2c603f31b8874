"""Training and translating in one process: nothing lost, everything repeatable, input checked."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InputError
from papers import mmt_how2
from papers.mmt_how2.translation.binarised_text import SentencePairs, binarise, read_pairs
from papers.mmt_how2.translation.configuration import configuration
from papers.mmt_how2.translation.fairseq_start import old_calls, start_fairseq
from papers.mmt_how2.translation.generation import Search, Translator
from papers.mmt_how2.translation.training import seed_update, train
from papers.mmt_how2.translation.training_folder import last_path, training_fingerprint
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel
from tests.papers.mmt_how2 import scenes
from tests.papers.mmt_how2.conftest import MODEL, SCHEDULE, SMALL, Trained

BRIEF = SCHEDULE.model_copy(update={"epochs": 2})


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    start_fairseq()
    return torch.load(checkpoint, weights_only=True)["model"]


@pytest.mark.parametrize("shuffle", [None, 1, 2])
def test_the_ambiguous_word_is_what_the_picture_shows(
    trained: Trained, shuffle: int | None
) -> None:
    """The sentence's own or another's; 1.0 with each of six seeds. Whole lines vary far more."""
    data, visual, training = trained
    translator = Translator(training.best, data, visual, shuffle)
    ends = [line.split()[-1:] for line in translator.translate("test", Search()).best]
    translator.task.load_dataset("test")
    pictures = translator.task.dataset("test").features.rows(np.arange(37)).numpy()
    shown = [f"BANK{scene % 2}" for scene in pictures[:, : scenes.SCENES].argmax(1)]
    assert np.mean([end == [word] for end, word in zip(ends, shown, strict=True)]) > 0.9
    # To 0.07 to 0.23 of the first epoch's with the same seeds.
    assert training.history[-1].train_loss < 0.5 * training.history[0].train_loss


def references(trained: Trained) -> tuple[list[str], Any]:
    task = Translator(trained.training.best, trained.data, trained.visual).task
    task.load_dataset("test")
    dataset = task.dataset("test")
    return [task.target_dictionary.string(dataset[n]["target"]) for n in range(len(dataset))], task


@pytest.mark.parametrize(
    ("split", "lines"), [("test1", 1), ("test7", 7), ("test8", 8), ("test9", 9), ("test", 37)]
)
def test_a_set_of_any_size_gives_as_many_hypotheses(
    trained: Trained, split: str, lines: int
) -> None:
    translator = Translator(trained.training.best, trained.data, trained.visual)
    for size in (8, 5):
        found = translator.translate(split, Search(beam=2, batch_size=size))
        assert len(found.hypotheses) == lines


def test_no_sentence_is_lost_in_training_or_validation(trained: Trained) -> None:
    _, task = references(trained)
    for split, sentences in (("train", 301), ("valid", 13)):
        task.load_dataset(split)
        batches = task.get_batch_iterator(
            task.dataset(split), max_sentences=50, required_batch_size_multiple=8
        ).next_epoch_itr(shuffle=True)
        sizes = [sample["nsentences"] for sample in batches]
        assert sum(sizes) == sentences
        assert max(sizes) == min(50, sentences)  # not rounded down to 48
    start_fairseq()
    text = task.dataset("train")
    tokens = sum(len(text[n]["target"]) for n in range(301))
    assert {epoch.tokens for epoch in trained.training.history} == {tokens}


def test_pictures_go_with_their_sentences_whatever_the_order(trained: Trained) -> None:
    _, task = references(trained)
    rows = np.load(trained.visual / "test.npy")
    dataset = task.dataset("test")
    order = np.random.default_rng(0).permutation(37)[:20]
    batch = dataset.collater([dataset[int(n)] for n in order])
    assert batch["id"].tolist() != order.tolist()  # sorted by length
    np.testing.assert_array_equal(batch["net_input"]["visual"].numpy(), rows[batch["id"].numpy()])
    assert dataset.collater([]) == {}


def test_shuffling_gives_every_sentence_anothers_picture(trained: Trained) -> None:
    translators = [
        Translator(trained.training.best, trained.data, trained.visual, shuffle)
        for shuffle in (None, 1, 1, 2)
    ]
    found = []
    for translator in translators:
        translator.task.load_dataset("test")
        features = translator.task.dataset("test").features
        found.append(features.rows(np.arange(37)).numpy())
    assert not (found[0] == found[1]).all(axis=1).any()
    np.testing.assert_array_equal(np.sort(found[0], axis=0), np.sort(found[1], axis=0))
    np.testing.assert_array_equal(found[1], found[2])
    assert not np.array_equal(found[1], found[3])


def test_reading_a_checkpoint_again_gives_identical_translations(trained: Trained) -> None:
    first, second = (
        Translator(trained.training.best, trained.data, trained.visual).translate(
            "test", Search(beam=3, nbest=3)
        )
        for _ in range(2)
    )
    assert first.hypotheses == second.hypotheses
    for hypotheses in first.hypotheses:
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in hypotheses:
            assert len(hypothesis.token_scores) == len(hypothesis.text.split()) + 1
            assert hypothesis.score == pytest.approx(np.mean(hypothesis.token_scores), abs=1e-5)


def test_training_is_repeatable_and_goes_on_after_a_kill(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, visual = corpus
    model = MODEL.model_copy(update={"dropout": 0.2})
    brief = BRIEF.model_copy(update={"decay": "plateau"})
    whole = train(data, tmp_path / "whole", model, brief, seed=3, visual=visual)
    one = brief.model_copy(update={"epochs": 1})
    train(data, tmp_path / "parts", model, one, seed=3, visual=visual)
    # Killed in the midst of the next epoch, and once more while it wrote a checkpoint.
    updates = iter(range(5))

    def seed_or_die(trainer: Any) -> None:
        if next(updates, None) is None:
            raise KeyboardInterrupt
        seed_update(trainer)

    with monkeypatch.context() as patch:
        patch.setattr("papers.mmt_how2.translation.training.seed_update", seed_or_die)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "parts", model, brief, seed=3, visual=visual)
    (tmp_path / "parts" / ".checkpoint.partial").write_bytes(b"half")
    parts = train(data, tmp_path / "parts", model, brief, seed=3, visual=visual)
    assert (whole.resumed, parts.resumed) == (0, 1)
    assert [epoch.updates for epoch in parts.history] == [10, 20]
    losses = [[(e.train_loss, e.valid_loss) for e in t.history] for t in (whole, parts)]
    assert losses[0] == losses[1]
    left, right = weights(whole.last), weights(parts.last)
    assert all(torch.equal(left[name], right[name]) for name in left)
    done = train(data, tmp_path / "parts", model, brief, seed=3, visual=visual)
    assert done.resumed == 2
    assert done.history == parts.history


def test_a_training_of_other_settings_does_not_go_on(
    corpus: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, visual = corpus
    one = BRIEF.model_copy(update={"epochs": 1})
    train(data, tmp_path, MODEL, one, seed=3, visual=visual)
    with caplog.at_level(logging.WARNING):
        other = train(data, tmp_path, MODEL, one, seed=4, visual=visual)
    assert other.resumed == 0
    assert "of another training; removed" in caplog.text


def test_a_training_on_other_pictures_does_not_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, visual = scenes.write(tmp_path, train=20, valid=5)
    one = BRIEF.model_copy(update={"epochs": 1})

    def trained_in(folder: str) -> mmt_how2.Training:
        return train(data, tmp_path / folder, MODEL, one, seed=3, visual=visual)

    trained_in("work")
    path = visual / "train.npy"
    good = np.load(path)
    np.save(path, good[:-1])  # unusable, so nothing is thrown away
    with pytest.raises(InputError, match=f"{path}: 19 rows for 20 sentences"):
        trained_in("work")
    path.unlink()
    with pytest.raises(InputError, match=f"{path}: no such file"):
        trained_in("work")
    np.save(path, good)
    assert trained_in("work").resumed == 1
    assert not caplog.records
    for split in ("train", "valid"):
        path = visual / f"{split}.npy"
        np.save(path, -np.load(path))
        other = trained_in("work")
        assert other.resumed == 0
        assert "checkpoint_last.pt: of another training; removed" in caplog.text
        caplog.clear()
    assert other.history[0].valid_loss == trained_in("fresh").history[0].valid_loss
    plain = MODEL.model_copy(update={"fusion": "none"})
    with_pictures, without = (
        training_fingerprint(data, plain, one, 3, folder) for folder in (visual, None)
    )
    assert with_pictures == without  # of a model that reads none


def test_a_training_with_other_contents_of_a_named_file_does_not_go_on(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    vectors = tmp_path / "vectors"
    model = MODEL.model_copy(update={"options": {**SMALL, "encoder_embed_path": str(vectors)}})
    found = []
    for number in (1, 2, 1):
        vectors.write_text(f"1 16\nthe {' '.join([str(number)] * 16)}\n")
        found.append(training_fingerprint(corpus[0], model, BRIEF, 3))
    assert found[0] == found[2] != found[1]


@old_calls()
def test_fairseq_train_does_not_go_on_with_other_pictures(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    """What its trainer asks the task for; its folders have no ``training.json``."""
    start_fairseq()
    from fairseq import tasks

    data, visual = copied(corpus, tmp_path)

    def task(shuffle: int | None = None) -> Any:
        config = configuration(data, tmp_path, MODEL, BRIEF, 1, visual).task
        config.visual_shuffle = shuffle
        made = tasks.setup_task(config)
        made.load_dataset("train")
        return made

    saved = task().get_checkpoint_dict()["MultimodalTranslationTask"]
    task().set_checkpoint_dict(saved)
    task(2).load_state_dict(saved)  # to translate is another matter
    with pytest.raises(InputError, match=re.escape("train.npy (or --visual-shuffle) is not what")):
        task(2).set_checkpoint_dict(saved)
    np.save(visual / "train.npy", -np.load(visual / "train.npy"))
    with pytest.raises(InputError, match="is not what this training began with; allowed: the same"):
        task().set_checkpoint_dict(saved)


def test_the_regulariser_alone_translates_alike_with_any_pictures(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    data, visual = corpus
    model = MODEL.model_copy(update={"fusion": "none", "regularizer_gamma": 0.1})
    training = train(data, tmp_path, model, BRIEF, seed=1, visual=visual)
    found = [
        Translator(training.best, data, folder, shuffle).translate("test", Search(nbest=2))
        for folder, shuffle in ((visual, None), (visual, 5), (None, None))
    ]
    assert found[0].hypotheses == found[1].hypotheses == found[2].hypotheses
    assert training.history[-1].valid_nll != training.history[-1].valid_loss


@pytest.mark.parametrize("fusion", ["attention_modulation", "output"])
def test_attention_of_translations(corpus: tuple[Path, Path], tmp_path: Path, fusion: str) -> None:
    data, visual = corpus
    one = BRIEF.model_copy(update={"epochs": 1})
    model = MODEL.model_copy(update={"fusion": fusion})
    training = train(data, tmp_path, model, one, seed=1, visual=visual)
    translator = Translator(training.best, data, visual)
    search = Search(beam=3, batch_size=10)
    best = translator.translate("test", search).best
    wanted = [30, 2, 17]
    for number, found in zip(wanted, translator.attention("test", search, wanted), strict=True):
        assert found.source[0] == "the"
        assert found.source[-2:] == ["bank", "</s>"]
        assert found.target == [*best[number].split(), "</s>"]
        text, picture = found.attention
        assert text.shape == (len(found.target), len(found.source))
        torch.testing.assert_close(text.sum(1), torch.ones(len(found.target)))
        assert (picture is not None) == (fusion == "attention_modulation")
        if picture is not None:
            assert picture.shape == (len(found.source),)
            assert float(picture.sum()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InputError, match="test: no line 37"):
        translator.attention("test", search, [37])


def test_sequences_of_vectors_and_fairseqs_own_models(tmp_path: Path) -> None:
    data, visual = scenes.write(tmp_path, train=40, valid=5, test=5)
    for name in ("train", "valid", "test"):
        array = np.load(visual / f"{name}.npy")
        np.save(visual / f"{name}.npy", np.stack([array, 2 * array], axis=1).astype(np.float16))
    one = BRIEF.model_copy(update={"epochs": 1})
    training = train(data, tmp_path / "a", MODEL, one, seed=1, visual=visual)
    assert len(Translator(training.best, data, visual).translate("test", Search()).best) == 5
    transformer = TranslationModel(
        architecture="transformer",
        options={
            f"{side}_{name}": size
            for side in ("encoder", "decoder")
            for name, size in (
                ("embed_dim", 8), ("ffn_embed_dim", 8), ("layers", 1), ("attention_heads", 2)
            )
        },
    )  # fmt: skip
    slow = one.model_copy(update={"decay": "inverse_sqrt", "warmup_updates": 10})
    training = train(data, tmp_path / "b", transformer, slow, seed=1)
    assert len(Translator(training.best, data).translate("test", Search()).best) == 5


def test_patience_ends_a_training() -> None:
    from papers.mmt_how2.translation.training import out_of_patience
    from papers.mmt_how2.translation.training_folder import Epoch

    def history(*losses: float) -> list[Epoch]:
        return [Epoch(n, n, 1.0, loss, loss, 1, 1.0, 1.0) for n, loss in enumerate(losses)]

    assert out_of_patience(history(3, 2, 2.5, 2.1), 2)
    assert not out_of_patience(history(3, 2, 2.5, 1.9), 2)
    assert not out_of_patience(history(3, 4, 5, 6), None)


def test_fairseq_starts_without_what_it_does_not_need(tmp_path: Path) -> None:
    """Neither scikit-learn, pandas nor torch's compiler are loaded by a training."""
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from tests.papers.mmt_how2 import scenes; from tests.papers.mmt_how2.conftest import *\n"
        "data, visual = scenes.write(Path(sys.argv[1]), train=9, valid=2, test=3)\n"
        "one = SCHEDULE.model_copy(update={'epochs': 1})\n"
        "train(data, Path(sys.argv[1]) / 'work', MODEL, one, 1, visual)\n"
        "from papers.mmt_how2.correction.minibatch_training import Minibatches, train_network\n"
        "line = torch.nn.Linear(1, 1)\n"
        "loss = lambda places: line(places[:, None].float()).sum()\n"
        "train_network(line, loss, 2, Minibatches(epochs=1), 0)\n"
        "print(sorted({'sklearn', 'pandas', 'torch._dynamo', 'scipy.stats'} & set(sys.modules)))\n"
        "import fairseq.criterions.sentence_prediction as late\n"
        "print(hasattr(late, '__file__') and late.__file__ is not None)\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", program, str(tmp_path)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n")[:2] == ["[]", "True"], done.stderr


def test_the_example_of_the_package_runs(
    corpus: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = "\n".join(
        line[4:] for line in (mmt_how2.__doc__ or "").splitlines() if line[:4] == "    "
    )
    small = text.replace("(fusion", '(architecture="multimodal_lstm_small", fusion')
    assert small != text
    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpus[1], "features")
    for seed, split in enumerate(("train", "valid", "test")):
        rows = len(np.load(corpus[1] / f"{split}.npy"))
        pairs, _ = scenes.pairs(np.random.default_rng(seed), rows)
        for language, lines in zip(("en", "pt"), pairs, strict=True):
            Path(f"{split}.{language}").write_text("\n".join(lines) + "\n")
    exec(small.replace("epochs=20", "epochs=1"), {})  # noqa: S102
    said = capsys.readouterr().out
    assert "tokens/s" in said
    assert said.count("CorpusScore(value=") == 2


# Unusable input


def copied(corpus: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    data, visual = folder / "data", folder / "visual"
    shutil.copytree(corpus[0], data)
    shutil.copytree(corpus[1], visual)
    return data, visual


def says(data: Path, visual: Path | None, text: str, **changes: Any) -> None:
    """Training ends at once, with an InputError that says ``text`` in one line."""
    with pytest.raises(InputError, match=re.escape(text)) as error:
        train(data, data.parent / "work", MODEL.model_copy(update=changes), BRIEF, 1, visual)
    assert "\n" not in str(error.value)


def test_unusable_features(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    data, visual = copied(corpus, tmp_path)
    train_rows, valid = visual / "train.npy", visual / "valid.npy"
    good = np.load(valid)
    says(data, tmp_path / "none", f"--visual-dir {tmp_path / 'none'}: no such folder")
    says(data, None, "fusion step_wise_decoder: reads pictures; a folder of features is needed")
    np.save(valid, good[:-1])
    says(data, visual, f"{valid}: 12 rows for 13 sentences (line 13 of the text has no row)")
    np.save(valid, np.concatenate((good, good)))
    says(data, visual, f"{valid}: 26 rows for 13 sentences (line 14 of the file's 26 rows")
    np.save(valid, good[:, :5])
    says(data, visual, f"{valid}: rows of 5 numbers; the model reads 8")
    broken = good.copy()
    broken[3, 2] = np.nan
    np.save(valid, broken)
    says(data, visual, f"{valid}: row 4 holds NaN or infinity")
    np.save(valid, good.astype(int))
    says(data, visual, f"{valid}: holds int64; allowed: floats")
    np.save(valid, good[0])
    says(data, visual, f"{valid}: shape (8,); allowed: (n, D) or (n, t, D)")
    valid.write_bytes(b"no array")
    says(data, visual, f"{valid}: not a .npy array")
    valid.unlink()
    says(data, visual, f"{valid}: no such file")
    train_rows.unlink()
    for path in visual.iterdir():
        path.unlink()
    says(data, visual, f"--visual-dir {visual}: holds no <split>.npy")


def test_unusable_text(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    data, visual = copied(corpus, tmp_path)
    short = {**SMALL, "max-source-positions": 4, "max-target-positions": 9}
    says(data, visual, "has (5, 4) tokens (source, target); allowed: (4, 9)", options=short)
    missing = data.parent / "missing"
    says(missing, visual, f"data {missing}: no such folder")
    for end in ("bin", "idx"):
        shutil.copy(data / f"test9.en-pt.pt.{end}", data / f"valid.en-pt.pt.{end}")
    says(data, visual, f"{data}/valid.en-pt.pt: 9 lines, valid.en-pt.en has 13: line 10 is missing")
    for end in ("bin", "idx"):
        (data / f"valid.en-pt.en.{end}").unlink()
    says(data, visual, f"{data}/valid.en-pt.en: no such text; splits: ['test'")
    shutil.rmtree(data)
    shutil.copytree(corpus[0], data)
    lines = (data / "dict.pt.txt").read_text().splitlines()
    (data / "dict.pt.txt").write_text("\n".join(lines[:2]) + "\n")
    says(data, visual, "was made with another dictionary")
    (data / "dict.pt.txt").unlink()
    named = {**SMALL, "source-lang": "en", "target-lang": "pt"}
    says(data, visual, f"{data}/dict.pt.txt: no such dictionary", options=named)


def test_lines_are_checked_before_they_are_binarised(tmp_path: Path) -> None:
    good = SentencePairs(["a b", "c"], ["x", "y z"])
    with pytest.raises(InputError, match=re.escape("no 'train'")):
        binarise({"valid": good}, tmp_path / "data")
    for bad, message in (
        (SentencePairs(["a", " "], ["x", "y"]), "train.src: line 2 is empty"),
        (SentencePairs(["a"], ["x", "y"]), "train.src: 1 lines, train.tgt has 2: line 2"),
        (SentencePairs([], []), "train.src: 0 lines"),
    ):
        with pytest.raises(InputError, match=message):
            binarise({"train": bad}, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (tmp_path / "en").write_text("a\n\nb\n")
    (tmp_path / "pt").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'en'}: line 2 is empty")):
        read_pairs(tmp_path / "en", tmp_path / "pt")
    with pytest.raises(InputError, match="none: no such file"):
        read_pairs(tmp_path / "none", tmp_path / "pt")
    (tmp_path / "en").write_text("a\nb b\nc")
    assert read_pairs(tmp_path / "en", tmp_path / "pt").source == ["a", "b b", "c"]


def test_a_dictionary_of_another_corpus(trained: Trained, tmp_path: Path) -> None:
    data, visual = copied((trained.data, trained.visual), tmp_path)
    path = data / "dict.pt.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[1:], lines[0]]) + "\n")  # as many types, in another order
    with pytest.raises(InputError, match=re.escape(f"{path}: ") + ".*not those of the checkpoint"):
        Translator(trained.training.best, data, visual)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(trained.training.last, last_path(work))
    longer = SCHEDULE.model_copy(update={"epochs": 21})
    (work / "training.json").write_text(f'"{training_fingerprint(data, MODEL, longer, 1, visual)}"')
    with pytest.raises(InputError, match="not those of the checkpoint"):
        train(data, work, MODEL, longer, seed=1, visual=visual)


def test_unusable_checkpoints(trained: Trained, tmp_path: Path) -> None:
    best = trained.training.best
    with pytest.raises(InputError, match="no such checkpoint"):
        Translator(tmp_path / "none.pt", trained.data, trained.visual)
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match="no checkpoint of fairseq"):
        Translator(tmp_path / "text.pt", trained.data, trained.visual)
    half = best.read_bytes()
    (tmp_path / "half.pt").write_bytes(half[: len(half) // 2])
    with pytest.raises(InputError, match="no checkpoint of fairseq"):
        Translator(tmp_path / "half.pt", trained.data, trained.visual)
    state = torch.load(best, weights_only=True)
    state["cfg"]["task"]["_name"] = "language_modeling"
    torch.save(state, tmp_path / "task.pt")
    with pytest.raises(InputError, match="of task language_modeling; allowed: multimodal"):
        Translator(tmp_path / "task.pt", trained.data, trained.visual)
    with pytest.raises(InputError, match="--visual-dir is needed"):
        Translator(best, trained.data).translate("test", Search())
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    np.save(narrow / "test.npy", np.zeros((37, 3), dtype=np.float32))
    with pytest.raises(InputError, match="rows of 3 numbers; the checkpoint's model reads 8"):
        Translator(best, trained.data, narrow)


def test_lines_typed_in_have_no_pictures(trained: Trained) -> None:
    """What fairseq-interactive asks the task for."""
    _, task = references(trained)
    lines, lengths = [torch.tensor([4, 5, 2])], [3]
    with pytest.raises(InputError, match="fairseq-interactive: lines that are typed in have no"):
        task.build_dataset_for_inference(lines, lengths)
    task.visual_width = None
    assert len(task.build_dataset_for_inference(lines, lengths)) == 1


def test_unusable_settings(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    data, visual = copied(corpus, tmp_path)
    says(data, visual, "fairseq: ", architecture="perceptron")
    says(data, visual, "fairseq: ", options={"no-such-option": 1})
    says(data, visual, "--arch transformer: reads no pictures", architecture="transformer",
         options={"criterion": "cross_entropy"})  # fmt: skip
    plain = {"fusion": "none", "options": {}}
    says(data, visual, "architecture transformer_lm: ", architecture="transformer_lm", **plain)
    says(data, visual, "--arch lstm_lm: does not translate", architecture="lstm_lm", **plain)
    with pytest.raises(InputError, match="give one of them"):
        train(data, tmp_path, MODEL, Schedule(epochs=1), 1, visual)
    with pytest.raises(InputError, match="nbest 3; allowed: 1 to the beam, 2"):
        Translator.translate(object.__new__(Translator), "test", Search(beam=2, nbest=3))
