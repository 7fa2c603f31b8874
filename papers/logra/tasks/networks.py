"""Networks of the paper's counterfactual experiments: an MLP, ResNet-9, a small transformer.

Each ends in ``head``, a linear layer; what it sees is the representation of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Mlp(nn.Module):
    """Linear layers with biases and ReLU between them.

    Args:
        sizes: width of the input, of each hidden layer, number of classes.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        *hidden, last = pairwise(sizes)
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in hidden)
        self.head = nn.Linear(*last)

    @property
    def layers(self) -> list[nn.Linear]:
        """From input to head."""
        return [*self.hidden, self.head]  # type: ignore[list-item]

    def forward(self, images: Tensor) -> Tensor:
        """(n, ...) -> (n, classes) logits."""
        values = images.flatten(1)
        for layer in self.hidden:
            values = functional.relu(layer(values))
        logits: Tensor = self.head(values)
        return logits


class ResNet9(nn.Module):
    """Six convolutions and two residual pairs for images (3, 32, 32); logits are scaled by 0.2.

    Source: the network of the published CIFAR-10 experiment.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(3, 64),
            _convolution(64, 128, kernel=5, stride=2, padding=2),
            _Residual(nn.Sequential(_convolution(128, 128), _convolution(128, 128))),
            _convolution(128, 256),
            nn.MaxPool2d(2),
            _Residual(nn.Sequential(_convolution(256, 256), _convolution(256, 256))),
            _convolution(256, 128, padding=0),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, 32, 32) -> (n, classes) logits."""
        logits: Tensor = 0.2 * self.head(self.body(images))
        return logits


def _convolution(
    before: int, after: int, kernel: int = 3, stride: int = 1, padding: int = 1
) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        inside: Tensor = self.body(x)
        return x + inside


class Transformer(nn.Module):
    """Decoder of tokens: blocks of causal attention and an MLP, layer norm before each.

    Args:
        vocabulary: number of tokens.
        length: longest sequence.
        width, depth, heads, hidden: of the blocks.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, depth: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, t) -> (n, t, vocabulary) logits of the next token."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        values = self.blocks(self.tokens(tokens) + self.places(places))
        logits: Tensor = self.head(self.norm(values))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        # (n, t, 3 width) -> three of (n, heads, t, width / heads)
        split = self.attention_in(self.norm_attention(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).flatten(2))
        inside: Tensor = self.mlp_out(functional.gelu(self.mlp_in(self.norm_mlp(x))))
        return x + inside
