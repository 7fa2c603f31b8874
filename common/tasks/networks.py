"""Networks of the paper's experiments."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(*sizes: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of the given sizes with tanh (and dropout) between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    last = max(place for place, layer in enumerate(layers) if isinstance(layer, nn.Linear))
    return nn.Sequential(*layers[: last + 1])


def conv_net(*channels: int, classes: int = 10) -> nn.Sequential:
    """Strided 3x3 convolutions with batch normalisation, mean over places, one linear layer.

    (n, channels[0], h, w) images -> (n, classes) logits.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    head = nn.Linear(channels[-1], classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class MetaWeightNet(nn.Module):
    """Weight of a sample from its loss: an MLP 1-hidden-1 with ReLU and sigmoid.

    Source: Shu et al. 2019.
    """

    def __init__(self, hidden: int = 100) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(1, hidden), nn.Linear(hidden, 1)

    def forward(self, losses: Tensor) -> Tensor:
        """(n,) losses -> (n,) weights between 0 and 1."""
        return torch.sigmoid(self.out(functional.relu(self.hidden(losses[:, None])))).squeeze(-1)


class ChanceWeightNet(nn.Module):
    """Weight of a sample from the chances of its classes: an MLP with ReLU and twice a sigmoid.

    Source: the published script for Table 2.
    """

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(classes, hidden), nn.Linear(hidden, 1)

    def forward(self, chances: Tensor) -> Tensor:
        """(n, classes) chances -> (n,) weights between 0 and 2."""
        return 2 * torch.sigmoid(self.out(functional.relu(self.hidden(chances)))).squeeze(-1)


class Correction(nn.Module):
    """Mixes a given label with a prediction of its own: ``s onehot(y) + (1 - s) softmax(h(x))``.

    The share ``s`` of the given label is a function of input and label.
    """

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.predict = mlp(features, hidden, classes)
        self.trust = mlp(features + classes, hidden, 1)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        """(n, features), (n,) classes -> (n, classes) chances that sum to 1."""
        given = functional.one_hot(given, self.classes).to(x.dtype)
        share = torch.sigmoid(self.trust(torch.cat([x, given], dim=1)))
        mixed: Tensor = share * given + (1 - share) * self.predict(x).softmax(dim=1)
        return mixed


class ResNet32(nn.Module):
    """CIFAR ResNet: 3 stages of 5 basic blocks, 16/32/64 channels, parameter-free shortcuts.

    Source: He et al. 2016, Sec. 4.2 (option A).
    """

    def __init__(self, classes: int = 10, blocks: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        channels = [16, *[width for width in (16, 32, 64) for _ in range(blocks)]]
        self.blocks = nn.Sequential(*(BasicBlock(a, b) for a, b in pairwise(channels)))
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, 32, 32) -> (n, classes) logits."""
        features = self.blocks(functional.relu(self.norm(self.stem(images))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that subsamples and pads with zero channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.padding = (1 if before == after else 2), after - before
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.padding:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.padding))
        return functional.relu(out + x)
