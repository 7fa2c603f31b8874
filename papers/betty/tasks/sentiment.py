"""Data of Table 2 at paper scale: sentences of film reviews, one class of which is rare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from common.data.registry import identity
from common.data.text_classification import sst2
from common.runs.run import Run
from common.tasks.batches import Split, per_class
from common.tasks.bert_settings import BertSettings
from common.tasks.text_classifier import identify_files, piece_numbers

Indices = npt.NDArray[np.int64]


def load_sst2(
    settings: BertSettings,
    imbalance: float,
    meta_per_class: int,
    root: Path | None,
    run: Run,
    rng: np.random.Generator,
) -> tuple[Split, Split, Split]:
    """Imbalanced training set, balanced meta set and development set, as piece numbers.

    The published script is tested on the development set too.
    """
    run.uses(identity("sst2", ["train.tsv", "dev.tsv"], root))
    run.uses(identify_files(settings, root))
    sentences, held_out = sst2("train", root), sst2("dev", root)
    train, meta = rare_positives(sentences.labels, imbalance, meta_per_class, rng)
    pieces = piece_numbers(sentences.texts, settings, root)
    labels = torch.from_numpy(sentences.labels.copy())
    test = Split(
        piece_numbers(held_out.texts, settings, root), torch.from_numpy(held_out.labels.copy())
    )
    return Split(pieces[train], labels[train]), Split(pieces[meta], labels[meta]), test


def rare_positives(
    labels: Indices, imbalance: float, meta_per_class: int, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """(training indices, meta indices), disjoint, of two classes.

    Of what the meta set leaves, half would be one class's share: negatives keep that many, or all
    there are, positives that many over the imbalance. Source: the published script.
    """
    meta, rest = per_class(labels, meta_per_class, rng)
    share = len(rest) // 2
    kept = []
    for label, wanted in enumerate((share, max(1, int(share / imbalance)))):
        rows = rest[labels[rest] == label]
        kept.append(rng.choice(rows, min(wanted, len(rows)), replace=False))
    return np.concatenate(kept), meta
