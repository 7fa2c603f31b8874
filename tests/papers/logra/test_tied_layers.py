"""The gradient of a weight that several layers share has a part from each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from common.errors import InputError
from papers.logra import LogIX, LogIXScheduler, LoRAConfig
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.watching import watched
from tests.papers.logra.one_at_a_time import assert_autograd_s


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=13, n_positions=6, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).double().eval()


def tokens(n: int = 3) -> Tensor:
    return torch.randint(13, (n, 6), generator=torch.Generator().manual_seed(1))


def loss_of(model: Any, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


class Tied(nn.Module):
    """An embedding, two linear maps and a biased one, all of one weight."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(6, 6, padding_idx=0)
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=bias)
        self.first.weight = self.second.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(torch.sin(self.embed(ids)))))


def check(model: nn.Module, layers: dict[str, nn.Module], loss: Any, ids: Tensor) -> None:
    """With and without projections and biases, gradients are those of the shared parameter."""
    for bias in (False, True):
        assert_autograd_s(model, layers, loss, ids, bias)


def test_the_head_of_gpt2_has_the_gradient_of_its_embedding_too() -> None:
    model = gpt2()
    layers = watched(model)
    assert "lm_head" in layers
    assert "transformer.wte" not in layers
    check(model, layers, lambda ids: loss_of(model, ids), tokens())


def test_and_its_embedding_where_that_is_watched_that_of_the_head() -> None:
    model = gpt2()
    layers = watched(model, [nn.Embedding, nn.Linear], ["wte", "lm_head"])
    assert list(layers) == ["transformer.wte"]
    check(model, layers, lambda ids: loss_of(model, ids), tokens())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("owner", ["embed", "first", "second"])
def test_whichever_owns_the_block(owner: str, bias: bool) -> None:
    model = Tied(bias).double()
    layers = {owner: model.get_submodule(owner)}
    ids = torch.randint(6, (4, 5), generator=torch.Generator().manual_seed(1))
    check(model, layers, lambda x: model(x).pow(3).sum(), ids)


def test_two_layers_that_share_a_weight_are_one() -> None:
    model = Tied(bias=False)
    with pytest.raises(InputError, match="layers first and second share their weight; allowed"):
        Capture(model, {"first": model.first, "second": model.second})


@pytest.mark.parametrize("hessian", ["raw", "kfac", "ekfac"])
def test_scores_do_not_hang_on_projections_of_full_rank(
    new_run: Callable[..., LogIX], hessian: Any
) -> None:
    model = gpt2()

    def scored(run: LogIX, lora: Any) -> Any:
        run.set_lora_config(LoRAConfig(rank=99))
        run.watch(model, name_filter=["lm_head", "mlp"])
        for _ in LogIXScheduler(run, lora=lora, hessian=hessian, save="grad"):
            for part in torch.arange(12).chunk(3):
                with run(data_id=part):
                    loss_of(model, tokens(12)[part]).backward()
        run.finalize()
        with run(data_id=range(3)):
            loss_of(model, tokens(3).roll(1, 1)).backward()
        return run.compute_influence_all()["influence"]

    whole, principal = scored(new_run("whole"), "none"), scored(new_run("pca"), "pca")
    torch.testing.assert_close(principal, whole, rtol=1e-3, atol=1e-3)
