"""The image tasks of the counterfactual experiments: data, a network, how it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.experiments.settings import Settings
from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from common.training.local_gpu import Device
from papers.logra.curvature.tensor_files import digest_tensors
from papers.logra.tasks.classifier_training import (
    NetworkSettings,
    TrainingSettings,
    train,
)
from papers.logra.tasks.devices import take_device
from papers.logra.tasks.image_sets import ImageSet, ImageSettings, load_images
from papers.logra.tasks.mlp_stack import MlpStack, train_stack
from papers.logra.tasks.resumable import compute_parts
from papers.logra.tasks.samples import Samples, compute_logits


class ImageTaskSettings(Settings):
    """Data, network, training, and where."""

    images: ImageSettings
    network: NetworkSettings
    training: TrainingSettings
    device: Device = "auto"
    models_at_once: int = Field(
        1, gt=0, description="MLPs that are retrained together; other networks one by one"
    )

    @model_validator(mode="after")
    def _check(self) -> ImageTaskSettings:
        training = self.training
        stackable = self.network.kind == "mlp" and training.optimiser == "sgd"
        if self.models_at_once > 1 and (not stackable or training.augment):
            raise ValueError(
                "models_at_once: only MLPs, by SGD without augmentation, train together; allowed: 1"
            )
        return self


class ImageTask:
    """The data of a task on its device, and models trained on parts of it."""

    def __init__(self, settings: ImageTaskSettings, run: Run) -> None:
        self.settings, self.run = settings, run
        self.device = take_device(settings.device, run)
        images = load_images(settings.images, run)
        self.images = ImageSet(
            images.train.to(self.device), images.test.to(self.device), images.classes
        )

    def model(self, seed: int, labels: Tensor | None = None) -> nn.Module:
        """Trained on all training images, with other ``labels`` (n,) than theirs where given."""
        samples, name = self.images.train, f"training-{seed}"
        if labels is not None:
            samples = Samples(samples.x, labels.to(self.device))
            name += f"-{digest_tensors({'labels': labels})[:16]}"
        settings = self.settings
        if settings.models_at_once > 1:
            # As good for one model: torch.optim loads the compiler, two seconds of a short run.
            everything = torch.arange(len(samples.x)).unsqueeze(0)
            return self._stack(samples, everything, [seed]).model(0)
        checkpoint = Checkpoint(self.run, name)
        return train(settings.network.build(seed), samples, settings.training, seed, checkpoint)

    def retrained_logits(self, subsets: Tensor, seeds: Sequence[int], queries: Samples) -> Tensor:
        """Logits (models, queries, classes) after training on subsets, on the CPU.

        Args:
            subsets: (models, m) places of each model's training images.
            seeds: (models,) of its start and order of batches.
            queries: images to judge.
        """
        at_once = self.settings.models_at_once
        parts = [
            partial(self._retrained, subsets[some], seeds[some], queries)
            for some in (slice(start, start + at_once) for start in range(0, len(subsets), at_once))
        ]
        what = {"subsets": subsets, "seeds": torch.tensor(seeds), "queries": queries.x}
        checkpoint = Checkpoint(self.run, f"retraining-{digest_tensors(what)[:16]}")
        return torch.cat(compute_parts(parts, checkpoint))

    def _retrained(self, subsets: Tensor, seeds: Sequence[int], queries: Samples) -> Tensor:
        settings = self.settings
        if settings.models_at_once > 1:
            return self._stack(self.images.train, subsets, seeds).logits(queries.x).cpu()
        network = settings.network.build(seeds[0])
        chosen = self.images.train.take(subsets[0].to(self.device))
        model = train(network, chosen, settings.training, seeds[0])
        return compute_logits(model, queries).unsqueeze(0).cpu()

    def _stack(self, samples: Samples, subsets: Tensor, seeds: Sequence[int]) -> MlpStack:
        settings = self.settings
        return train_stack(settings.network.sizes, samples, subsets, settings.training, seeds)
