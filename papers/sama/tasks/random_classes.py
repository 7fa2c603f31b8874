"""Classification of random inputs: what a method costs does not depend on what is learned."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from common.experiments.settings import Settings
from common.tasks.networks import mlp
from papers.sama.methods.weighting import LossWeights

Batch = tuple[Tensor, Tensor]


class NetworkSettings(Settings):
    """The base network's kind and sizes."""

    kind: Literal["mlp", "encoder", "bert"] = Field(
        description="mlp reads numbers; the others read tokens; bert is transformers' own"
    )
    width: int = Field(gt=0)
    depth: int = Field(gt=0, description="hidden layers, or blocks of attention")
    heads: int = Field(4, gt=0, description="not of mlp")
    inputs: int = Field(64, gt=0, description="numbers of a sample, or tokens of a text")
    vocabulary: int = Field(1000, gt=1, description="encoder only; bert has its own")
    classes: int = Field(10, gt=1)
    dropout: float = Field(0.1, ge=0, lt=1, description="encoder only")
    fused_attention: bool = Field(
        False, description="encoder only: kernels that have no second derivative"
    )

    @model_validator(mode="after")
    def _check(self) -> NetworkSettings:
        if self.kind != "mlp" and self.width % self.heads:
            raise ValueError(f"heads: {self.heads} must divide width, {self.width}")
        if self.fused_attention and self.kind != "encoder":
            raise ValueError(f"fused_attention: of kind encoder only, not of {self.kind}")
        return self

    def make(self) -> nn.Module:
        """The network, (n, inputs) -> (n, classes) logits, from torch's global generator."""
        if self.kind == "mlp":
            return mlp(self.inputs, *[self.width] * self.depth, self.classes)
        if self.kind == "encoder":
            return TokenEncoder(self)
        # transformers takes seconds to load.
        from common.tasks.bert_settings import BertSettings
        from common.tasks.text_classifier import TextClassifier, read_bert

        sizes = BertSettings(
            pretrained=False, layers=self.depth, width=self.width, heads=self.heads
        )
        return TextClassifier(read_bert(sizes), self.classes)


class TokenEncoder(nn.Module):
    """A transformer encoder with a linear layer on the first token's output."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width = settings.width
        self.tokens = nn.Embedding(settings.vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(settings.inputs, width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, settings.heads, 4 * width, settings.dropout, "gelu", batch_first=True
                )
                for _ in range(settings.depth)
            )
        )
        self.head = nn.Linear(width, settings.classes)
        self._fused = settings.fused_attention

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, length) token numbers -> (n, classes) logits."""
        with nullcontext() if self._fused else sdpa_kernel(SDPBackend.MATH):
            states = self.blocks(self.tokens(tokens) + self.places)
        logits: Tensor = self.head(states[:, 0])
        return logits


class RandomClasses:
    """A base network, a network of sample weights, and one batch for each of the two levels.

    Args:
        network: the base network.
        samples: of each batch.
        seed: of the networks, the same in all processes.
        rank: of this process, which has batches of its own.

    Attributes:
        base, meta: the networks.
        train, clean: batches (x, y) of the base and of the meta level.
    """

    def __init__(
        self, network: NetworkSettings, samples: int, seed: int, device: torch.device, rank: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.base = network.make().to(device)
        self.meta = LossWeights().to(device)
        generator = torch.Generator().manual_seed(1000 * seed + rank)

        def batch() -> Batch:
            if network.kind == "mlp":
                x = torch.randn(samples, network.inputs, generator=generator)
            else:  # 0 is padding
                x = torch.randint(
                    1, network.vocabulary, (samples, network.inputs), generator=generator
                )
            y = torch.randint(network.classes, (samples,), generator=generator)
            return x.to(device), y.to(device)

        self.train, self.clean = batch(), batch()

    def numbers(self) -> int:
        """Trainable numbers of the base network."""
        return sum(p.numel() for p in self.base.parameters() if p.requires_grad)


def losses_of(network: nn.Module, batch: Batch) -> Tensor:
    """(n,) cross-entropies."""
    x, y = batch
    return cross_entropy(network(x), y, reduction="none")
