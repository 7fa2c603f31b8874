"""The smaller experiments: corpora, Lemma 1, wrong labels, costs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from common.training.checkpoint import Checkpoint
from papers.logra.experiments import language_brittleness
from papers.logra.experiments.language_brittleness import (
    run_language_brittleness,
    topic_metrics,
)
from papers.logra.experiments.mislabel_detection import roc_area
from papers.logra.tasks.corpora import CorpusSettings, generated
from papers.logra.tasks.language_models import perplexity
from papers.logra.tasks.samples import Samples
from tests.papers.logra.runs import metrics_of, opened, settings_of

CORPUS = CorpusSettings(name="generated", length=12, train=40, queries=6, topics=4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_document_has_words_of_its_topic_and_shared_ones_alone() -> None:
    corpus = generated(CORPUS, seed=0)
    shared = CORPUS.topics * CORPUS.private_words
    assert corpus.vocabulary == shared + CORPUS.shared_words
    assert corpus.train_topics is not None
    for words, topic in zip(corpus.train.x, corpus.train_topics, strict=True):
        private = words[words < shared]
        assert (private // CORPUS.private_words == topic).all()
    assert corpus.train.x[:, 1:].equal(corpus.train.y[:, :-1])
    assert corpus.train.x.equal(generated(CORPUS, 0).train.x)


class Uniform(nn.Module):
    def forward(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 13)


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity() -> None:
    tokens = torch.randint(13, (4, 9))
    assert perplexity(Uniform(), Samples(tokens, tokens)) == pytest.approx(13, rel=1e-5)


def test_lists_of_the_topic_match_it() -> None:
    corpus = generated(CORPUS, 0)
    assert corpus.train_topics is not None
    assert corpus.query_topics is not None
    same = corpus.query_topics[:, None] == corpus.train_topics
    assert topic_metrics(corpus, same.float())["topic_match_at_5"] == 1
    assert topic_metrics(corpus, -same.float())["topic_match_at_5"] == 0


def test_a_language_run_tells_perplexities_and_keeps_examples() -> None:
    found = metrics_of("language_brittleness", "logra_random")
    assert found["perplexity_0"] > 1
    assert found["perplexity_8"] > 1
    assert 0 <= found["topic_match_at_5"] <= 1
    kept = Path("results/smoke/logra/language_brittleness/topics/logra_random/seed0/examples.json")
    assert kept.is_file()


class Killed(BaseException):
    """In place of a signal that ends the process."""


def test_a_killed_language_run_goes_on_for_its_own_order_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As other scores give it, where they do not come out alike again."""
    name, arm = "language_brittleness", "logra_random"
    settings, measured = settings_of(name, arm, removals=[8, 16]), []

    def ends(order: int, kill: int = 0) -> dict[str, float]:
        generator = torch.Generator().manual_seed(order)
        scores = torch.randn(8, 48, generator=generator)

        def measure(*args: Any) -> float:
            measured.append(order)
            if len(measured) == kill:
                raise Killed
            return perplexity(*args)

        monkeypatch.setattr(language_brittleness, "attribute", lambda *_: scores)
        monkeypatch.setattr(language_brittleness, "perplexity", measure)
        with opened(name, arm, settings) as run:
            return run_language_brittleness(settings, run)

    whole = [ends(order) for order in (1, 2)]
    monkeypatch.setattr(language_brittleness, "Checkpoint", partial(Checkpoint, seconds=0))
    measured.clear()
    with pytest.raises(Killed):
        ends(1, kill=3)
    assert ends(2) == whole[1]
    assert ends(1) == whole[0]
    assert measured == [1, 1, 1, 2, 2, 2, 1, 1]


def test_the_area_under_the_curve_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    values, positive = rng.integers(0, 9, 50), rng.random(50) < 0.3
    found = roc_area(torch.from_numpy(values), torch.from_numpy(positive))
    assert found == pytest.approx(roc_auc_score(positive, values))


def test_wrong_labels_influence_themselves_most() -> None:
    found = metrics_of("mislabels", "self_influence")
    assert found["auc"] > 0.85
    assert found["found_at_20_pct"] >= found["found_at_10_pct"] > 40


def test_lemma_1_holds_for_every_damping() -> None:
    found = metrics_of("spectrum", "head")
    assert max(found[f"lemma_error_{d}"] for d in ("0.01", "0.1", "1")) < 1e-2
    assert found["largest_deviation_of_train"] < 1e-6
    kept = [found[f"effective_directions_{d}"] for d in ("0.01", "0.1", "1")]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] < found["directions"]


def test_a_logged_gradient_takes_as_many_bytes_as_it_has_numbers() -> None:
    found = metrics_of("efficiency", "logra_1_4")
    # 16 sequences; 4 linear layers of one block at rank 4; 4 bytes each, and the files' headers
    assert 16 * 4 * 4 * 4 * 4 <= found["storage_bytes"] < 16 * 4 * 4 * 4 * 4 + 4096
    assert not Path("work/smoke/logra/efficiency/logra_1_4/seed0/log").exists()


def test_both_methods_tell_the_same_costs() -> None:
    logra, ekfac = (metrics_of("efficiency", arm) for arm in ("logra_1_4", "ekfac"))
    assert logra.keys() - ekfac.keys() == {"grad_tokens_per_s", "finalize_s"}
    assert logra["influence_peak_bytes"] < ekfac["influence_peak_bytes"]


def test_the_projections_sizes_are_those_of_the_formula() -> None:
    found = metrics_of("projection_cost", "projections", width=32, rank=4)
    n, k = 32 * 32, 16
    assert found["dense_bytes"] == 4 * n * k
    assert found["logra_bytes"] == 4 * (4 * 32 + 4 * 32)
