"""Facts of BERT in the experiments: its files, features, program on sentences, hypergradients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from common.data.registry import data_set
from common.data.text_classification import trec6
from common.errors import InputError
from common.tasks.batches import Split
from common.tasks.bert_settings import BertSettings
from common.tasks.text_classifier import (
    TextClassifier,
    encoder_weights,
    frozen_features,
    identify_files,
    piece_numbers,
    read_bert,
    read_tokenizer,
)
from papers.betty.experiments.meta_weight_net import ImbalancedData, program
from papers.betty.hypergradient import hypergradient
from papers.betty.tasks.sentiment import rare_positives
from tests.common.data.real_data import skip_without
from tests.papers.betty.runs import metrics_of, settings_of
from tests.papers.registered import registered_as_it_lies

VOCABULARY = "bert-base-uncased-vocab.txt"
SMALL: dict[str, Any] = {"pretrained": False, "layers": 2, "width": 64, "heads": 2}
TINY = BertSettings(**SMALL, max_length=16)
ON_CPU = {"device": "cpu", "precision": "fp32"}
NO_SPANS = np.empty((2, 0, 2), dtype=np.int64)


@pytest.fixture
def root(data_root: Path, tmp_path: Path) -> Path:
    """A data root that has BERT's vocabulary and nothing else."""
    skip_without("tokenizers", data_root)
    (tmp_path / "root" / "tokenizers").mkdir(parents=True)
    shutil.copy(data_root / "tokenizers" / VOCABULARY, tmp_path / "root" / "tokenizers")
    return tmp_path / "root"


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def published_shapes(layers: int = 12, width: int = 768, words: int = 30522) -> dict[str, Any]:
    """Names and shapes in BERT's published file: old names of normalisations, tied output left."""
    normal = {"LayerNorm.gamma": (width,), "LayerNorm.beta": (width,)}
    attention = {
        f"attention.self.{part}.{name}": shape
        for part in ("query", "key", "value")
        for name, shape in (("weight", (width, width)), ("bias", (width,)))
    }
    layer = attention | {
        "attention.output.dense.weight": (width, width),
        "attention.output.dense.bias": (width,),
        **{f"attention.output.{name}": shape for name, shape in normal.items()},
        "intermediate.dense.weight": (4 * width, width),
        "intermediate.dense.bias": (4 * width,),
        "output.dense.weight": (width, 4 * width),
        "output.dense.bias": (width,),
        **{f"output.{name}": shape for name, shape in normal.items()},
    }
    return {
        "bert.embeddings.word_embeddings.weight": (words, width),
        "bert.embeddings.position_embeddings.weight": (512, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        **{f"bert.embeddings.{name}": shape for name, shape in normal.items()},
        **{
            f"bert.encoder.layer.{number}.{name}": shape
            for number in range(layers)
            for name, shape in layer.items()
        },
        "bert.pooler.dense.weight": (width, width),
        "bert.pooler.dense.bias": (width,),
        "cls.predictions.bias": (words,),
        "cls.predictions.transform.dense.weight": (width, width),
        "cls.predictions.transform.dense.bias": (width,),
        **{f"cls.predictions.transform.{name}": shape for name, shape in normal.items()},
        "cls.seq_relationship.weight": (2, width),
        "cls.seq_relationship.bias": (2,),
    }


def test_the_published_file_has_every_weight_of_bert_base() -> None:
    shapes = published_shapes()
    assert len(shapes) == 206
    size = data_set("bert_base_uncased").layouts["files"].files["model.safetensors"].bytes
    assert size is not None
    header = size - 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    assert 0 < header < 200 * len(shapes)
    with torch.device("meta"):
        wanted = BertModel(BertConfig()).state_dict()
        found = encoder_weights({name: torch.empty(shape) for name, shape in shapes.items()})
    assert {name: part.shape for name, part in found.items()} == {
        name: part.shape for name, part in wanted.items()
    }


def test_weights_of_the_published_form_give_the_same_outputs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) / 8 for name, shape in published_shapes(2, 64).items()}
    folder = root / "bert_base_uncased"
    folder.mkdir()
    config = {
        "model_type": "bert",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "intermediate_size": 256,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(root / "tokenizers" / VOCABULARY, folder / "vocab.txt")
    save_file(weights, folder / "model.safetensors")
    registered_as_it_lies("bert_base_uncased", root, monkeypatch)
    settings = BertSettings(max_length=16)
    assert set(identify_files(settings, root).sha256) == {
        "config.json",
        "model.safetensors",
        "vocab.txt",
    }
    bert = read_bert(settings, root).eval()
    assert torch.equal(
        bert.encoder.layer[1].output.LayerNorm.weight,
        weights["bert.encoder.layer.1.output.LayerNorm.gamma"],
    )
    pieces = piece_numbers(["a good film"], settings, root)
    hidden = nn.functional.layer_norm(
        weights["bert.embeddings.word_embeddings.weight"][pieces[0]]
        + weights["bert.embeddings.position_embeddings.weight"][:16]
        + weights["bert.embeddings.token_type_embeddings.weight"][0],
        (64,),
        weights["bert.embeddings.LayerNorm.gamma"],
        weights["bert.embeddings.LayerNorm.beta"],
        eps=1e-12,
    )
    assert torch.allclose(bert.embeddings(pieces)[0], hidden, atol=1e-5)


def test_texts_are_cut_and_filled_up_between_the_special_pieces(root: Path) -> None:
    pieces = piece_numbers(["hello", "hello " * 40], TINY, root)
    assert pieces[0].tolist() == [101, 7592, 102] + [0] * 13
    assert pieces[1].tolist() == [101] + [7592] * 14 + [102]


def test_logits_do_not_depend_on_what_fills_a_text_up(root: Path) -> None:
    torch.manual_seed(0)
    network = TextClassifier(read_bert(TINY, root), classes=3).eval()
    pieces = piece_numbers(["hello world"], TINY, root)
    with torch.no_grad():
        assert torch.allclose(network(pieces), network(pieces[:, :4]), atol=1e-6)


def test_an_entity_is_the_mean_over_its_pieces_and_zero_where_it_was_cut(root: Path) -> None:
    torch.manual_seed(0)
    bert, tokenizer = read_bert(TINY, root), read_tokenizer(TINY, root)
    texts = ["the hello of world", "hello " * 20 + "world"]
    spans = np.array([[[4, 9], [13, 18]], [[0, 5], [120, 125]]])
    found = frozen_features(bert, tokenizer, texts, spans, "pooler")
    assert found.shape == (2, 3 * 64)
    with torch.no_grad():
        states = bert(piece_numbers(texts, TINY, root)[:1, :6]).last_hidden_state[0]
    assert torch.allclose(found[0, 64:128], states[2], atol=1e-5)
    assert torch.allclose(found[0, 128:], states[4], atol=1e-5)
    assert found[1, 64:128].abs().max() > 0
    assert found[1, 128:].abs().max() == 0
    mean = frozen_features(bert, tokenizer, texts, NO_SPANS, "mean")
    assert torch.allclose(mean[0], states.mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("change", ["cut", "altered"])
def test_another_vocabulary_is_refused(root: Path, change: str) -> None:
    path = root / "tokenizers" / VOCABULARY
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if change == "cut" else whole.replace(b"\nhello\n", b"\nhullo\n"))
    with pytest.raises(InputError, match=rf"{VOCABULARY}.*sha256 is .*manifest has 07eced37"):
        identify_files(TINY, root)


def test_labels_of_questions_are_corrected_on_features_of_a_small_bert(
    data_root: Path, tmp_path: Path
) -> None:
    skip_without("wrench", data_root)
    skip_without("tokenizers", data_root)
    settings = settings_of(
        "label_correction",
        "rwt_crt",
        "paper",
        "trec_bert",
        bert=SMALL | {"max_length": 24, "pooling": "mean"},
        core=ON_CPU,
        data_root=str(data_root),
        iterations=150,
        validate_every=150,
    )
    found = metrics_of("label_correction", settings, tmp_path)
    assert found["accuracy_pct"] > 30  # the largest of six classes has 28 %
    assert 0 < found["corrected_label_accuracy_pct"] <= 100
    assert {"weight_clean", "weight_noisy", "vote_accuracy_pct"} <= set(found)


@pytest.fixture
def reviews(root: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root whose ``sst2`` holds questions for a person (1) and for a number (0)."""
    skip_without("trec6", data_root)
    (root / "sst2").mkdir()
    for split in ("train", "dev"):
        questions = trec6(split == "train", root=data_root)
        wanted = [questions.class_names.index(name) for name in ("NUM", "HUM")]
        rows = [
            f"{wanted.index(label)}\t{text}\n"
            for text, label in zip(questions.texts, questions.labels.tolist(), strict=True)
            if label in wanted
        ]
        (root / "sst2" / f"{split}.tsv").write_text("".join(rows[:500]))
    registered_as_it_lies("sst2", root, monkeypatch)
    return root


@pytest.mark.parametrize(
    ("arm", "changes"),
    [
        ("baseline", {}),
        ("fp32", {}),
        ("fp16_accumulation", {"precision": "bf16"}),  # fp16 needs a GPU
    ],
)
def test_a_small_bert_learns_sentences_of_which_few_are_positive(
    reviews: Path, tmp_path: Path, arm: str, changes: dict[str, Any]
) -> None:
    settings = settings_of(
        "system_features",
        arm,
        "paper",
        "sst_if20",
        bert=SMALL | {"max_length": 16},
        core=ON_CPU,
        data_root=str(reviews),
        meta_per_class=20,
        iterations=4,
        validate_every=2,
        batch_size=16,
        meta_batch_size=16,
        **changes,
    )
    found = metrics_of("system_features", settings, tmp_path)
    assert 0 < found["accuracy_pct"] <= found["best_accuracy_pct"] <= 100
    assert found["saved_bytes"] > 0
    assert "gpu_bytes" not in found


@pytest.mark.parametrize(
    ("experiment", "case", "arm"),
    [("label_correction", "trec_bert", "rwt"), ("system_features", "sst_if20", "fp32")],
)
def test_missing_weights_are_one_line_that_says_what_to_fetch(
    reviews: Path, data_root: Path, tmp_path: Path, experiment: str, case: str, arm: str
) -> None:
    skip_without("wrench", data_root)
    (reviews / "wrench").symlink_to(data_root / "wrench")
    settings = settings_of(experiment, arm, "paper", case, core=ON_CPU, data_root=str(reviews))
    wanted = r"python -m common\.data fetch bert_base_uncased"
    with pytest.raises(InputError, match=wanted) as caught:
        metrics_of(experiment, settings, tmp_path / "a")
    assert "\n" not in str(caught.value)
    (reviews / "bert_base_uncased").mkdir()
    with pytest.raises(InputError, match=rf"config\.json: no such file; `{wanted}"):
        metrics_of(experiment, settings, tmp_path / "b")


def random_texts(count: int = 12) -> ImbalancedData:
    """Pieces and labels without meaning."""
    draw = torch.Generator().manual_seed(0)

    def split() -> Split:
        pieces = torch.randint(1000, 2000, (count, 8), generator=draw)
        return Split(pieces, torch.arange(count) % 2)

    return ImbalancedData(split(), split(), split(), None)


def a_program(settings: Any) -> tuple[Any, Any, list[Tensor]]:
    """Classifier and weight network after one step, and the parameters of the latter."""
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=128,
        attn_implementation="eager",
        initializer_range=0.2,
    )
    network = TextClassifier(BertModel(config), classes=2)
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    engine = program(settings, network, random_texts(), 0)
    engine.train()
    engine.train_step()
    upper = engine.problem("reweight")
    return engine.problem("classifier"), upper, upper.trainable_parameters()


@pytest.mark.usefixtures("_double")
def test_the_finite_difference_through_bert_is_the_mixed_derivative() -> None:
    settings = settings_of(
        "system_features", "fp32", "paper", "sst_if20", lr=1e-12, meta_lr=1e-12, alpha=1e-5
    )
    classifier, upper, params = a_program(settings)
    weights = classifier.trainable_parameters()
    batch = upper.get_batch()
    found = hypergradient(upper, upper.training_step(batch), params)

    vector = torch.autograd.grad(upper.training_step(batch), weights)
    x, y = classifier.cur_batch
    logits = classifier.module(x)
    losses = nn.functional.cross_entropy(logits, y, reduction="none")
    cost = (upper(logits.softmax(dim=1).detach()) * losses).mean()
    gradient = torch.autograd.grad(cost, weights, create_graph=True, allow_unused=True)
    inner = sum((g * v).sum() for g, v in zip(gradient, vector, strict=True) if g is not None)
    exact = torch.autograd.grad(inner, params)
    for given, expected in zip(found, exact, strict=True):
        assert given is not None
        assert torch.allclose(given, -expected, rtol=1e-3, atol=1e-9)
    assert max(float(part.abs().max()) for part in exact) > 1e-6


@pytest.mark.parametrize("method", ["darts", "cg", "neumann"])
def test_every_method_differentiates_through_bert(method: str) -> None:
    settings = settings_of("system_features", "fp32", "paper", "sst_if20", method=method)
    _, upper, params = a_program(settings)
    found = hypergradient(upper, upper.training_step(upper.get_batch()), params)
    flat = torch.cat([part.flatten() for part in found if part is not None])
    assert torch.isfinite(flat).all()
    assert flat.abs().max() > 0


def test_positives_are_rare_as_in_the_published_script() -> None:
    labels = np.repeat([0, 1], [3310, 3610])
    for imbalance, positives in ((20, 168), (50, 67)):
        train, meta = rare_positives(labels, imbalance, 100, np.random.default_rng(0))
        assert np.bincount(labels[train]).tolist() == [3210, positives]
        assert np.bincount(labels[meta]).tolist() == [100, 100]
        assert len(np.union1d(train, meta)) == len(train) + len(meta)


def test_sentences_go_with_bert_alone() -> None:
    with pytest.raises(InputError, match="sst2 cannot be read by deep; sst2 goes with bert"):
        settings_of("system_features", "fp32", "paper", "sst_if20", network="deep")


def test_matrices_alone_decay() -> None:
    settings = settings_of("system_features", "fp32", "paper", "sst_if20")
    classifier, _, _ = a_program(settings)
    groups = classifier.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert {p.ndim for p in groups[1]["params"]} == {1}
