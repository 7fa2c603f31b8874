"""Street View House Numbers: digits cut from photographs, from the publisher's Matlab files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from common.data.files import check_labels, frozen, labels_array, reading
from common.data.images import DIGIT_NAMES, Images
from common.data.registry import find
from common.errors import InputError

SIDE: Final = 32


def svhn(train: bool = True, root: Path | None = None) -> Images:
    """Colour images (73257, 32, 32, 3) for training or (26032, 32, 32, 3) for test.

    Labels are the digits: the files write 10 for a zero.

    Raises: InputError if a file is absent or malformed. Source: Netzer et al. 2011.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = find("svhn", root) / f"{'train' if train else 'test'}_32x32.mat"
    with reading(path), path.open("rb") as stream:
        try:
            contents = loadmat(stream, variable_names=["X", "y"])
        except (MatReadError, NotImplementedError, TypeError) as error:
            raise InputError(f"{path}: not a Matlab file ({error})") from None
        pixels, labels = np.asarray(contents["X"]), labels_array(contents["y"]).reshape(-1)
    shape = (SIDE, SIDE, 3, len(labels))
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise InputError(f"{path}: X is {pixels.shape} {pixels.dtype}; expected {shape} uint8")
    check_labels(labels, len(DIGIT_NAMES) + 1, path, lowest=1)
    digits = labels_array(labels % len(DIGIT_NAMES))
    return Images(frozen(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))), digits, DIGIT_NAMES)
