"""torch's attention is four layers with the gradients of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.logra import LogIX, LogIXScheduler, LoRAConfig
from papers.logra.gradients.attention import InProjection
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.watching import watched
from papers.logra.scoring.influence import flatten_log
from tests.papers.logra.one_at_a_time import assert_autograd_s, autograd_gradients
from tests.papers.logra.test_capture import state_of

PARTS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class Attending(nn.Module):
    """Queries and what they attend to, both made of (n, t, 6) inputs."""

    def __init__(self, calls: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(6, 2, **options)
        torch.nn.init.normal_(self.attention.out_proj.bias) if options.get("bias", True) else None
        self.calls = calls or {}

    def forward(self, x: Tensor) -> Tensor:
        query, other = x[:, :3].tanh(), x[:, 3:]
        key, value = other[..., : self.attention.kdim], other[..., : self.attention.vdim].exp()
        options = {name: given(x) for name, given in self.calls.items()}
        if not self.attention.batch_first:
            query, key, value = (part.transpose(0, 1) for part in (query, key, value))
        mixed, weights = self.attention(query, key, value, **options)
        mixed = mixed if self.attention.batch_first else mixed.transpose(0, 1)
        return mixed if weights is None else torch.cat([mixed.flatten(1), weights.flatten(1)], 1)


def padding(x: Tensor) -> Tensor:
    """The last of four keys is none, in odd samples."""
    mask = torch.zeros(len(x), 4, dtype=torch.bool)
    mask[x[:, 0, 0] > 0, -1] = True
    return mask


MODELS = [
    Attending(batch_first=True),
    Attending(),
    Attending({"need_weights": lambda x: False}, batch_first=True),
    Attending({"key_padding_mask": padding}, batch_first=True),
    Attending({"key_padding_mask": padding, "average_attn_weights": lambda x: False}),
    Attending({"attn_mask": lambda x: torch.ones(3, 4).triu(2).bool()}, batch_first=True),
    Attending(bias=False, batch_first=True),
    Attending(kdim=4, vdim=5, batch_first=True),
    Attending(kdim=4, bias=False),
    Attending(add_bias_kv=True, add_zero_attn=True),
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_autograd(model: nn.Module, bias: bool) -> None:
    model = model.double().eval()
    layers = watched(model)
    assert list(layers) == [f"attention.{part}" for part in PARTS]
    torch.manual_seed(1)
    data = torch.randn(5, 7, 6).double()

    def loss(x: Tensor) -> Tensor:
        return (model(x) + 1).pow(3).sum()

    before, plain = state_of(model), model(data)
    with Capture(model, layers, bias=bias).batch():
        seen = model(data)
        (seen + 1).pow(3).sum().backward()
    torch.testing.assert_close(seen, plain)
    assert state_of(model) == before
    assert_autograd_s(model, layers, loss, data, bias)


def test_a_projection_alone_can_be_watched() -> None:
    model = Attending(batch_first=True).double()
    data = torch.randn(5, 7, 6).double()
    for name in PARTS:
        layers = watched(model, name_filter=[name])
        expected = autograd_gradients(model, layers, lambda x: model(x).pow(3).sum(), data)
        with Capture(model, layers).batch() as batch:
            model(data).pow(3).sum().backward()
        assert list(batch.gradients) == [f"attention.{name}"]
        torch.testing.assert_close(batch.matrix, expected[f"attention.{name}"].flatten(1))


class Classifier(nn.Module):
    """Of tokens, of which 0 is padding."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        padding = tokens == 0
        found = self.encoder(self.embed(tokens), src_key_padding_mask=padding)
        counted = (~padding).unsqueeze(2)
        return self.head((found * counted).sum(1) / counted.sum(1))


def padded_tokens(n: int = 6) -> Tensor:
    tokens = torch.randint(1, 9, (n, 5), generator=torch.Generator().manual_seed(2))
    lengths = torch.arange(n) % 4 + 2
    return tokens.masked_fill(torch.arange(5) >= lengths.unsqueeze(1), 0)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens), tokens[:, 0] % 3, reduction="sum")


