"""Tokens of an encoder and of a decoder are counted by masks of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from common.errors import InputError
from papers.logra import LogIX, LogIXScheduler, LoRAConfig
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.token_masks import _say_once
from papers.logra.gradients.watching import watched
from papers.logra.scoring.influence import flatten_log
from tests.papers.logra.one_at_a_time import gradient_of

SOURCE, TARGET = 9, 5


def t5() -> Any:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=17,
        d_model=8,
        d_kv=4,
        d_ff=12,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).double().eval()


def batch(n: int = 4, target: int = TARGET, seed: int = 1) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 17, (n, SOURCE), generator=draw)
    lengths = torch.arange(n) % 4 + SOURCE - 4
    mask = (torch.arange(SOURCE) < lengths.unsqueeze(1)).long()
    labels = torch.randint(1, 17, (n, target), generator=draw)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def loss_of(model: Any, rows: dict[str, Tensor]) -> Tensor:
    logits = model(**rows).logits
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), rows["labels"].flatten(), reduction="sum"
    )


def counted(model: nn.Module, rows: dict[str, Tensor], mask: Any) -> dict[str, Statistics]:
    statistics = Statistics({"forward": ["covariance"], "backward": ["covariance"]})
    capture = Capture(model, watched(model), statistics=statistics, gradients=False)
    with capture.batch(mask) as _:
        loss_of(model, rows).backward()
    return statistics


@pytest.mark.parametrize("target", [TARGET, SOURCE])
def test_one_mask_is_of_the_encoders_tokens_whatever_the_decoders_are(target: int) -> None:
    """With other lengths it was refused, with equal ones it counted the decoder's tokens."""
    model, rows = t5(), batch(target=target)
    mask = rows["attention_mask"]
    statistics = counted(model, rows, mask)
    for kind in ("forward", "backward"):
        for name, count in statistics.counts(kind).items():
            source = name.startswith("encoder") or name.endswith(
                ("EncDecAttention.k", "EncDecAttention.v")
            )
            assert count == (int(mask.sum()) if source else 4 * target), name


def test_both_sides_have_masks_of_their_own() -> None:
    model, rows = t5(), batch()
    target = (torch.arange(TARGET) < torch.tensor([[5], [4], [3], [2]])).long()
    masks = {"encoder": rows["attention_mask"], "decoder": target}
    counts = counted(model, rows, masks).counts("forward")
    assert counts["encoder.block.0.layer.0.SelfAttention.q"] == int(masks["encoder"].sum())
    assert counts["decoder.block.0.layer.1.EncDecAttention.k"] == int(masks["encoder"].sum())
    assert counts["decoder.block.0.layer.1.EncDecAttention.q"] == 14
    assert counts["lm_head"] == 14


def test_masks_by_parts_of_names() -> None:
    model = nn.ModuleDict({"text": nn.Linear(3, 2), "picture": nn.Linear(3, 2)})
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    statistics = Statistics({"forward": ["mean"]})
    with Capture(model, watched(model), statistics=statistics).batch({"text": mask}):
        (
            model["text"](torch.randn(2, 4, 3)).sum() + model["picture"](torch.randn(2, 7, 3)).sum()
        ).backward()
    assert statistics.counts("forward") == {"text": 3.0, "picture": 14.0}
    with (
        pytest.raises(InputError, match="mask of 'sound'; allowed: parts of text, picture"),
        Capture(model, watched(model)).batch({"sound": mask}),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"mask of shape \(2, 4\); allowed: \(2, 7\).*by parts of"),
        Capture(model, watched(model), statistics=statistics).batch(mask),
    ):
        model["picture"](torch.randn(2, 7, 3))


def test_that_a_decoders_tokens_all_count_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    _say_once.cache_clear()
    model, rows = t5(), batch()
    with caplog.at_level(logging.WARNING, "logra"):
        for _ in range(2):
            counted(model, rows, rows["attention_mask"])
    assert [text for text in caplog.messages if "the decoder's all count" in text] == [
        caplog.messages[0]
    ]


@pytest.mark.parametrize("hessian", ["none", "raw", "kfac", "ekfac"])
@pytest.mark.parametrize("lora", ["none", "random", "pca"])
def test_every_hessian_of_an_encoder_and_a_decoder_of_other_lengths(
    new_run: Callable[..., LogIX], hessian: Any, lora: Any
) -> None:
    model, run = t5(), new_run()
    run.set_lora_config(LoRAConfig(rank=3))
    run.watch(model)
    rows = batch(8)
    for _ in LogIXScheduler(run, lora=lora, hessian=hessian, save="grad"):
        for part in torch.arange(8).chunk(2):
            with run(data_id=part, mask=rows["attention_mask"][part]):
                loss_of(model, {name: value[part] for name, value in rows.items()}).backward()
    run.finalize()
    with run(data_id=range(8)):
        loss_of(model, rows).backward()
    log = run.get_log()
    kind: Any = "none" if hessian == "none" else "auto"
    own = run.compute_self_influence(hessian=kind)["influence"]
    every = run.compute_influence_all(hessian=kind)["influence"]
    # Positive definite: what is nearest to a sample by H is never less than itself in sum.
    torch.testing.assert_close(every.diagonal(), own, rtol=1e-6, atol=1e-9)  # type: ignore[union-attr]
    assert float(torch.linalg.eigvalsh(every).min()) > -1e-6 * float(every.max())  # type: ignore[arg-type, union-attr]
    if lora == "none":
        found = flatten_log(log, run.layout)
        for place in range(3):
            model.zero_grad()
            loss_of(
                model, {name: value[place : place + 1] for name, value in rows.items()}
            ).backward()
            parts = [gradient_of(layer, False).flatten() for layer in watched(model).values()]
            torch.testing.assert_close(found[place], torch.cat(parts))
