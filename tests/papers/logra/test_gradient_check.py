"""A check finds what makes logged gradients other than the samples' own, and names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from common.errors import InputError
from papers.logra import LogIX, LoRAConfig
from papers.logra.checks.check_report import CheckReport
from tests.papers.logra.test_capture import Convolutional, mlp, state_of
from tests.papers.logra.test_parameter_paths import Scaled, Standardised, perturbed
from tests.papers.logra.test_tied_layers import gpt2, loss_of, tokens

Run = Callable[..., LogIX]


def rows(n: int = 6) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, generator=draw).double(), torch.randint(3, (n,), generator=draw)


def checked(
    new_run: Run, model: nn.Module, loss: Any, batch: Any = None, rank: int = 0, **options: Any
) -> CheckReport:
    """A check that leaves model, run and random numbers as they were."""
    run = new_run()
    run.watch(model, bias=True)
    if rank:
        run.add_lora(lora_config=LoRAConfig(rank=rank))
    before, random = state_of(model), torch.get_rng_state()
    report = run.check(rows() if batch is None else batch, loss, **options)
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert run.statistics.revision == (rank > 0)
    with pytest.raises(InputError, match="no log"):
        run.get_log()
    return report


def summed(model: nn.Module) -> Callable[[Any], Tensor]:
    return lambda batch: functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def only(report: CheckReport, kind: str) -> str:
    """The one cause's text."""
    assert not report.ok
    assert [cause.kind for cause in report.causes] == [kind], str(report)
    assert f"{kind}: {report.causes[0].text}" in str(report)
    return report.causes[0].text


def test_a_sample_whose_gradient_alone_is_no_number_is_told(new_run: Run) -> None:
    """Beside others its spread is one, alone it is a root of zero."""
    model = mlp()

    def spread(batch: Any) -> Tensor:
        found = model(batch[0])
        return (found - found.mean(0)).square().mean(0).sqrt().sum()

    report = checked(new_run, model, spread)
    assert "gradient of sample 0 is nan" in only(report, "refusal")
    assert set(report.differing.values()) == {float("inf")}


