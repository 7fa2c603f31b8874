"""Many MLPs trained at once, for the counterfactual experiments need hundreds of small ones.

All models step together: a layer of all of them is one batched matrix product, and its backward
pass is written out, which for networks this small is several times faster than autograd on one
after the other. Each model ends as :func:`.classifier_training.train` would train it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from papers.logra.tasks.classifier_training import TrainingSettings, batch_order, rate_at
from papers.logra.tasks.networks import Mlp
from papers.logra.tasks.samples import Samples


class MlpStack:
    """Models of one shape: weights (models, out, in) and biases (models, 1, out) by layer."""

    def __init__(self, models: Sequence[Mlp], device: torch.device | None = None) -> None:
        layers = list(zip(*(model.layers for model in models), strict=True))
        self.weights = [_stacked([layer.weight for layer in same], device) for same in layers]
        self.biases = [
            _stacked([layer.bias for layer in same], device).unsqueeze(1) for same in layers
        ]

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Images (n, ...) -> (models, n, classes)."""
        return self._activations(x.flatten(1).expand(len(self.weights[0]), -1, -1))[-1]

    @torch.no_grad()
    def model(self, place: int) -> Mlp:
        """One of them on its own."""
        sizes = [self.weights[0].shape[2], *(weight.shape[1] for weight in self.weights)]
        model = Mlp(sizes).to(self.weights[0])
        for layer, weight, bias in zip(model.layers, self.weights, self.biases, strict=True):
            layer.weight.copy_(weight[place])
            layer.bias.copy_(bias[place, 0])
        return model.eval()

    def gradients(self, x: Tensor, chances: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of each model's mean cross-entropy by weights and by biases, layer by layer.

        Args:
            x: (models, n, width).
            chances: (models, n, classes) target distributions.
        """
        *inputs, logits = self._activations(x)
        errors = logits.softmax(-1).sub_(chances).div_(x.shape[1])
        weights, biases = [], []
        for layer in reversed(range(len(self.weights))):
            weights.append(errors.mT @ inputs[layer])
            biases.append(errors.sum(1, keepdim=True))
            if layer:
                errors = (errors @ self.weights[layer]).mul_(inputs[layer] > 0)
        return weights[::-1], biases[::-1]

    def _activations(self, x: Tensor) -> list[Tensor]:
        """Input of every layer, and the logits."""
        values = [x]
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = torch.baddbmm(bias, values[-1], weight.mT)
            values.append(out.relu_() if layer < len(self.weights) - 1 else out)
        return values


@torch.no_grad()
def train_stack(
    sizes: Sequence[int],
    samples: Samples,
    subsets: Tensor,
    settings: TrainingSettings,
    seeds: Sequence[int],
) -> MlpStack:
    """Train one MLP on each subset, where the samples are.

    Args:
        sizes: of every model.
        samples: to choose from.
        subsets: (models, m) places of each model's training samples.
        settings: SGD without augmentation.
        seeds: (models,) of each model's start and order of batches.

    Raises:
        InputError: a subset fills no batch.
    """
    device = samples.x.device
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(Mlp(sizes))
    stack = MlpStack(models, device)
    x = samples.x.flatten(1)
    chances = functional.one_hot(samples.y, sizes[-1]).to(x.dtype)
    parameters = [*stack.weights, *stack.biases]
    velocities = [torch.zeros_like(part) for part in parameters]
    steps = settings.steps(subsets.shape[1])
    for step, places in enumerate(_batches(subsets, settings, seeds)):
        chosen = places.to(device)
        weights, biases = stack.gradients(x[chosen], chances[chosen])
        rate = rate_at(step, steps, settings)
        for part, velocity, gradient in zip(
            parameters, velocities, [*weights, *biases], strict=True
        ):
            gradient.add_(part, alpha=settings.weight_decay)
            velocity.mul_(settings.momentum).add_(gradient)
            part.sub_(velocity, alpha=rate)
    return stack


def _batches(subsets: Tensor, settings: TrainingSettings, seeds: Sequence[int]) -> Iterator[Tensor]:
    """Places (models, batch) of the samples of each step."""
    orders = [batch_order(subsets.shape[1], settings, seed) for seed in seeds]
    for places in zip(*orders, strict=True):
        yield subsets.gather(1, torch.stack(places))


def _stacked(parts: Sequence[Tensor], device: torch.device | None) -> Tensor:
    return torch.stack([part.detach() for part in parts]).to(device)
