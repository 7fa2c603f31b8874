"""Facts of the label correction experiment: votes, corrected labels, weights, hypergradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.data.wrench import wrench
from common.tasks.batches import Split
from common.tasks.networks import Correction
from common.tasks.weak_supervision import WeakData, aggregated, load_weak, majority, marked
from papers.betty.experiments.label_correction import program
from papers.betty.hypergradient import hypergradient
from tests.papers.betty.runs import metrics_after_a_stop, metrics_of, opened, settings_of

NAME = "label_correction"


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_data(seed: int = 0) -> WeakData:
    """Twenty training samples of three classes, ten clean ones."""
    draw = torch.Generator().manual_seed(seed)

    def split(count: int) -> Split:
        return Split(
            torch.randn(count, 4, generator=draw), torch.randint(0, 3, (count,), generator=draw)
        )

    train, meta, test = split(20), split(10), split(10)
    return WeakData(train, train.y, meta, test, 3, None)


def test_a_majority_is_shared_by_ties_and_by_all_where_none_votes() -> None:
    votes = np.array([[0, 0, 1], [0, 1, -1], [-1, -1, -1], [2, -1, -1]])
    third = 1 / 3
    expected = [[1, 0, 0], [0.5, 0.5, 0], [third, third, third], [0, 0, 1]]
    assert np.allclose(majority(votes, 3), expected)


def test_rows_without_votes_get_no_label_and_count_as_guesses_in_the_test_set() -> None:
    votes = np.array([[0, 0, 1], [-1, -1, -1], [2, 2, -1], [0, 1, -1]])
    labels = aggregated(votes, votes, np.array([0, 1, 1, 1]), 3, np.random.default_rng(0))
    assert labels.rows.tolist() == [0, 2, 3]
    assert labels.given[:2].tolist() == [0, 2]
    assert labels.given[2] in (0, 1)
    assert labels.vote_pct == pytest.approx(100 * (1 + 1 / 3 + 0 + 1 / 2) / 4)


def test_ties_are_drawn_evenly() -> None:
    votes = np.tile([0, 1, 2], (3000, 1))
    given = aggregated(votes, votes[:1], np.array([0]), 3, np.random.default_rng(0)).given
    assert np.bincount(given) / 3000 == pytest.approx(1 / 3, abs=0.03)


def test_a_corrected_label_lies_between_the_given_one_and_the_prediction() -> None:
    torch.manual_seed(0)
    correction = Correction(features=4, hidden=8, classes=3)
    x, given = torch.randn(50, 4), torch.randint(0, 3, (50,))
    hot = torch.nn.functional.one_hot(given, 3).float()
    with torch.no_grad():
        predicted = correction.predict(x).softmax(dim=1)
        mixed = correction(x, given)
        assert torch.allclose(mixed.sum(dim=1), torch.ones(50))
        assert (mixed >= torch.minimum(hot, predicted) - 1e-6).all()
        assert (mixed <= torch.maximum(hot, predicted) + 1e-6).all()
        for bias, end in ((100.0, hot), (-100.0, predicted)):
            correction.trust[-1].bias.fill_(bias)
            assert torch.allclose(correction(x, given), end, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "uppers"),
    [
        ("baseline", []),
        ("clean_only", []),
        ("rwt", ["reweight"]),
        ("rwt_crt", ["reweight", "correct"]),
    ],
)
def test_each_upper_problem_reads_and_is_read_by_the_classifier(
    method: str, uppers: list[str]
) -> None:
    engine = program(settings_of(NAME, "baseline", method=method), random_data(), 0)
    assert [problem.name for problem in engine.problems] == [*uppers, "classifier"]
    for upper in uppers:
        assert engine.graph.paths(upper) == [[upper, "classifier", upper]]


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("name", ["reweight", "correct"])
def test_hypergradients_are_those_of_weights_that_read_detached_losses(name: str) -> None:
    settings = settings_of(NAME, "rwt_crt", lr=1e-12, meta_lr=1e-12, correct_lr=1e-12, alpha=1e-4)
    engine = program(settings, random_data(), 0)
    engine.train()
    engine.train_step()
    classifier: Any = engine.problem("classifier")
    upper = engine.problem(name)
    batch, weights = upper.get_batch(), classifier.trainable_parameters()
    params = upper.trainable_parameters()
    found = hypergradient(upper, upper.training_step(batch), params)

    loss = upper.training_step(batch)
    direct = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    vector = torch.autograd.grad(loss, weights)
    losses = classifier.losses(*classifier.cur_batch)
    cost = (classifier.weights(losses.detach()) * losses).mean()
    gradient = torch.autograd.grad(cost, weights, create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(gradient, vector, strict=True))
    through = torch.autograd.grad(inner, params, allow_unused=True)
    assert any(part is not None and part.abs().max() > 1e-6 for part in through)
    for own, lower, given in zip(direct, through, found, strict=True):
        parts = [p for p in (own, None if lower is None else -lower) if p is not None]
        assert given is not None
        assert torch.allclose(given, torch.stack(parts).sum(dim=0), rtol=1e-3, atol=1e-8)


def test_right_labels_get_the_weight(tmp_path: Path) -> None:
    found = metrics_of(NAME, settings_of(NAME, "rwt", "laptop", iterations=300), tmp_path)
    assert found["weight_clean"] > found["weight_noisy"] + 0.3


def test_the_clean_set_alone_reads_no_weak_label(tmp_path: Path) -> None:
    settings = settings_of(NAME, "clean_only")
    others = settings_of(NAME, "clean_only", function_accuracy=[0.0, 0.1])
    found = metrics_of(NAME, settings, tmp_path / "a")
    worse = metrics_of(NAME, others, tmp_path / "b")
    assert worse["label_accuracy_pct"] < found["label_accuracy_pct"]
    assert worse["accuracy_pct"] == found["accuracy_pct"]


def test_symmetric_noise_has_the_rate_asked_for(tmp_path: Path) -> None:
    settings = settings_of(NAME, "baseline", noise="symmetric", noise_rate=0.6)
    with opened(NAME, settings, tmp_path) as run:
        data = load_weak(settings, run)
    assert float((data.train.y != data.truth).float().mean()) == pytest.approx(0.6, abs=1e-3)
    assert data.vote_pct is None


def test_a_stopped_run_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"device": "cpu", "global_batch_size": 64, "save_every": 2}
    settings = settings_of(NAME, "rwt_crt", core=core)
    whole = metrics_of(NAME, settings, tmp_path / "whole")
    assert metrics_after_a_stop(NAME, settings, tmp_path / "cut", monkeypatch) == whole
    assert metrics_of(NAME, settings, tmp_path / "again") == whole


def test_youtube_comments_have_their_published_size_but_for_rows_without_votes(
    data_root: Path, tmp_path: Path
) -> None:
    settings = settings_of(NAME, "rwt", "paper", "youtube", data_root=str(data_root))
    with opened(NAME, settings, tmp_path) as run:
        data = load_weak(settings, run)
    texts = wrench("youtube", "train", data_root)
    silent = (texts.weak_labels == -1).all(axis=1)
    silent[texts.labelled] = False
    assert len(data.train.x) == 1586 - silent.sum()
    assert (len(data.meta.x), len(data.test.x)) == (120, 250)
    assert {part.x.shape[1] for part in (data.train, data.meta, data.test)} == {256}
    assert float(data.train.x.square().mean()) == pytest.approx(1, abs=0.1)


def test_words_between_two_entities_are_told_apart(data_root: Path) -> None:
    texts = wrench("semeval", "valid", data_root)
    for text, whole, spans in zip(marked(texts), texts.texts, texts.spans, strict=True):
        first, second = sorted(spans.tolist())
        between = whole[first[1] : second[0]].split()
        assert text == " ".join([whole, *(f"between_{word}" for word in between)])
