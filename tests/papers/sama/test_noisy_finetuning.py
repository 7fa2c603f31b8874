"""Facts of noisy finetuning: costs, stages, texts, resume, BERT, refused settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from common.data.wrench import WeakTexts, wrench
from common.errors import InputError
from common.tasks.batches import Split
from common.tasks.networks import Correction, mlp
from common.tasks.weak_supervision import WeakData, load_weak
from papers.sama import hypergradient
from papers.sama.experiments import noisy_finetuning
from papers.sama.experiments.noisy_finetuning import held_out, plan, rescaled
from papers.sama.methods.label_noise import LabelTreatment
from papers.sama.methods.weighting import LossWeights
from papers.sama.tasks.text_classifiers import Classifier, WordTransformer
from papers.sama.tasks.weak_texts import (
    PADDING,
    START,
    UNKNOWN,
    Vocabulary,
    WordSettings,
    load_texts,
    with_entities,
    words_of,
)
from tests.common.data.real_data import skip_without
from tests.papers.sama.runs import metrics_after_a_stop, metrics_of, opened, settings_of

NAME = "noisy_finetuning"


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small_data() -> WeakData:
    """Twenty training samples of three classes, ten clean ones."""
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        x = torch.randn(count, 4, generator=draw)
        return Split(x, torch.randint(0, 3, (count,), generator=draw))

    train = split(20)
    return WeakData(train, train.y, split(10), split(10), 3, None)


def treatment(method: str) -> LabelTreatment:
    """A perceptron and what treats its labels; weights differ between samples."""
    torch.manual_seed(0)
    meta: dict[str, nn.Module] = {}
    if method in ("r", "cr"):
        weigher = LossWeights(hidden=8, normalise=True)
        nn.init.normal_(weigher.out.weight)
        meta["weigher"] = weigher
    if method == "cr":
        meta["correction"] = Correction(4, 8, 3)
    return LabelTreatment(Classifier(nn.Identity(), mlp(4, 8, 3), 4), nn.ModuleDict(meta))


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("method", ["r", "cr"])
def test_hypergradients_are_those_of_networks_that_read_constants(method: str) -> None:
    data, treated = small_data(), treatment(method)
    weights = list(treated.classifier.parameters())
    params = list(treated.meta.parameters())
    meta_cost = treated.meta_cost(*data.meta)
    base_cost = treated.base_cost(*data.train)
    base_cost()  # the base step's own call, whose losses the others read
    found = hypergradient(meta_cost, base_cost, params, weights, alpha=1e-4)

    x, given = data.train
    targets: Any = one_hot(given, 3).double()
    if method == "cr":
        targets = treated.meta["correction"](x, given)
    losses = cross_entropy(treated.classifier(x), targets, reduction="none")
    cost = (treated.meta["weigher"](losses.detach()) * losses).mean()
    gradient = torch.autograd.grad(cost, weights, create_graph=True)
    vector = torch.autograd.grad(meta_cost(), weights)
    inner = torch.stack([(g * v).sum() for g, v in zip(gradient, vector, strict=True)]).sum()
    mixed = torch.autograd.grad(inner, params, allow_unused=True)
    direct = torch.autograd.grad(meta_cost(), params, allow_unused=True)
    for own, part, given_part in zip(direct, mixed, found, strict=True):
        expected = (0 if own is None else own) - (0 if part is None else part)
        assert given_part is not None
        assert torch.allclose(given_part, expected, rtol=1e-3, atol=1e-8)


def test_the_correction_learns_from_clean_labels_but_not_through_features() -> None:
    data, treated = small_data(), treatment("cr")
    treated.classifier.encoder = nn.Linear(4, 4)
    own = treated.meta_cost(*data.meta)() - treatment_loss(treated, data.meta)
    weight = treated.classifier.encoder.weight
    correction = treated.meta["correction"]
    assert isinstance(correction, Correction)
    moved, still = torch.autograd.grad(
        own, [correction.predict[0].weight, weight], allow_unused=True
    )
    assert moved.abs().max() > 0
    # Both terms have the classifier's gradient, so that their difference has none.
    assert still.abs().max() < 1e-6


def treatment_loss(treated: LabelTreatment, batch: Split) -> torch.Tensor:
    """The classifier's own mean loss."""
    return cross_entropy(treated.classifier(batch.x), batch.y)


def test_two_stages_have_all_the_steps_and_a_schedule_each() -> None:
    settings = settings_of(NAME, "two_stage", case="scaled", steps=10, clean_share=0.3)
    stages = plan(settings, treatment("weak").classifier, nn.ModuleDict(), small_data(), 0)
    assert [stage.steps for stage in stages] == [7, 3]
    assert stages[0].bilevel.optimizer is not stages[1].bilevel.optimizer
    assert {stage.bilevel.optimizer.param_groups[0]["lr"] for stage in stages} == {settings.base.lr}


def test_the_clean_set_alone_reads_no_weak_label(tmp_path: Path) -> None:
    found, worse = (
        metrics_of(
            NAME, settings_of(NAME, "clean", case="scaled", noise_rate=rate), tmp_path / str(rate)
        )
        for rate in (0.6, 0.9)
    )
    assert worse["label_accuracy_pct"] < found["label_accuracy_pct"]
    assert worse["accuracy_pct"] == found["accuracy_pct"]


