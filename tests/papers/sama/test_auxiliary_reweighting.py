"""Facts of auxiliary reweighting: masks, splits, what each arm reads, what the weights learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.errors import InputError
from common.tasks.scores import f1_scores
from papers.sama.experiments.auxiliary_reweighting import Training, load_task
from papers.sama.tasks.auxiliary import Rows, Sizes, make_batches
from papers.sama.tasks.masked_texts import (
    MASK,
    NOTHING,
    PADDING,
    SPECIAL,
    Marks,
    SmallEncoder,
    TextSettings,
    mask_words,
    number_words,
    read_texts,
    to_words,
)
from papers.sama.tasks.roberta_texts import RobertaSettings, read_parts
from tests.papers.sama.runs import metrics_after_a_stop, metrics_of, opened, settings_of

NAME = "auxiliary_reweighting"
#: A small encoder of few questions.
TEXTS: dict[str, Any] = {
    "digits": None,
    "texts": {
        "name": "trec6",
        "labelled": 20,
        "validation": 30,
        "vocabulary": 100,
        "max_length": 8,
        "layers": 1,
        "width": 8,
        "heads": 2,
    },
}


def trained(settings: Any, folder: Path, steps: int) -> Training:
    """Training after some steps."""
    with opened(NAME, settings, folder) as run:
        torch.manual_seed(0)
        training = Training(settings, load_task(settings, run, torch.device("cpu")))
    for _ in range(steps):
        training.step()
    return training


def test_f1_is_that_of_a_small_table_by_hand() -> None:
    predicted, labels = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 0])
    micro, macro = f1_scores(predicted, labels, 4)
    # Class 0: one right of two and two; class 1: two right of two and three; 2 and 3: none.
    assert micro == pytest.approx(60)
    assert macro == pytest.approx(100 * (0.5 + 0.8 + 0 + 0) / 4)


def test_rows_of_a_step_depend_on_the_step_alone_and_an_epoch_has_each_once() -> None:
    rows = Rows(range(10), 3, seed=1)
    first = [rows.at(step).tolist() for step in range(6)]
    assert [Rows(range(10), 3, seed=1).at(step).tolist() for step in (5, 0)] == [first[5], first[0]]
    assert len({row for batch in first[:3] for row in batch}) == 9
    assert first[:3] != first[3:]


def test_meta_data_are_those_of_the_main_task_or_a_share_apart_from_them() -> None:
    def seen(rows: Rows) -> set[int]:
        return {row for step in range(40) for row in rows.at(step).tolist()}

    same, apart = (make_batches(10, 30, Sizes(4, 4, 8, share), 0) for share in (0.0, 0.3))
    assert seen(same.main) == seen(same.meta) == set(range(10))
    assert (seen(apart.main), seen(apart.meta)) == (set(range(7)), {7, 8, 9})
    with pytest.raises(InputError, match=r"meta_share 0\.01: is 0 of 10.*allowed: 1 to 9"):
        make_batches(10, 30, Sizes(4, 4, 8, 0.01), 0)


def test_masks_hide_the_share_asked_for_mostly_by_the_mark_and_never_what_fills_up() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(SPECIAL, 500, (200, 30), generator=generator)
    words[:, 20:] = PADDING
    masked = mask_words(words, 0.15, Marks(PADDING, MASK, SPECIAL, 500), generator)
    hidden = masked.targets != NOTHING
    assert not hidden[:, 20:].any()
    assert float(hidden[:, :20].float().mean()) == pytest.approx(0.15, abs=0.02)
    assert torch.equal(masked.targets[hidden], words[hidden])
    assert torch.equal(masked.words[~hidden], words[~hidden])
    shares = (masked.words[hidden] == MASK), (masked.words[hidden] == words[hidden])
    assert [float(part.float().mean()) for part in shares] == pytest.approx([0.8, 0.1], abs=0.06)


def test_at_least_one_word_of_a_batch_is_hidden() -> None:
    words = torch.full((1, 4), SPECIAL)
    generator = torch.Generator().manual_seed(0)
    masked = mask_words(words, 1e-6, Marks(PADDING, MASK, SPECIAL, 9), generator)
    assert int((masked.targets != NOTHING).sum()) == 1


def test_words_are_numbered_by_frequency_and_unknown_ones_share_a_number() -> None:
    numbers = number_words(["What is it ?", "what IS this"], SPECIAL + 2)
    assert numbers == {"is": SPECIAL, "what": SPECIAL + 1}
    words = to_words(["what is this ?", ""], numbers, 3)
    assert words.tolist() == [[SPECIAL + 1, SPECIAL, 2], [2, PADDING, PADDING]]


def test_the_encoder_reads_nothing_of_what_fills_up() -> None:
    torch.manual_seed(0)
    settings = TextSettings(name="trec6", max_length=9, width=8, heads=2, layers=1)
    network = SmallEncoder(settings, 50, 3).eval()
    words = torch.randint(SPECIAL, 50, (4, 6))
    filled = nn.functional.pad(words, (0, 3), value=PADDING)
    assert_close(network(words), network(filled))
    places = torch.zeros(4, 6, dtype=torch.bool)
    places[:, 2] = True
    assert network.fill_in(words, places).shape == (4, 50)


def test_questions_of_the_parts_are_apart_and_their_sizes_as_asked_for(
    data_root: Path, tmp_path: Path
) -> None:
    settings = settings_of(NAME, "sama", case="half", **TEXTS)
    texts = settings.texts.model_copy(update={"root": str(data_root)})
    with opened(NAME, settings, tmp_path) as run:
        parts, marks = read_texts(texts, run)
        with pytest.raises(
            InputError, match=r"labelled and validation: 6030 texts; trec6 has 5452"
        ):
            read_texts(texts.model_copy(update={"labelled": 6000}), run)
    sizes = [len(part.labels) for part in (parts.train, parts.validation, parts.test)]
    assert sizes == [5452 - 30, 30, 500]
    assert (parts.labelled, parts.classes, marks.end) == (20, 6, 100)


@pytest.mark.parametrize(
    ("method", "main", "auxiliary"), [("main_only", True, False), ("constant", True, True)]
)
def test_a_method_trains_the_heads_of_the_losses_that_it_has(
    method: str, main: bool, auxiliary: bool, tmp_path: Path
) -> None:
    settings = settings_of(NAME, "sama", case="half", method=method)
    start, end = (trained(settings, tmp_path / str(n), n).task.network for n in (0, 3))
    for head, moves in (("main", main), ("auxiliary", auxiliary)):
        before, after = (getattr(network, head).weight for network in (start, end))
        assert torch.equal(before, after) != moves


def test_pretraining_comes_first_and_is_of_the_auxiliary_losses_alone(tmp_path: Path) -> None:
    settings = settings_of(NAME, "sama", case="half", method="pretrain", steps=3)
    training = trained(settings, tmp_path, 3)
    start = trained(settings, tmp_path / "start", 0).task.network
    assert training.main.count == 0
    assert training.in_main_stage
    assert torch.equal(training.task.network.main.weight, start.main.weight)
    assert not torch.equal(training.task.network.auxiliary.weight, start.auxiliary.weight)


def test_weights_start_at_one_and_the_first_steps_are_those_of_constant_ones(
    tmp_path: Path,
) -> None:
    """Until the first meta step, after ``unroll_steps`` base steps."""
    learned, constant = (
        trained(settings_of(NAME, "sama", case="half", method=method), tmp_path / method, 5)
        for method in ("learned", "constant")
    )
    states = [each.task.network.state_dict() for each in (learned, constant)]
    assert_close(*states)


def test_right_labels_get_more_weight_than_random_ones(tmp_path: Path) -> None:
    settings = settings_of(NAME, "sama", case="half", steps=150, evaluate_every=150)
    found = metrics_of(NAME, settings, tmp_path)
    assert found["weight_right"] > found["weight_random"] + 0.3


def test_one_kind_of_task_is_asked_for() -> None:
    with pytest.raises(InputError, match="digits, texts, roberta: allowed: one of them"):
        settings_of(NAME, "sama", case="half", digits=None)


@pytest.mark.parametrize(("arm", "texts"), [("dapt", False), ("sama", True)])
def test_a_stopped_training_ends_as_one_that_was_not(
    arm: str, texts: bool, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"device": "cpu", "precision": "fp32", "global_batch_size": 32, "save_every": 4}
    changes = dict(TEXTS) if texts else {}
    if texts:
        changes["texts"] = {**TEXTS["texts"], "root": str(data_root)}
    settings = settings_of(NAME, arm, case="half", core=core, steps=12, evaluate_every=6, **changes)
    whole = metrics_of(NAME, settings, tmp_path / "whole")
    assert metrics_after_a_stop(NAME, settings, tmp_path / "cut", monkeypatch) == whole


def questions(folder: Path, broken: str = "") -> Path:
    """A set of three parts as JSON lines."""
    folder.mkdir()
    for part in ("train", "dev", "test"):
        rows = [{"text": f"who is {name} ?", "intent": name} for name in ("a", "b")]
        lines = [json.dumps(row) for row in rows * 4] + ([broken] if broken else [])
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    return folder


def test_texts_in_folders_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    folder = str(questions(tmp_path / "a"))
    settings = RobertaSettings(name="acl_arc", folder=folder, label="intent")
    parts = read_parts(settings)
    assert parts.classes == 2
    assert parts.labels[0].tolist() == [0, 1] * 4
    assert set(parts.sha256) == {"train.jsonl", "dev.jsonl", "test.jsonl"}
    other = str(questions(tmp_path / "b", '{"text": "who ?"}'))
    for change, message in (
        ({"folder": None}, r"roberta\.folder: not given.*--set roberta\.folder=FOLDER"),
        ({"folder": str(tmp_path / "none")}, r"train\.jsonl: no such file"),
        ({"folder": other}, r"line 9 has no text and 'intent'"),
    ):
        with pytest.raises(InputError, match=message):
            read_parts(settings.model_copy(update=change))


def test_a_small_roberta_trains_from_folders_by_epochs(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    weights = tmp_path / "weights"
    words = ["<s>", "<pad>", "</s>", "<unk>", *"whoisab?", "\u0120", "<mask>"]
    numbers = {word: place for place, word in enumerate(words)}
    config = transformers.RobertaConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    transformers.RobertaForMaskedLM(config).save_pretrained(weights)
    (weights / "vocab.json").write_text(json.dumps(numbers), encoding="utf8")
    (weights / "merges.txt").write_text("#version: 0.2\n", encoding="utf8")
    roberta = {
        "folder": str(questions(tmp_path / "set")),
        "weights": str(weights),
        "max_length": 16,
    }
    settings = settings_of(
        NAME, "sama", "paper", "acl_arc", roberta=roberta, batch_size=4, steps=6, evaluate_every=3
    )
    found = metrics_of(NAME, settings, tmp_path)
    assert found["best_step"] in (6, 12)  # two batches of four in an epoch
    assert found["mean_weight"] == pytest.approx(1, abs=0.01)
