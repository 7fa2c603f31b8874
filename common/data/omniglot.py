"""Omniglot: the two small background sets and the one-shot classification runs, from their zips."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.data.files import frozen, labels_array, reading
from common.data.registry import find
from common.errors import InputError

SIDE: Final = 105
RUNS: Final = 20
WAYS: Final = 20
PARTS: Final = ("images_background_small1.zip", "images_background_small2.zip")
_DRAWING = re.compile(
    r"images_background_small\d/(?P<character>[^/]+/character\d+)/\d+_(?P<drawer>\d+)\.png"
)


@dataclass(frozen=True, eq=False)
class Drawings:
    """Drawings of characters; the arrays are read-only.

    Attributes:
        ink (n, 105, 105): bool, True where there is ink.
        labels (n,): int64, index into ``characters``.
        drawers (n,): int64, 0 to 19: who drew it; numbered anew in each alphabet.
        characters: names such as ``Greek/character01``, sorted.
    """

    ink: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]
    drawers: npt.NDArray[np.int64]
    characters: tuple[str, ...]

    @property
    def alphabets(self) -> tuple[str, ...]:
        """Alphabet of each entry of ``characters``."""
        return tuple(name.partition("/")[0] for name in self.characters)


@dataclass(frozen=True, eq=False)
class OneShotRun:
    """One 20-way trial: name the class of each test drawing, given one drawing of each class.

    Attributes:
        train, test (20, 105, 105): bool, True where there is ink.
        answers (20,): int64, index into ``train`` of the character that each test drawing shows.
    """

    train: npt.NDArray[np.bool_]
    test: npt.NDArray[np.bool_]
    answers: npt.NDArray[np.int64]


def omniglot_small(root: Path | None = None) -> Drawings:
    """Union of both small background sets: 8 alphabets, 242 characters, 20 drawings of each.

    Greek and Latin are in both sets; their drawings are taken once.

    Raises: InputError if a zip is absent or malformed. Source: Lake, Salakhutdinov, Tenenbaum 2015.
    """
    folder = find("omniglot_small", root)
    drawings: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
    for part in PARTS:
        path = folder / part
        with reading(path), zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                found = _DRAWING.fullmatch(name)  # not the folders, nor what macOS left there
                if (
                    found
                    and (key := (found["character"], int(found["drawer"]) - 1)) not in drawings
                ):
                    drawings[key] = _ink(archive, name, path)
    characters = tuple(sorted({character for character, _ in drawings}))
    number = {character: index for index, character in enumerate(characters)}
    keys = sorted(drawings)
    return Drawings(
        frozen(np.stack([drawings[key] for key in keys])),
        labels_array([number[character] for character, _ in keys]),
        labels_array([drawer for _, drawer in keys]),
        characters,
    )


def omniglot_one_shot(root: Path | None = None) -> tuple[OneShotRun, ...]:
    """The 20 published one-shot runs, each of 20 classes and 20 test drawings.

    Raises: InputError if the zip is absent or malformed. Source: Lake et al. 2015.
    """
    path = find("omniglot_small", root) / "all_runs.zip"
    with reading(path), zipfile.ZipFile(path) as archive:
        return tuple(_one_shot_run(archive, f"run{k:02}", path) for k in range(1, RUNS + 1))


def _one_shot_run(archive: zipfile.ZipFile, run: str, path: Path) -> OneShotRun:
    classes = [f"{run}/training/class{k:02}.png" for k in range(1, WAYS + 1)]
    items = [f"{run}/test/item{k:02}.png" for k in range(1, WAYS + 1)]
    lines = archive.read(f"{run}/class_labels.txt").decode("ascii").splitlines()
    answer = dict(line.split() for line in lines if line.strip())
    if sorted(answer) != items or not set(answer.values()) <= set(classes):
        raise InputError(f"{path}: {run}/class_labels.txt does not pair {WAYS} items with classes")
    return OneShotRun(
        frozen(np.stack([_ink(archive, name, path) for name in classes])),
        frozen(np.stack([_ink(archive, name, path) for name in items])),
        labels_array([classes.index(answer[item]) for item in items]),
    )


def _ink(archive: zipfile.ZipFile, name: str, path: Path) -> npt.NDArray[np.bool_]:
    with Image.open(io.BytesIO(archive.read(name))) as image:
        paper = np.asarray(image.convert("1"))
    if paper.shape != (SIDE, SIDE):
        raise InputError(f"{path}: {name} has {paper.shape} pixels; expected {(SIDE, SIDE)}")
    return ~paper