def test_right_labels_get_the_weight(tmp_path: Path) -> None:
    settings = settings_of(NAME, "r_sama", "laptop", "plain", steps=250, evaluate_every=None)
    found = metrics_of(NAME, settings, tmp_path)
    assert found["weight_right"] > found["weight_wrong"] + 0.3


@pytest.mark.parametrize("arm", ["cr_sama_nudge", "two_stage"])
def test_a_stopped_run_ends_as_one_that_was_not(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"device": "cpu", "global_batch_size": 64, "save_every": 6}
    settings = settings_of(NAME, arm, case="scaled", steps=20, evaluate_every=8, core=core)
    whole = metrics_of(NAME, settings, tmp_path / "whole")
    assert metrics_after_a_stop(NAME, settings, tmp_path / "cut", monkeypatch) == whole
    histories = [tmp_path / name / "out" / "history.csv" for name in ("whole", "cut")]
    assert histories[0].read_text() == histories[1].read_text()


def test_a_part_of_the_clean_set_can_be_held_out() -> None:
    data = small_data()
    split = held_out(data, 0.4, seed=0)
    assert (len(split.test.y), len(split.meta.y)) == (4, 6)
    both = torch.cat([split.test.x, split.meta.x])
    assert torch.equal(both.sort(dim=0).values, data.meta.x.sort(dim=0).values)
    assert held_out(data, 0.0, seed=0) is data


def test_scales_of_features_are_the_same_in_all_sets() -> None:
    data = small_data()
    scaled = rescaled(data, (-1.5, 0.5), seed=3)
    factor = scaled.train.x / data.train.x
    assert torch.allclose(factor, factor[:1].expand_as(factor))
    assert torch.allclose(scaled.test.x, data.test.x * factor[:1])
    assert factor.min() >= 10**-1.5
    assert factor.max() <= 10**0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reads": "words"}, "reads: words needs texts; digits have features alone"),
        ({"clean_share": 0.01}, "clean_share: 0.01 of 4 steps leaves a stage without any"),
        ({"steps": 3}, "steps"),
        ({"meta": {"alpha": 0}}, "alpha"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings_of(NAME, "two_stage", case="scaled", **{"steps": 4} | changes)


def test_words_are_numbered_by_how_often_they_stand_in_training_texts() -> None:
    vocabulary = Vocabulary(["b a b", "a b c", ""], least_count=2)
    assert len(vocabulary) == 5
    rows = vocabulary.rows(["A c b b b", ""], length=4)
    assert rows.tolist() == [[START, 4, UNKNOWN, 3], [START, PADDING, PADDING, PADDING]]


def test_entities_stand_between_tags() -> None:
    texts = WeakTexts(
        ("the cat sat",),
        np.array([0]),
        np.array([[0]]),
        ("x",),
        np.array([[[8, 11], [4, 7]]]),
        np.array([], dtype=np.int64),
    )
    (tagged,) = with_entities(texts)
    assert words_of(tagged) == ["the", "<e2>", "cat", "</e2>", "<e1>", "sat", "</e1>"]


def test_what_fills_up_a_text_changes_nothing() -> None:
    torch.manual_seed(0)
    network = WordTransformer(20, WordSettings(max_length=9, width=8, heads=2)).eval()
    rows = torch.tensor([[2, 5, 7, 0, 0], [2, 9, 9, 4, 3]])
    alone = network(rows[:1, :3])
    assert torch.allclose(network(rows)[:1], alone, atol=1e-6)
    changed = rows.clone()
    changed[0, 1] = 6
    assert not torch.allclose(network(changed)[:1], alone, atol=1e-3)


def test_texts_have_the_same_labels_whatever_reads_them(data_root: Path, tmp_path: Path) -> None:
    skip_without("wrench", data_root)
    root = str(data_root)
    settings = settings_of(NAME, "weak", "paper", "youtube", data_root=root, text_dimensions=4)
    with opened(NAME, settings, tmp_path) as run:
        features = load_weak(settings, run)
        words = load_texts(
            "youtube",
            run,
            lambda splits: [torch.zeros(len(split), 1) for split in splits],
            data_root,
        )
    assert torch.equal(features.train.y, words.train.y)
    assert torch.equal(features.truth, words.truth)
    assert features.vote_pct == words.vote_pct
    assert len(words.test.x) == len(wrench("youtube", "test", data_root))


def test_bert_is_trained_whole(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wrench", "tokenizers"):
        skip_without(name, data_root)
    bert = {"pretrained": False, "layers": 1, "width": 16, "heads": 2, "max_length": 8}
    settings = settings_of(
        NAME,
        "cr_sama",
        "paper",
        "trec_bert",
        data="youtube",  # fewer texts
        data_root=str(data_root),
        steps=5,
        bert=bert,
        core={"device": "cpu", "precision": "fp32"},
        batch_size=4,
        meta_batch_size=4,
        meta={"unroll_steps": 5},
    )
    load, kept = noisy_finetuning.load, []

    def keeping(*given: Any) -> Any:
        data, classifier = load(*given)
        kept.append((classifier, [param.clone() for param in classifier.parameters()]))
        return data, classifier

    monkeypatch.setattr(noisy_finetuning, "load", keeping)
    found = metrics_of(NAME, settings, tmp_path / "run")
    ((classifier, before),) = kept
    changed = [not torch.equal(*pair) for pair in zip(before, classifier.parameters(), strict=True)]
    assert len(changed) > 20
    assert all(changed)
    assert 0 <= found["accuracy_pct"] <= 100
    assert 0 <= found["corrected_label_accuracy_pct"] <= 100
