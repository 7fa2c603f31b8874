"""A data root with a few images in the form of SVHN's and of CelebA's publishers."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

NAMES = ("000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg")


def example_svhn(
    root: Path, labels: Sequence[int], side: int = 32, part: str = "train"
) -> np.ndarray:
    """Write a part of random pixels with these labels; returns them as (n, h, w, 3)."""
    (root / "svhn").mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), side, side, 3), np.uint8)
    contents = {"X": pixels.transpose(1, 2, 3, 0), "y": np.array(labels, np.uint8)[:, None]}
    savemat(root / "svhn" / f"{part}_32x32.mat", contents)
    return pixels


def example_celeba(root: Path) -> Path:
    """Write four photographs: a square of grey 40 times its place between blue bars.

    Of the parts for training, validation, test, and training; the first and third are ``Male``, the
    first two ``Smiling``, none ``Young``. Returns the set's folder.
    """
    folder = root / "celeba"
    folder.mkdir()
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for number, name in enumerate(NAMES):
            picture = np.zeros((218, 178, 3), np.uint8)
            picture[..., 2] = 255
            picture[20:198] = 40 * number
            packed = io.BytesIO()
            Image.fromarray(picture).save(packed, "png")
            archive.writestr(f"img_align_celeba/{name}", packed.getvalue())
    parts = [f"{name} {part}\n" for name, part in zip(NAMES, (0, 1, 2, 0), strict=True)]
    (folder / "list_eval_partition.txt").write_text("".join(parts))
    signs = (" 1  1 -1", "-1  1 -1", " 1 -1 -1", "-1 -1 -1")
    rows = [f"{name} {row}\n" for name, row in zip(NAMES, signs, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("4\nMale Smiling Young \n" + "".join(rows))
    return folder