@pytest.mark.parametrize("rank", [0, 2])
def test_a_clean_model_passes(new_run: Run, rank: int) -> None:
    model = mlp()
    report = checked(new_run, model, summed(model), rank=rank)
    assert report.ok
    assert report.samples == 4
    assert set(report.errors) == {"0", "2", "4"}
    # Random matrices are drawn in float32 and used in float64 on both sides.
    assert max(report.errors.values()) < 1e-12
    assert str(report).startswith("gradients are those of each sample alone: 4 samples, 3 layers")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_difference(new_run: Run, dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    x, y = rows()
    assert checked(new_run, model, summed(model), (x.to(dtype), y)).ok


def test_tied_weights_that_add_up_pass(new_run: Run) -> None:
    model = gpt2()
    assert checked(new_run, model, lambda ids: loss_of(model, ids), tokens()).ok


def test_attention_and_convolutions_pass(new_run: Run) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    data = torch.randn(3, 4, 8).double()
    assert checked(new_run, layer, lambda x: layer(x).pow(3).sum(), data).ok
    net = Convolutional().double().eval()
    images = {"pixels": torch.randn(3, 2, 6, 6).double(), "what": "pictures"}
    assert checked(new_run, net, lambda batch: net(batch["pixels"]).pow(2).sum(), images).ok


def test_gradients_of_inputs_on_the_way_pass(new_run: Run) -> None:
    model = mlp()
    assert checked(new_run, model, lambda batch: perturbed(model)(batch[0])).ok


def test_batch_norm_in_training_mode(new_run: Run) -> None:
    model = Convolutional().double()
    report = checked(new_run, model, lambda x: model(x).sum(), torch.randn(4, 2, 6, 6).double())
    text = only(report, "batch dependence")
    assert "batch norm features.1 is in training mode; allowed: model.eval()" in text
    assert report.causes[0].where == ("features.1",)


class Centred(nn.Module):
    """Takes the batch's mean off."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_a_module_that_mixes_samples_is_named(new_run: Run) -> None:
    model = mlp()
    model.insert(1, Centred())
    report = checked(new_run, model, summed(model))
    assert "module 1 gives other values" in only(report, "batch dependence")
    assert report.causes[0].where == ("1",)


def test_a_loss_that_mixes_samples(new_run: Run) -> None:
    model = mlp()

    def contrastive(batch: Any) -> Tensor:
        return (model(batch[0]) @ model(batch[0]).T).logsumexp(1).sum()

    text = only(checked(new_run, model, contrastive), "batch dependence")
    assert "the loss mixes samples" in text


def test_a_mean_over_the_batch(new_run: Run) -> None:
    model = mlp()

    def mean(batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    report = checked(new_run, model, mean)
    assert "gradients are 1 / 6 of the samples' own" in only(report, "reduction")
    assert all(abs(error - 5 / 6) < 1e-9 for error in report.errors.values())
    assert checked(new_run, model, mean, loss_scale=1 / 6).ok
    assert checked(new_run, model, lambda batch: 8 * summed(model)(batch), loss_scale=8.0).ok


def labelled() -> tuple[Tensor, Tensor]:
    """Sequences of which other numbers of labels count."""
    x = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(20).reshape(4, 5) % 3
    return x, y.masked_fill(torch.arange(5) > torch.tensor([[4], [1], [2], [3]]), -100)


def test_a_mean_over_labels(new_run: Run) -> None:
    model = mlp()

    def mean(batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    text = only(checked(new_run, model, mean, labelled()), "reduction")
    # 5, 2, 3 and 4 of 14 labels.
    assert "gradients are 0.357, 0.143, 0.214, 0.286 times" in text
    scale: Any = lambda batch: 1 / int((batch[1] >= 0).sum())  # noqa: E731 - as a user writes it
    assert checked(new_run, model, mean, labelled(), loss_scale=scale).ok


def test_dropout(new_run: Run) -> None:
    model = mlp()
    model.insert(2, nn.Dropout(0.4))
    report = checked(new_run, model, summed(model))
    assert "(2 in training mode); allowed: model.eval()" in only(report, "dropout")
    assert report.causes[0].where == ("2",)
    assert checked(new_run, model.eval(), summed(model)).ok


def test_two_causes_are_both_named(new_run: Run) -> None:
    model = mlp()
    model.insert(2, nn.Dropout(0.4))
    report = checked(new_run, model, lambda batch: summed(model)(batch) / len(batch[0]))
    assert [cause.kind for cause in report.causes] == ["dropout", "reduction"]


def test_padding_that_a_model_sees(new_run: Run) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).double().eval()
    ids, lengths = torch.randint(1, 11, (4, 6)), torch.tensor([[6], [4], [3], [5]])
    mask = (torch.arange(6) < lengths).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.arange(4) % 3}
    # Its own loss is a mean over samples.
    assert checked(new_run, model, None, batch, loss_scale=0.25).ok

    def blind(batch: Any) -> Tensor:
        return model(input_ids=batch["input_ids"], labels=batch["labels"]).loss

    report = checked(new_run, model, blind, batch, loss_scale=0.25)
    assert "given the mask of its tokens" in only(report, "padding")
    report = checked(new_run, model, blind, batch, loss_scale=0.25, mask=torch.ones(4, 6))
    assert report.ok  # nothing is known to be padding


@pytest.mark.parametrize("create_graph", [True, False])
def test_a_second_path(new_run: Run, create_graph: bool) -> None:
    model = mlp()

    def penalised(batch: Any) -> Tensor:
        x = batch[0].clone().requires_grad_()
        value = summed(model)((x, batch[1]))
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return value + slope.square().sum()

    def functional_too(batch: Any) -> Tensor:
        return summed(model)(batch) + functional.linear(model[:4](batch[0]), model[4].weight).sum()

    report = checked(new_run, model, penalised if create_graph else functional_too)
    text = only(report, "second path")
    assert report.causes[0].where == ("4",)
    assert "layer 4: " in text
    assert not report.errors


def test_a_second_path_that_hooks_cannot_see(new_run: Run) -> None:
    """A value of the weight, without its graph in a batch: autograd's gradient has its part."""
    model = mlp()

    def loss(batch: Any) -> Tensor:
        weight = model[4].weight
        other = weight if not model[4]._forward_hooks else weight.detach()
        return summed(model)(batch) + functional.linear(model[:4](batch[0]), other).sum()

    report = checked(new_run, model, loss)
    assert "gradients of 4 are not autograd's" in only(report, "second path")
    assert set(report.differing) == {"4"}
    assert "layer 4: relative error" in str(report)


def test_a_layer_that_does_something_else(new_run: Run) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), Standardised(4, 3)).double()
    assert "Standardised gives" in only(checked(new_run, model, summed(model)), "second path")


def test_tied_weights_that_cannot_add_up(new_run: Run) -> None:
    model = mlp()
    model.append(Scaled(model[4].weight))
    report = checked(new_run, model, lambda batch: model(batch[0]).sum())
    assert "its weight, a parameter of 4 and 5 too," in only(report, "tied weights")


def test_another_refusal_is_a_cause(new_run: Run) -> None:
    model = mlp()
    report = checked(new_run, model, lambda batch: model[:3](batch[0]).sum())
    assert "layer 4 did not run" in only(report, "refusal")


def test_what_cannot_be_checked_is_refused(new_run: Run) -> None:
    run, model = new_run(), mlp()
    with pytest.raises(InputError, match="no model is watched"):
        run.check(rows(), summed(model))
    run.watch(model)
    with pytest.raises(InputError, match="check of a tuple without loss; allowed: loss="):
        run.check(rows())
    with pytest.raises(InputError, match="samples 0; allowed: at least 1"):
        run.check(rows(), summed(model), samples=0)
    with pytest.raises(InputError, match="a batch of type dict; allowed: a tensor"):
        run.check({"text": "a"}, summed(model))
    run.start(["a"])
    with pytest.raises(InputError, match="check within a batch"):
        run.check(rows(), summed(model))
    run.clear()
