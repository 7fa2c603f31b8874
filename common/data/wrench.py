"""WRENCH: texts with the votes of hand-written labelling functions, for weak supervision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.data.files import check_labels, frozen, labels_array, read_json
from common.data.registry import find
from common.errors import InputError

NAMES: Final = ("chemprot", "semeval", "sms", "trec", "youtube")
SPLITS: Final = ("train", "valid", "test")
ABSTAIN: Final = -1


@dataclass(frozen=True, eq=False)
class WeakTexts:
    """Texts with true and weak labels; the arrays are read-only.

    Attributes:
        texts: n texts.
        labels (n,): int64, index into ``class_names``.
        weak_labels (n, functions): int64, vote of each labelling function; -1 where it abstains.
        spans (n, 2, 2): int64, first and past-the-last character of the two entities whose relation
            is the label; shape (n, 0, 2) in sets without entities.
        labelled (m,): int64, rows of ``train`` whose true label the authors of the functions had;
            empty elsewhere. Published sizes of TREC and YouTube leave these rows out.
    """

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    weak_labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    spans: npt.NDArray[np.int64]
    labelled: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)


def wrench(
    name: str, split: str = "train", root: Path | None = None, repair_leak: bool = True
) -> WeakTexts:
    """Split ``train``, ``valid`` or ``test`` of the WRENCH set ``name``, one of ``NAMES``.

    TREC's test texts as released tell the answer: each starts with the word of its fine class
    ("dist How far is it ..."), and they are cased while train and valid are lower-case. So by
    default that word is dropped and the text lower-cased; ``repair_leak=False`` gives them as
    released, for comparison with numbers measured on the leaking texts.

    Raises: InputError for an unknown name or split, for ChemProt's train (too large for the copy
    that the set was taken from), and for a file that is absent or malformed.
    Source: Zhang, Yu, Li, Wang, Yang, Yang, Ratner 2021.
    """
    if name not in NAMES or split not in SPLITS:
        raise InputError(
            f"WRENCH: no split {split!r} of {name!r}; allowed: {', '.join(SPLITS)} "
            f"of {', '.join(NAMES)}"
        )
    folder = find("wrench", root) / name
    path = folder / f"{split}.json"
    if (name, split) == ("chemprot", "train") and not path.exists():
        raise InputError(f"{path}: ChemProt's train split is not distributed here; use valid, test")
    class_names = _class_names(folder / "label.json")
    examples = read_json(path)
    if not isinstance(examples, dict) or not examples:
        raise InputError(f"{path}: expected an object that maps each id to an example")
    try:
        rows = list(examples.values())
        texts = tuple(str(row["data"]["text"]) for row in rows)
        labels = labels_array([row["label"] for row in rows])
        weak_labels = labels_array([row["weak_labels"] for row in rows])
        spans = labels_array([_spans(row["data"]) for row in rows]).reshape(len(rows), -1, 2)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: an example is malformed ({error!r}); expected label, as many weak_labels "
            "in each, data.text"
        ) from None
    if weak_labels.ndim != 2:
        raise InputError(f"{path}: weak_labels {weak_labels.shape}; expected (examples, functions)")
    check_labels(labels, len(class_names), path)
    check_labels(weak_labels, len(class_names), path, lowest=ABSTAIN)
    if (name, split) == ("trec", "test") and repair_leak:
        texts = tuple(text.partition(" ")[2].lower() for text in texts)
    labelled = labels_array([])
    if split == "train" and (folder / "labeled_ids.json").exists():
        labelled = _labelled(folder / "labeled_ids.json", list(examples))
    return WeakTexts(texts, labels, weak_labels, class_names, spans, labelled)


def _class_names(path: Path) -> tuple[str, ...]:
    names = read_json(path)
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(map(str, range(len(names)))):
        raise InputError(f"{path}: expected an object that maps '0', '1', ... to class names")
    return tuple(str(names[str(index)]) for index in range(len(names)))


def _spans(data: dict[str, Any]) -> list[list[int]]:
    return [data["span1"], data["span2"]] if "span1" in data else []


def _labelled(path: Path, ids: list[str]) -> npt.NDArray[np.int64]:
    row = {identity: index for index, identity in enumerate(ids)}
    try:
        return frozen(np.array([row[i] for i in read_json(path)["labeled_ids"]], dtype=np.int64))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected labeled_ids, a list of ids of train ({error!r})"
        ) from None
