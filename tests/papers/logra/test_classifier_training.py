"""Training is what Table 2 says, and a stack of MLPs ends where autograd ends on each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from common.errors import InputError
from papers.logra.tasks.classifier_training import (
    Augmentation,
    NetworkSettings,
    TrainingSettings,
    batch_order,
    rate_at,
    train,
)
from papers.logra.tasks.mlp_stack import MlpStack, train_stack
from papers.logra.tasks.networks import Mlp, ResNet9, Transformer
from papers.logra.tasks.samples import Samples, losses, margins

SIZES = (6, 5, 4, 3)
SETTINGS = TrainingSettings(lr=0.1, weight_decay=1e-2, batch_size=8, epochs=4, schedule="cyclic")


@pytest.fixture(autouse=True)
def exactly() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def samples(count: int = 30) -> Samples:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return Samples(x, torch.randint(3, (count,), generator=generator))


def test_a_stack_of_models_is_trained_as_each_one_alone() -> None:
    data = samples()
    subsets = torch.stack([torch.randperm(30)[:20].sort().values for _ in range(3)])
    stack = train_stack(SIZES, data, subsets, SETTINGS, [7, 8, 9])
    for place, seed in enumerate((7, 8, 9)):
        network = NetworkSettings(sizes=SIZES).build(seed)
        alone = train(network, data.take(subsets[place]), SETTINGS, seed)
        together = stack.model(place)
        for name, value in alone.state_dict().items():
            assert together.state_dict()[name] == pytest.approx(value, abs=1e-12), name
        assert stack.logits(data.x)[place] == pytest.approx(together(data.x).detach(), abs=1e-12)


def test_written_out_gradients_are_autograds() -> None:
    data = samples()
    models = [Mlp(SIZES) for _ in range(2)]
    chances = torch.nn.functional.one_hot(data.y, 3).double()
    stack = MlpStack(models)
    weights, biases = stack.gradients(data.x.expand(2, -1, -1), chances.expand(2, -1, -1))
    for place, model in enumerate(models):
        losses(model(data.x), data.y).mean().backward()
        for layer, weight, bias in zip(model.layers, weights, biases, strict=True):
            assert weight[place] == pytest.approx(layer.weight.grad, abs=1e-14)
            assert bias[place, 0] == pytest.approx(layer.bias.grad, abs=1e-14)


def test_every_epoch_is_a_permutation_without_its_incomplete_end() -> None:
    batches = list(batch_order(30, SETTINGS, seed=1))
    assert len(batches) == SETTINGS.steps(30) == 4 * 3
    epochs = [torch.cat(batches[start : start + 3]) for start in range(0, 12, 3)]
    assert all(len(epoch.unique()) == 24 for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert all(a.equal(b) for a, b in zip(batches, batch_order(30, SETTINGS, 1), strict=True))


def test_too_few_samples_for_a_batch_are_an_error() -> None:
    with pytest.raises(InputError, match="batch_size 8; allowed: at most 5"):
        train(Mlp(SIZES), samples(5), SETTINGS, 0)


def test_the_cyclic_rate_peaks_after_a_fifth_and_ends_at_zero() -> None:
    settings = SETTINGS.model_copy(update={"epochs": 25})
    steps = 25 * 10
    rates = [rate_at(step, steps, settings) for step in range(steps)]
    assert max(rates) == rates[50] == settings.lr
    assert rates[0] == 0
    assert rate_at(steps, steps, settings) == 0
    assert rates[25] == pytest.approx(settings.lr / 2)
    assert rates[150] == pytest.approx(settings.lr / 2)


def test_augmented_images_are_shifted_or_flipped_and_nothing_else() -> None:
    image = torch.arange(1.0, 3 * 9 * 9 + 1).view(1, 3, 9, 9)
    out = Augmentation(seed=3)(image.expand(64, -1, -1, -1))
    assert out.shape == (64, 3, 9, 9)
    padded = torch.nn.functional.pad(image[0], (4, 4, 4, 4))
    windows = [
        window
        for top in range(9)
        for left in range(9)
        for window in (
            padded[:, top : top + 9, left : left + 9],
            padded[:, top : top + 9, left : left + 9].flip(2),
        )
    ]
    assert all(any(one.equal(window) for window in windows) for one in out)
    assert len({tuple(one.flatten().tolist()) for one in out}) > 32


def test_margins_are_log_odds_of_the_true_class() -> None:
    logits, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    p = logits.softmax(1)[torch.arange(5), y]
    assert margins(logits, y) == pytest.approx((p / (1 - p)).log(), abs=1e-12)
    certain = torch.tensor([[60.0, 0.0, 0.0]])
    assert float(margins(certain, torch.tensor([0]))) == pytest.approx(60 - torch.tensor(2.0).log())


def test_losses_of_sequences_are_sums_over_their_tokens() -> None:
    logits, y = torch.randn(2, 3, 5), torch.tensor([[0, 1, 2], [4, 4, 4]])
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
    assert losses(logits, y) == pytest.approx(each.view(2, 3).sum(1))
    assert losses(logits.expand(6, -1, -1, -1), y).shape == (6, 2)


def test_the_transformer_sees_no_later_token() -> None:
    model = Transformer(vocabulary=11, length=8, width=8, depth=2, heads=2, hidden=16)
    tokens = torch.randint(11, (2, 8))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(tokens).detach(), model(changed).detach()
    assert before[:, :5] == pytest.approx(after[:, :5], abs=1e-12)
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_resnet9_has_the_published_layers() -> None:
    model = ResNet9()
    shapes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert shapes[:2] == [(64, 3, 3, 3), (128, 64, 5, 5)]
    assert shapes[-1] == (128, 256, 3, 3)
    assert len(shapes) == 8
    assert model.head.bias is None
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_an_mlp_without_sizes_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 2 of an mlp"):
        NetworkSettings(kind="mlp")
