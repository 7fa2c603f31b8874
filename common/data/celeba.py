"""CelebA: aligned photographs of faces, read from the publisher's archive without unpacking it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from common.data.files import frozen, read_lines, reading
from common.data.registry import find
from common.errors import InputError

Part = Literal["train", "valid", "test"]
#: In the order of their numbers in ``list_eval_partition.txt``.
PARTS: Final[tuple[Part, ...]] = ("train", "valid", "test")
ARCHIVE: Final = "img_align_celeba.zip"


@dataclass(frozen=True, eq=False)
class Faces:
    """Photographs of some parts of the set, decoded when they are asked for.

    Attributes:
        archive: that they lie in.
        files: their names in it, in the publisher's order.
        attributes (n, 40): whether a face has each; read-only.
        attribute_names: of the columns.
    """

    archive: Path
    files: tuple[str, ...]
    attributes: npt.NDArray[np.bool_]
    attribute_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def having(self, name: str) -> npt.NDArray[np.bool_]:
        """Which faces have an attribute (n,). Raises InputError that lists what there is."""
        if name not in self.attribute_names:
            allowed = ", ".join(self.attribute_names)
            raise InputError(f"celeba: attribute {name!r}; allowed: {allowed}")
        return self.attributes[:, self.attribute_names.index(name)]

    def pixels(self, side: int) -> npt.NDArray[np.uint8]:
        """The largest centred square of each, brought to ``side``: (n, side, side, 3) RGB.

        Raises: InputError if the archive lacks a photograph or holds none there.
        """
        made = np.empty((len(self), side, side, 3), np.uint8)
        with reading(self.archive), zipfile.ZipFile(self.archive) as archive:
            for row, name in enumerate(self.files):
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    square = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
                    made[row] = np.asarray(square.convert("RGB"))
        return frozen(made)


def celeba(parts: Sequence[Part] = ("train",), root: Path | None = None) -> Faces:
    """Faces of some parts: 162,770 for training, 19,867 for validation, 19,962 for test.

    Raises: InputError if a list is absent or malformed. Source: Liu et al. 2015.
    """
    folder = find("celeba", root)
    partition = _table(folder / "list_eval_partition.txt", 0, 1)
    path = folder / "list_attr_celeba.txt"
    names = tuple("".join(read_lines(path)[1:2]).split())
    attributes = _table(path, 2, len(names))
    if list(partition) != list(attributes):
        raise InputError(f"{path}: lists other photographs than list_eval_partition.txt")
    wanted = {str(PARTS.index(part)) for part in parts}
    files = tuple(name for name, (part,) in partition.items() if part in wanted)
    having = np.array([[value == "1" for value in attributes[name]] for name in files])
    inside = tuple(f"{Path(ARCHIVE).stem}/{name}" for name in files)
    return Faces(folder / ARCHIVE, inside, frozen(having.reshape(len(files), -1)), names)


def _table(path: Path, header: int, columns: int) -> dict[str, list[str]]:
    """Values by photograph, below ``header`` lines."""
    rows: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path)[header:], start=header + 1):
        name, *values = line.split() or [""]
        if len(values) != columns:
            raise InputError(f"{path}: line {number} has {len(values)} values; expected {columns}")
        rows[name] = values
    if not rows:
        raise InputError(f"{path}: lists no photographs")
    return rows
