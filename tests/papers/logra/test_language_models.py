"""GPT-2 read from its published form, its blocks as sequences of tokens, its layers watched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from common.data.language_modelling import wikitext2_raw
from common.data.registry import data_set
from common.data.tokenizers import byte_pair_encoder, gpt2_byte_pairs
from common.errors import InputError
from common.experiments.schema import RunKey
from common.runs.record import read_record
from common.runs.run import Run
from papers.logra.experiments.language_brittleness import PROGRAM
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.watching import watched
from papers.logra.tasks.corpora import LINES_AT_ONCE, blocks
from papers.logra.tasks.language_models import Gpt2, Gpt2Settings, TransformerSettings, measured
from papers.logra.tasks.samples import Samples, losses, margins
from tests.common.data.real_data import skip_without
from tests.papers.logra.one_at_a_time import autograd_gradients
from tests.papers.logra.runs import opened, settings_of
from tests.papers.registered import registered_as_it_lies

#: Bytes, and one merge: "th".
PIECES = [*sorted(ByteLevel.alphabet()), "th"]


def published_shapes(
    depth: int = 12, width: int = 768, words: int = 50257, places: int = 1024
) -> dict[str, tuple[int, ...]]:
    """Names and shapes in GPT-2's published file: no prefix, masks of attention, no tied head."""
    linear = {
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (words, width),
        "wpe.weight": (places, width),
    }
    for block in range(depth):
        shapes[f"h.{block}.attn.bias"] = (1, 1, places, places)
        for name, (inner, out) in linear.items():
            shapes |= {f"h.{block}.{name}.weight": (inner, out), f"h.{block}.{name}.bias": (out,)}
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{block}.{norm}.{part}": (width,) for part in ("weight", "bias")}
    return shapes | {"ln_f.weight": (width,), "ln_f.bias": (width,)}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with a GPT-2 of two blocks, a vocabulary of bytes, and a short WikiText-2."""
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2", "tokenizers", "wikitext2_raw"):
        (tmp_path / name).mkdir()
    torch.manual_seed(0)
    shapes = published_shapes(2, 16, len(PIECES), 12)
    weights = {name: torch.randn(shape) / 4 for name, shape in shapes.items()}
    save_file(weights, tmp_path / "gpt2" / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": 16,
        "n_head": 2,
        "n_layer": 2,
        "n_positions": 12,
        "resid_pdrop": 0.1,
        "vocab_size": len(PIECES),
    }
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(config))
    numbers = {piece: number for number, piece in enumerate(PIECES)}
    (tmp_path / "tokenizers" / "gpt2_vocab.json").write_text(json.dumps(numbers))
    (tmp_path / "tokenizers" / "gpt2_merges.txt").write_text("#version: 0.2\nt h\n")
    for split, lines in (("train", 40), ("valid", 12)):
        text = "".join(f" \n the word of line {line} in {split} . \n" for line in range(lines))
        (tmp_path / "wikitext2_raw" / f"wiki.{split}.raw").write_text(text)
    for name in ("gpt2", "tokenizers", "wikitext2_raw"):
        registered_as_it_lies(name, tmp_path, monkeypatch)
    return tmp_path


def gpt2(root: Path) -> Gpt2:
    return Gpt2(root / "gpt2", len(PIECES), 12)


def test_the_published_file_has_every_weight_of_gpt2() -> None:
    shapes = published_shapes()
    size = data_set("gpt2").layouts["files"].files["model.safetensors"].bytes
    assert size is not None
    header = size - 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    assert 0 < header < 200 * len(shapes)


def test_weights_of_the_published_form_are_all_read(root: Path) -> None:
    torch.manual_seed(0)
    weights = {
        name: torch.randn(shape) / 4
        for name, shape in published_shapes(2, 16, len(PIECES), 12).items()
    }
    masks = {"h.0.attn.bias", "h.1.attn.bias"}
    network = gpt2(root)
    own = dict(network.network.transformer.named_parameters())
    assert own.keys() == {name for name in weights if name not in masks}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.items())
    assert torch.equal(network.head.weight, weights["wte.weight"])  # type: ignore[arg-type]


def test_it_trains_without_dropout(root: Path) -> None:
    network = gpt2(root).train()
    tokens = torch.randint(len(PIECES), (3, 12))
    assert torch.equal(network(tokens), network(tokens))


def test_a_token_sees_earlier_ones_alone(root: Path) -> None:
    network = gpt2(root).eval()
    tokens = torch.randint(len(PIECES), (2, 12))
    changed = tokens.clone()
    changed[:, 8:] = 0
    assert torch.allclose(network(tokens)[:, :8], network(changed)[:, :8], atol=1e-6)


def test_a_corpus_of_other_words_or_longer_sequences_is_refused(root: Path) -> None:
    settings = Gpt2Settings(kind="gpt2", root=str(root))
    with pytest.raises(InputError, match="allowed: 257, its own, and at most 12"):
        settings.build(2000, 12, 0)
    with pytest.raises(InputError, match="sequences of 13; allowed"):
        settings.build(len(PIECES), 13, 0)


def test_its_watched_layers_are_the_linear_ones_of_its_blocks(root: Path) -> None:
    network = gpt2(root)
    layers = watched(network, name_filter=[".h."])
    assert [name.removeprefix("network.transformer.h.") for name in layers] == [
        f"{block}.{layer}"
        for block in range(2)
        for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    tokens = torch.randint(len(PIECES), (3, 12))
    samples = Samples(tokens[:, :-1], tokens[:, 1:])
    capture = Capture(network, layers)
    with capture.batch() as batch:
        losses(network(samples.x), samples.y).sum().backward()  # type: ignore[no-untyped-call]
    found = batch.gradients

    def loss(data: Tensor) -> Tensor:
        return losses(network(data[:, :-1]), data[:, 1:]).sum()

    expected = autograd_gradients(network, layers, loss, tokens)
    for name, rows in found.items():
        assert torch.allclose(rows, expected[name], atol=1e-3), name


def test_what_is_measured_does_not_depend_on_the_batches() -> None:
    network = TransformerSettings(width=8, depth=1, heads=2, hidden=8).build(11, 6, 0)
    tokens = torch.randint(11, (37, 7))
    samples = Samples(tokens[:, :-1], tokens[:, 1:])
    logits = network(samples.x)
    of_loss, of_margin = measured(network, samples)
    assert torch.allclose(of_loss, losses(logits, samples.y), atol=1e-5)
    assert torch.allclose(of_margin, margins(logits, samples.y), atol=1e-5)


def letters(texts: Sequence[str]) -> list[list[int]]:
    return [[ord(letter) for letter in text] for text in texts]


def test_blocks_go_on_over_lines_and_drop_the_rest_of_each_thousand() -> None:
    assert blocks(["abc", "", "defg", "h"], letters, 3).tolist() == [
        [ord(letter) for letter in text] for text in ("abc", "def")
    ]
    # Each thousand lines of 7 make 437 blocks of 16 and half of one more.
    lines = ["abcdefg"] * (2 * LINES_AT_ONCE)
    assert len(blocks(lines, letters, 16)) == 2 * 437 < 14_000 // 16


def test_the_encoder_merges_in_order_and_adds_nothing(root: Path) -> None:
    encode = byte_pair_encoder(gpt2_byte_pairs(root))
    (found,) = encode([" the\n"])
    assert [PIECES[number] for number in found] == ["Ġ", "th", "e", "Ċ"]


def test_the_encoder_is_gpt2s(data_root: Path) -> None:
    skip_without("tokenizers", data_root)
    encode = byte_pair_encoder(gpt2_byte_pairs(data_root))
    assert encode(["Hello world, real data.", ""]) == [[15496, 995, 11, 1103, 1366, 13], []]


def test_wikitext_has_as_many_blocks_as_the_paper(data_root: Path) -> None:
    skip_without("wikitext2_raw", data_root)
    encode = byte_pair_encoder(gpt2_byte_pairs(data_root))
    counts = {
        split: len(blocks(wikitext2_raw(split, data_root), encode, 512))
        for split in ("train", "valid")
    }
    assert counts == {"train": 4656, "valid": 481}


def paper_settings(root: Path, arm: str, **changes: Any) -> Any:
    """Those of the paper's run, on the small files."""
    return settings_of(
        "language_brittleness",
        arm,
        "paper",
        "wikitext",
        corpus={"length": 12, "train": 24, "queries": 4, "root": str(root)},
        network={"root": str(root)},
        training={"epochs": 1},
        device="cpu",
        removals=[4],
        retrainings=1,
        **changes,
    )


@pytest.mark.parametrize("arm", ["ekfac", "logra_random", "representation"])
def test_the_papers_run_goes_through_on_a_small_gpt2(root: Path, arm: str) -> None:
    settings = paper_settings(root, arm)
    with opened("language_brittleness", arm, settings) as run:
        record = read_record(run.finish(PROGRAM.run(settings, run)))
    assert {item.name for item in record.data} == {"gpt2", "tokenizers", "wikitext2_raw"}
    assert record.metrics.keys() == {"perplexity_0", "perplexity_4"}
    assert all(1 < value < 1e4 for value in record.metrics.values())


def test_more_blocks_than_there_are_is_an_error(root: Path) -> None:
    settings = paper_settings(root, "random")
    corpus = settings.corpus.model_copy(update={"queries": 4000})
    key = RunKey("logra", "language_brittleness", "wikitext", "random", 0, "smoke")
    settings = settings.model_copy(update={"corpus": corpus})
    with (
        Run(key, "language_brittleness", settings, Path("out"), None, {}) as run,
        pytest.raises(InputError, match=r"4000 sequences of WikiText-2's valid split; allowed: at"),
    ):
        PROGRAM.run(settings, run)
