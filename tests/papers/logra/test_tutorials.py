"""The tutorials run, and end as they say."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from common import ROOT
from papers.logra import LogIX
from tests.papers.pages import run


@pytest.fixture(autouse=True)
def in_a_fresh_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_images_owe_most_to_images_of_their_digit() -> None:
    names = run("papers/logra/README.md", parts=1)
    labels = names["labels"]
    same = labels[names["top"]["positions"]] == labels[names["queries"], None]
    # One in ten by chance.
    assert same.float().mean() > 0.5


def test_wrong_labels_explain_themselves() -> None:
    names = run("docs/logra/attribution.md", parts=1)
    assert names["found"] > 0.6  # a fifth by chance
    labels, places = names["labels"], names["top"]["positions"]
    assert (labels[places] == labels[names["failures"], None]).float().mean() > 0.5


def test_texts_of_a_topic_are_found_by_hugging_faces_trainer() -> None:
    pytest.importorskip("transformers")
    names = run("docs/logra/huggingface.md", parts=1)
    assert names["share"] > 0.5  # one in sixteen by chance
    assert names["scores"]["influence"].shape == (8, 96)


def test_samples_of_a_class_are_found_by_lightnings_trainer() -> None:
    pytest.importorskip("lightning")
    names = run("docs/logra/lightning.md", parts=1)
    assert names["share"] > 0.6  # a quarter by chance
    assert names["scores"]["influence"].shape == (200, 200)


def test_all_calls_of_a_run_are_on_their_page() -> None:
    page = (ROOT / "docs/logra/calls.md").read_text(encoding="utf8")
    calls = {
        name
        for name, member in inspect.getmembers(LogIX, inspect.isfunction)
        if not name.startswith("_")
    }
    missing = {name for name in calls if not re.search(rf"\b{name}\b", page)}
    assert missing == set()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)\(", row.split("|")[1])}
    assert named <= calls
    assert len(named) > 15
