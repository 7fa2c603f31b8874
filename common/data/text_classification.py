"""Texts with true labels: TREC questions, the test part of AG News, sentences of film reviews."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from common.data.files import labels_array, read_lines, read_text, reading
from common.data.registry import find
from common.errors import InputError

#: Coarse classes of TREC, sorted.
TREC_CLASSES: Final = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
SST2_CLASSES: Final = ("negative", "positive")


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts with labels (n,), int64 indices into ``class_names``; the array is read-only."""

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


def trec6(train: bool = True, fine: bool = False, root: Path | None = None) -> LabelledTexts:
    """TREC questions, cased and tokenised: 5,452 for training or 500 for test.

    Labels are the 6 coarse classes, or with ``fine`` the 50 classes such as ``NUM:dist``, numbered
    in sorted order of those of the training file, so that both parts agree.

    Raises: InputError if a file is absent or malformed. Source: Li and Roth 2002.
    """
    folder = find("trec6", root)
    paths = folder / "train_5500.label", folder / "TREC_10.label"
    rows = _questions(paths[0 if train else 1])
    classes: tuple[str, ...] = TREC_CLASSES
    if fine:
        classes = tuple(sorted({label for label, _ in (rows if train else _questions(paths[0]))}))
    number = {name: index for index, name in enumerate(classes)}
    names = [label if fine else label.partition(":")[0] for label, _ in rows]
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(
            f"{paths[0 if train else 1]}: classes {unknown}; allowed: {', '.join(classes)}"
        )
    labels = labels_array([number[name] for name in names])
    return LabelledTexts(tuple(text for _, text in rows), labels, classes)


def _questions(path: Path) -> list[tuple[str, str]]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        label, space, text = line.partition(" ")
        if not space or ":" not in label:
            raise InputError(
                f"{path}: line {number} is {line[:60]!r}; expected COARSE:fine question"
            )
        rows.append((label, text))
    return rows


def agnews_test(root: Path | None = None) -> LabelledTexts:
    """The 7,600 news items of AG News' test part, 1,900 of each of 4 classes: title, space, lead.

    The training part is not distributed here: split this one.

    Raises: InputError if a file is absent or malformed. Source: Zhang, Zhao, LeCun 2015.
    """
    folder = find("agnews_test", root)
    path = folder / "test.csv"
    classes = read_lines(folder / "classes.txt")
    with reading(path):
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    allowed = {str(index + 1): index for index in range(len(classes))}
    for number, row in enumerate(rows, start=1):
        if len(row) != 3 or row[0] not in allowed:
            raise InputError(
                f"{path}: row {number} is {row!r:.60}; "
                f"expected class 1 to {len(classes)}, title, text"
            )
    labels = labels_array([allowed[row[0]] for row in rows])
    return LabelledTexts(tuple(f"{row[1]} {row[2]}" for row in rows), labels, classes)


def sst2(
    split: Literal["train", "dev", "test"] = "train", root: Path | None = None
) -> LabelledTexts:
    """Sentences of film reviews, lower-case and tokenised: 6,920, 872 and 1,821; all have labels.

    Raises: InputError if a file is absent or malformed. Source: Socher et al. 2013.
    """
    path = find("sst2", root) / f"{split}.tsv"
    labels, texts = [], []
    for number, line in enumerate(read_lines(path), start=1):
        label, tab, text = line.partition("\t")
        if label not in ("0", "1") or not tab or not text.strip():
            raise InputError(f"{path}: line {number} is {line[:60]!r}; expected 0 or 1, tab, text")
        labels.append(int(label))
        texts.append(text)
    return LabelledTexts(tuple(texts), labels_array(labels), SST2_CLASSES)
