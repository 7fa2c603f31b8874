"""ResNet-18 that torchvision trained on ImageNet, with a new last layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torchvision import models

from common.errors import InputError
from common.runs.files import file_sha256
from common.runs.record import DataIdentity

RESNET_WEIGHTS = models.ResNet18_Weights.IMAGENET1K_V1


def resnet18(outputs: int, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """(n, 3, h, w) -> (n, outputs). All layers but the last are ``weights``, or random.

    The last one starts near zero, as in the published script.
    """
    network = models.resnet18()
    if weights is not None:
        network.load_state_dict(weights)
    network.fc = nn.Linear(network.fc.in_features, outputs)
    nn.init.xavier_uniform_(network.fc.weight, gain=0.1)
    nn.init.zeros_(network.fc.bias)
    return network  # type: ignore[no-any-return]


def imagenet_weights() -> tuple[dict[str, Tensor], DataIdentity]:
    """Weights from torch's hub folder, where torchvision puts them if they are absent.

    Raises: InputError if they cannot be downloaded, or the file there is another one.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(RESNET_WEIGHTS.url).path).name)
    if path.exists():
        _check(path)  # torch checks what it downloads, not what it finds
    try:
        state = RESNET_WEIGHTS.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: ImageNet weights of ResNet-18 are absent and cannot be downloaded ({error});"
            f" get {RESNET_WEIGHTS.url} elsewhere and put it there (TORCH_HOME names another place"
            f" for hub/checkpoints/{path.name}), or start from noise with --set pretrained=false"
        ) from None
    identity = DataIdentity(
        name="ImageNet weights of ResNet-18",
        real=True,
        source="file",
        sha256={path.name: file_sha256(path)},
    )
    return state, identity


def _check(path: Path) -> None:
    """A hub file's name ends in the first digits of its SHA-256."""
    expected, found = path.stem.rpartition("-")[2], file_sha256(path)
    if not found.startswith(expected):
        raise InputError(
            f"{path}: sha256 is {found}, its name says {expected}...; remove it, and get"
            f" {RESNET_WEIGHTS.url} again"
        )