@pytest.mark.parametrize("norm_first", [False, True])
def test_padded_sequences_in_evaluation_mode_do_not_take_torchs_inference_path(
    norm_first: bool,
) -> None:
    """Frozen parameters opened it: "NestedTensorImpl doesn't support sizes"."""
    model = Classifier(norm_first).double().eval()
    layers, tokens = watched(model), padded_tokens()
    assert sum("self_attn" in name for name in layers) == 8
    expected = autograd_gradients(model, layers, lambda x: loss_of(model, x), tokens, bias=True)
    fast = torch.backends.mha.get_fastpath_enabled()
    with Capture(model, layers, bias=True).batch() as batch:
        loss_of(model, tokens).backward()
    assert torch.backends.mha.get_fastpath_enabled() == fast
    for name, found in batch.gradients.items():
        torch.testing.assert_close(found, expected[name])


def test_decoders_attend_to_what_encoders_give() -> None:
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True).double()
    source, target = torch.randn(4, 5, 8).double(), torch.randn(4, 3, 8).double()
    layers = watched(model)
    assert sum("multihead_attn" in name for name in layers) == 4

    def loss(both: Tensor) -> Tensor:
        return model(both[:, :5], both[:, 5:]).pow(3).sum()

    both = torch.cat([source, target], 1)
    expected = autograd_gradients(model, layers, loss, both)
    with Capture(model, layers).batch() as batch:
        loss(both).backward()
    for name, found in batch.gradients.items():
        torch.testing.assert_close(found, expected[name])


def logged(run: LogIX, model: nn.Module, **schedule: Any) -> LogIX:
    run.watch(model, bias=True)
    tokens = padded_tokens(12)
    for _ in LogIXScheduler(run, save="grad", **schedule):
        for part in torch.arange(12).chunk(3):
            with run(data_id=part):
                loss_of(model, tokens[part]).backward()
    run.finalize()
    with run(data_id=range(4)):
        loss_of(model, padded_tokens(4).roll(1, 1)).backward()
    return run


@pytest.mark.parametrize("hessian", ["none", "raw", "kfac", "ekfac"])
def test_every_hessian_and_projection(new_run: Callable[..., LogIX], hessian: str) -> None:
    """Full-rank principal components change no score; random ones are P_o G P_i^T."""
    model = Classifier().double().eval()
    whole = logged(new_run("whole"), model, hessian=hessian)
    kind: Any = "none" if hessian == "none" else "auto"
    expected = whole.compute_influence_all(hessian=kind)["influence"]
    if hessian == "none":
        gradients = autograd_gradients(
            model, watched(model), lambda x: loss_of(model, x), padded_tokens(12), bias=True
        )
        rows = torch.cat([g.flatten(1) for g in gradients.values()], 1)
        stored = torch.stack([row for _, row in whole.build_log_dataset(flatten=True)])
        torch.testing.assert_close(stored.double(), rows, rtol=1e-5, atol=1e-6)
        query = flatten_log(whole.get_log(), whole.layout)
        torch.testing.assert_close(expected, query @ rows.T)
    principal = new_run("principal")
    principal.set_lora_config(LoRAConfig(rank=99))
    found = logged(principal, model, lora="pca", hessian=hessian)
    scores = found.compute_influence_all(hessian=kind)["influence"]
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)
    random = new_run("random")
    random.set_lora_config(LoRAConfig(rank=2))
    logged(random, model, lora="random", hessian=hessian)
    assert random.projections is not None
    log, projected = whole.get_log()[1], random.get_log()[1]
    for name, (p_i, p_o) in random.projections.items():
        gradient = p_o.double() @ log[name]["grad"] @ p_i.double().T  # type: ignore[index, call-overload]
        torch.testing.assert_close(projected[name]["grad"], gradient)  # type: ignore[index, call-overload]


def test_a_subclass_with_a_forward_pass_of_its_own_is_not_watched() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    with pytest.raises(InputError, match="no layer passes"):
        watched(nn.Sequential(Own(6, 2)))


def test_inputs_without_samples_are_refused() -> None:
    model = nn.MultiheadAttention(6, 2)
    with (
        pytest.raises(InputError, match=r"query of shape \(3, 6\)"),
        Capture(model, watched(model)).batch(),
    ):
        model(*[torch.randn(3, 6)] * 3)[0].sum().backward()


def test_parts_are_views_of_the_attentions_parameters() -> None:
    attention = nn.MultiheadAttention(6, 2)
    part = InProjection(attention, "v_proj")
    assert part.weight.equal(attention.in_proj_weight[12:])
    assert part.bias is not None
    assert part.bias.equal(attention.in_proj_bias[12:])
    assert part.weight.data_ptr() == attention.in_proj_weight[12:].data_ptr()
