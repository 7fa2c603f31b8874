"""Lists of most valuable texts: who stands on them, and what is kept to be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from common.results.evidence.archives import write_archive
from common.results.records import Results
from papers.logra.experiments.retrieval import MIXED, chosen_queries, mix, telling_words
from papers.logra.measures.outliers import list_metrics
from papers.logra.targets.listings import listing_examples
from papers.logra.tasks.corpora import CorpusSettings, generated
from papers.logra.tasks.word_names import made_up, topic_name
from tests.papers.logra.runs import FOLDER, metrics_of

CORPUS = CorpusSettings(name="generated", length=12, train=40, queries=6, topics=4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("topics", "private", "shared"), [(8, 16, 8), (3, 80, 75), (90, 3, 0)])
def test_made_up_words_differ_and_tell_their_topic(topics: int, private: int, shared: int) -> None:
    words = made_up(topics, private, shared)
    assert len(set(words)) == len(words) == topics * private + shared
    for place, word in enumerate(words):
        if place < topics * private:
            assert word.startswith(topic_name(place // private, topics))
        else:
            assert word[0] in "aeiou"


def test_half_of_the_words_of_every_twentieth_text_are_others() -> None:
    before = generated(CORPUS, 0)
    after = mix(before, 0.05)
    assert before.train_topics is not None
    assert after.train_topics is not None
    mixed = (after.train_topics == MIXED).nonzero().flatten().tolist()
    assert mixed == [0, 20]
    for place in range(CORPUS.train):
        same = after.train.x[place] == before.train.x[place]
        assert same[::2].all()
        assert bool(same.all()) == (place not in mixed)
    assert after.train.x[:, 1:].equal(after.train.y[:, :-1])
    assert mix(before, 0).train.x.equal(before.train.x)


def test_shares_of_lists_are_counted() -> None:
    scores = torch.arange(30.0).repeat(2, 1)
    scores[1] *= -1
    # The lists are 20 to 29 and 0 to 9.
    found = list_metrics(scores, torch.tensor([0, 15, 29, 28]))
    assert found == {"outlier_share": pytest.approx(3 / 20), "listed_samples": 20}
    assert list_metrics(scores[:1].repeat(4, 1), torch.tensor([3]))["listed_samples"] == 10


def test_words_that_many_texts_have_tell_nothing() -> None:
    # 7 is in every text, 1 in one of four, 2 in two of four, twice in one.
    texts = torch.tensor([[7, 1, 1], [7, 2, 2], [7, 2, 9], [7, 8, 8]])
    assert telling_words(texts) == {1, 9, 8}


def test_queries_are_the_first_ones_and_those_that_relatif_changes_most() -> None:
    plain = torch.arange(12.0).repeat(5, 1)
    relative = plain.clone()
    relative[4] *= -1  # other texts altogether
    relative[3, 11] = -1  # one other text, and the outlier goes
    scores = {"influence": plain, "relatif": relative}
    outlier = torch.tensor([11])
    assert chosen_queries(scores, outlier, 4) == {0: False, 1: False, 4: True, 3: True}
    assert chosen_queries(scores, torch.tensor([0]), 3) == {0: False, 1: False, 3: True}
    assert chosen_queries({"influence": plain}, outlier, 2) == {0: False, 1: False}


def test_a_run_keeps_lists_that_a_listing_shows() -> None:
    found = metrics_of("retrieval", "lists", mixed=0.1)
    methods = ("influence", "relatif", "gradient_dot", "representation")
    assert {name.rpartition("_topic")[0] for name in found if "topic" in name} == set(methods)
    results = Results.load(FOLDER, "smoke", experiments=["retrieval"])
    kept = results.first("retrieval", "lists", "topics").read_json("examples.json")
    for query in kept:
        for texts in query["lists"].values():
            scores = [text["score"] for text in texts]
            assert scores == sorted(scores, reverse=True)
            for text in texts:
                shared = {text["words"][place] for place in text["shared"]}
                assert shared <= set(query["words"])

    shown = listing_examples(results)
    assert len(shown.entries) == len(kept) == 4
    for entry in shown.entries:
        marked = {
            text.words[place]
            for ranking in entry.rankings
            for text in ranking.texts
            for place in text.marked
        }
        assert {entry.query.words[place] for place in entry.query.marked} == marked
        plain, relative = (
            {" ".join(text.words): text for text in ranking.texts} for ranking in entry.rankings
        )
        for here, other in ((plain, relative), (relative, plain)):
            assert {words for words, text in here.items() if "only here" in text.tags} == {
                words for words in here if words not in other
            }


def test_no_text_gets_into_the_archive(tmp_path: Path) -> None:
    metrics_of("retrieval", "lists")
    results = Results.load(FOLDER, "smoke", experiments=["retrieval"])
    kept = results.first("retrieval", "lists", "topics").read_json("examples.json")
    path = write_archive(tmp_path / "laptop.jsonl", [item.record for item in results.stored])
    archived = path.read_text(encoding="utf8")
    strings = {word for query in kept for word in query["words"]}
    assert not strings & set(json.dumps(archived).replace('\\"', " ").split())
    assert " ".join(kept[0]["words"][:3]) not in archived
