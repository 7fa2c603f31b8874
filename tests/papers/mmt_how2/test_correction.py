"""Correctors of recognised speech: what is counted, what is refused, and that pictures are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from common.errors import InputError
from common.experiments.schema import load_paper
from common.experiments.settings import validated
from common.results.records import Results
from common.runs.record import Record
from common.training.checkpoint import Checkpoint
from papers.mmt_how2.corpora.correction_corpus import (
    CorrectionText,
    correction_corpus,
    measure_floor_wer,
)
from papers.mmt_how2.corpora.heard_speech import HeardSpeech, read_how2_speech
from papers.mmt_how2.corpora.pictured_text import Sizes
from papers.mmt_how2.corpora.spoken_words import NOTHING
from papers.mmt_how2.correction.word_language_model import WordLanguageModel
from papers.mmt_how2.experiments.correction import CorrectionSettings
from papers.mmt_how2.targets.correction_figures import asr_figure2, asr_figure3
from papers.mmt_how2.targets.correction_tables import (
    FULL,
    RECOGNISED,
    ROWS,
    asr_table3,
    asr_table4,
    corrected_cells,
)
from papers.mmt_how2.translation.subwords import Units
from tests.papers.mmt_how2.runs import FOLDER, record_of

RATES = ("substitution_pct", "deletion_pct", "insertion_pct")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """All five systems and rescoring, hardly trained."""
    folder = tmp_path_factory.mktemp("results")
    return folder, record_of("correction", "recognised", "units", folder)[0]


def results_of(small: tuple[Path, Record]) -> Results:
    """That record as tables and figures read it."""
    return Results.load(FOLDER, "smoke", small[0], ["correction"])


def outputs_of(record: Record) -> list[str]:
    """Names of what was scored on the test split."""
    ending = "_function_pairs_count"
    return [name.removesuffix(ending) for name in record.metrics if name.endswith(ending)]


def test_kinds_of_errors_add_up_and_gains_are_over_the_input(small: tuple[Path, Record]) -> None:
    metrics = small[1].metrics
    outputs = outputs_of(small[1])
    assert len(outputs) == 1 + 5 + 1 + 3  # input, systems, others' pictures, rescored
    for name in outputs:
        total = sum(metrics[f"{name}_{rate}"] for rate in RATES)
        assert total == pytest.approx(metrics[f"{name}_wer_pct"])
        gain = metrics["input_wer_pct"] - metrics[f"{name}_wer_pct"]
        assert metrics[f"{name}_gain_pct"] == pytest.approx(gain)
    assert "word2word_permuted_wer_pct" not in metrics  # it reads no pictures


def test_substitutions_listed_are_those_counted(small: tuple[Path, Record]) -> None:
    results = results_of(small)
    stored = results.records(*RECOGNISED)[0]
    lists = stored.read_json("substitutions.json")
    text = CorrectionSettings.model_validate(small[1].settings).text
    words = sum(len(line.split()) for line in correction_corpus(text, 0)["test"].target)
    for name in outputs_of(small[1]):
        count = sum(times for *_, times in lists[name])
        assert 100 * count / words == pytest.approx(small[1].metrics[f"{name}_substitution_pct"])


def test_rescoring_does_no_harm_where_it_was_chosen_and_overlaps_as_it_says(
    small: tuple[Path, Record],
) -> None:
    metrics = small[1].metrics
    name = "char2word_visual"
    alone, je, lm, both = (
        metrics[f"{name}{kind}_wer_pct"] for kind in ("", "_je", "_lm", "_je_lm")
    )
    assert metrics[f"{name}_overlap_pct"] == pytest.approx(
        (alone - je) + (alone - lm) - (alone - both)
    )
    for kind in ("je", "lm", "je_lm"):
        assert metrics[f"{name}_{kind}_valid_wer_pct"] <= metrics[f"{name}_valid_wer_pct"]
        assert metrics[f"{name}_oracle_wer_pct"] <= metrics[f"{name}_{kind}_wer_pct"]
    assert metrics[f"{name}_je_beta_share"] == metrics[f"{name}_lm_alpha_share"] == 0
    rows = results_of(small).records("correction")[0].read_csv("grid.csv")
    assert len(rows) == 4
    assert rows["wer_pct"].min() == pytest.approx(metrics[f"{name}_je_lm_valid_wer_pct"])


def test_tables_hold_the_printed_numbers(small: tuple[Path, Record]) -> None:
    results = results_of(small)
    printed = {cell.row: cell.published for cell in asr_table3(results).cells}
    assert [printed[one.title] for one in ROWS if one.published] == [
        *(20.41, 26.70, 23.08, 22.18, 20.75, 20.37, 20.16, 20.17, 20.15)
    ]
    left = asr_table4(results)
    assert left.cell("the -> a", "times", "times").published_text == "46"
    assert left.cell("in -> and", "more than before", "more than before").published_text == "-3"
    cells = {(cell.row, cell.column): cell for cell in corrected_cells(results)}
    full = [cells["+ correction + picture + JE + LM", kind] for kind in ("insertion", "all")]
    assert [cell.published for cell in full] == [4.23, 20.15]
    assert full[1].mean == pytest.approx(small[1].metrics[f"{FULL}_wer_pct"])


def test_drawings_show_the_sizes_of_the_run(small: tuple[Path, Record]) -> None:
    results = results_of(small)
    wanted = {
        asr_figure2: ("1 layer of 2 × 32", "1 layer of 64", "feature of the video\n64", "64 + 50"),
        asr_figure3: ("GRU\n32", "margin 0.2", "15 nearest"),
    }
    for draw, words in wanted.items():
        figure = draw(results).figure
        written = "\n".join(text.get_text() for text in figure.axes[0].texts)
        plt.close(figure)
        assert all(word in written for word in words)


def test_the_picture_repairs_what_the_scene_tells_and_misleads_where_it_is_anothers(
    tmp_path: Path,
) -> None:
    sizes = {"train": 1200, "valid": 50, "test": 200}
    record, _ = record_of(
        "correction", "context_dominated", "pictures", tmp_path, "laptop", text={"sizes": sizes}
    )
    found = record.metrics
    assert found["visual_wer_pct"] < found["floor_wer_pct"] + 1
    assert found["text_wer_pct"] > found["input_wer_pct"] - 1
    assert found["visual_permuted_wer_pct"] > found["input_wer_pct"]


def test_lost_and_added_words_are_as_many_as_asked_and_leave_no_floor() -> None:
    knobs = CorrectionText(
        function_errors=0, twin_errors=0, deletion=0.1, sizes=Sizes(train=1, valid=1, test=2000)
    )
    lost = correction_corpus(knobs, 1)["test"]
    words = [sum(len(line.split()) for line in lines) for lines in (lost.source, lost.target)]
    assert words[0] / words[1] == pytest.approx(0.9, abs=0.01)
    more = correction_corpus(knobs.model_copy(update={"deletion": 0, "insertion": 0.1}), 1)["test"]
    assert more.target == lost.target
    words = [sum(len(line.split()) for line in lines) for lines in (more.source, more.target)]
    assert words[0] / words[1] == pytest.approx(1.1, abs=0.01)
    with pytest.raises(InputError, match="the floor is known where both are 0"):
        measure_floor_wer(lost)


@pytest.mark.parametrize("unit", ["words", "characters", "byte_pairs"])
def test_where_nothing_was_heard_the_corrector_reads_one_unit(unit: Any, tmp_path: Path) -> None:
    speech = HeardSpeech({"test": ("", "to a")}, {"test": ("the", "to a")}, tmp_path)
    marked, kept = speech.pairs["test"].source
    assert kept == "to a"
    assert Units(unit=unit, size=5).learned(["to a", "to the"]).cut(marked) == NOTHING


def how2_below(root: Path, heard: str, said: str) -> Path:
    """A root with three splits of that text and one row of features for each line said."""
    rows = np.zeros((said.count("\n"), 2048), dtype=np.float32)
    features = root / "how2_full" / "features" / "resnext101-action-avgpool-300h"
    for folder in (features, root / "how2_recognised"):
        folder.mkdir(parents=True)
    for split in ("train", "val", "dev5"):
        text = root / "how2_full" / "data" / split / "text.en"
        text.parent.mkdir(parents=True)
        text.write_text(said, encoding="utf8")
        np.save(features / f"{split}.npy", rows)
        (root / "how2_recognised" / f"{split}.hyp").write_text(heard, encoding="utf8")
    return root


def test_how2_is_lower_case_without_signs_and_keeps_its_empty_lines(tmp_path: Path) -> None:
    root = how2_below(tmp_path, "so it's a pike\n\n", "So, it's a PIPE!\nHi.\n")
    speech = read_how2_speech(tmp_path / "pictures", root)
    assert speech.heard["test"] == ("so it's a pike", "")
    assert speech.said["valid"] == ("so it's a pipe", "hi")
    assert speech.read_pictures("train").shape == (2, 2048)


def test_how2_without_a_line_for_each_transcript_is_refused(tmp_path: Path) -> None:
    root = how2_below(tmp_path, "one\n", "one\ntwo\n")
    with pytest.raises(InputError, match="1 lines of train for 2 transcripts"):
        read_how2_speech(tmp_path / "pictures", root)
    with pytest.raises(InputError, match="'how2_recognised' is in none of"):
        read_how2_speech(tmp_path / "pictures", how2_below(tmp_path / "b", "", "").parent / "none")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rescoring": {"systems": ["char2char"]}}, "'char2char'; allowed: word2word, sub"),
        ({"systems": {"input": {}}}, "'input' is what they are given"),
        ({"text": {"deletion": 2}}, "text.deletion': .* got 2"),
    ],
)
def test_settings_that_are_refused(change: dict[str, Any], says: str) -> None:
    raw = load_paper(FOLDER).settings("correction", "recognised", "units", "smoke", change)
    with pytest.raises(InputError, match=says):
        validated(CorrectionSettings, raw, "correction")


def test_a_run_that_was_killed_goes_on_to_the_same_record(
    small: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the language model learns: systems and the joint embedding are there."""
    always = partial(Checkpoint, seconds=0)
    monkeypatch.setattr("papers.mmt_how2.methods.rescored_correction.Checkpoint", always)
    with monkeypatch.context() as patch:
        patch.setattr(WordLanguageModel, "sums", lambda *_: next(iter(())))
        with pytest.raises(StopIteration):
            record_of("correction", "recognised", "units", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("papers.mmt_how2.translation.training.one_epoch", None)
        patch.setattr("papers.mmt_how2.correction.joint_embedding.two_way_hinge", None)
        record, _ = record_of("correction", "recognised", "units", tmp_path)
    whole = small[1]

    def repeated(one: Record) -> dict[str, float]:
        return {k: v for k, v in one.metrics.items() if not k.endswith(("_per_s", "_cpu_s"))}

    assert repeated(record) == repeated(whole)
    assert record.artifacts == whole.artifacts


def test_a_gpu_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match=r"schedule\.gpu: true: there is no GPU here"):
        record_of("correction", "recognised", "units", tmp_path, schedule={"gpu": True})
