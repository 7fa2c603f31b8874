"""Labelled images: MNIST and Fashion-MNIST from IDX files, and scikit-learn's small digits."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.data.files import check_labels, frozen, labels_array, read_bytes
from common.data.registry import find
from common.errors import InputError

DIGIT_NAMES: Final = tuple("0123456789")
FASHION_NAMES: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
#: Type byte of unsigned 8-bit values in an IDX file.
IDX_UINT8: Final = 0x08


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images; the arrays are read-only.

    Attributes:
        pixels (n, h, w) grey or (n, h, w, 3) RGB: uint8, 0 to 255 unless said otherwise.
        labels (n,): int64, index into ``class_names``.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: npt.NDArray[np.int64]) -> Images:
        """The images at ``indices``, in that order."""
        return Images(frozen(self.pixels[indices]), frozen(self.labels[indices]), self.class_names)


def mnist(train: bool = True, root: Path | None = None) -> Images:
    """Handwritten digits: (60000, 28, 28) for training or (10000, 28, 28) for test.

    Raises: InputError if a file is absent or malformed. Source: LeCun, Cortes, Burges 1998.
    """
    return _idx_pair(find("mnist", root), train, DIGIT_NAMES)


def fashion_mnist(train: bool = True, root: Path | None = None) -> Images:
    """Photographs of clothes: (60000, 28, 28) for training or (10000, 28, 28) for test.

    Raises: InputError if a file is absent or malformed. Source: Xiao, Rasul, Vollgraf 2017.
    """
    return _idx_pair(find("fashion_mnist", root), train, FASHION_NAMES)


def digits() -> Images:
    """All 1,797 digits (8, 8) that come with scikit-learn; grey levels 0 to 16, not 255.

    Source: Alpaydin and Kaynak 1998, test part.
    """
    # The file without the package, whose import takes a second: a tenth of many runs.
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0])
    rows = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    pixels = frozen(rows[:, :-1].reshape(-1, 8, 8))
    return Images(pixels, labels_array(rows[:, -1]), DIGIT_NAMES)


def _idx_pair(folder: Path, train: bool, class_names: tuple[str, ...]) -> Images:
    part = "train" if train else "t10k"
    image_file = folder / f"{part}-images-idx3-ubyte.gz"
    label_file = folder / f"{part}-labels-idx1-ubyte.gz"
    pixels, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if len(pixels) != len(labels):
        raise InputError(f"{label_file}: {len(labels)} labels for {len(pixels)} images")
    check_labels(labels, len(class_names), label_file)
    return Images(pixels, labels_array(labels), class_names)


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The uint8 array in an IDX file, gzipped where its name ends in ``.gz``.

    Raises: InputError if the magic number, the number of dimensions or the length is wrong.
    Source: the format's description on LeCun's MNIST page (magic, big-endian sizes, values).
    """
    contents = read_bytes(path)
    magic = bytes([0, 0, IDX_UINT8, dimensions])
    if contents[:4] != magic:
        raise InputError(f"{path}: starts with 0x{contents[:4].hex()}; expected 0x{magic.hex()}")
    header = 4 + 4 * dimensions
    if len(contents) < header:
        raise InputError(f"{path}: {len(contents)} bytes; expected a header of {header}")
    shape: Any = tuple(np.frombuffer(contents, ">u4", dimensions, offset=4).tolist())
    values = np.frombuffer(contents, np.uint8, offset=header)
    if values.size != np.prod(shape):
        raise InputError(f"{path}: {values.size} values; expected {np.prod(shape)} for {shape}")
    return values.reshape(shape)
