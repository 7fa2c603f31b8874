"""Random changes of training images, each image's own. Drawn from torch's CPU generator."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def crop_and_flip(
    images: Tensor, margin: int = 4, padding: Literal["constant", "reflect"] = "constant"
) -> Tensor:
    """(n, c, h, w): a random crop of each image padded by ``margin``, flipped or not.

    Padded by zeros or by reflection.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (margin,) * 4, mode=padding).permute(0, 2, 3, 1)
    top, left = torch.randint(0, 2 * margin + 1, (2, count, 1))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    each = torch.arange(count)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor, side: int) -> Tensor:
    """(n, c, h, w) with a square of zeros about a random place of each image.

    Squares are cut off at the borders. Source: DeVries and Taylor 2017.
    """
    count, _, *sides = images.shape
    hit = []
    for length in sides:
        first = torch.randint(length, (count, 1)) - side // 2
        places = torch.arange(length)
        hit.append((places >= first) & (places < first + side))
    rows, columns = hit
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
