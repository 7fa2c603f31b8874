"""Data of Table 3: labels made by labelling functions or by noise, a clean meta set, a test set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from common.data.synthetic import noisy_labels, weak_labels
from common.data.wrench import ABSTAIN, WeakTexts
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.batches import Split, per_class
from common.tasks.bert_settings import BertSettings

Indices = npt.NDArray[np.int64]
ClassShares = npt.NDArray[np.float64]


class WeakSettings(Settings):
    """What is classified, and where the labels to train on come from."""

    data: Literal["digits", "trec", "semeval", "youtube", "sms"]
    data_root: str | None = None
    # The paper does not state its features. WRENCH gives its multilayer perceptrons the outputs of
    # a frozen BERT (cased; here uncased); TF-IDF of words and word pairs, reduced by a truncated
    # SVD, needs no weights.
    text_features: Literal["tfidf_svd", "bert"] = "tfidf_svd"
    text_dimensions: int = Field(256, gt=0, description="of the truncated SVD")
    bert: BertSettings = BertSettings()
    noise: Literal["functions", "symmetric"] = Field(
        "functions", description="digits only: synthetic labelling functions, or wrong labels"
    )
    noise_rate: float = Field(0.6, ge=0, le=1, description="share of labels that are wrong")
    functions: int = Field(10, gt=0)
    function_accuracy: tuple[float, float] = Field(
        (0.4, 0.8), description="of the worst and the best function; equal steps between"
    )
    function_coverage: float = Field(0.3, gt=0, le=1)
    meta_per_class: int = Field(10, gt=0, description="digits only")
    test_per_class: int = Field(60, gt=0, description="digits only")


class WeakData(NamedTuple):
    """Training inputs with given and with true labels; meta and test sets have true ones.

    ``vote_pct`` is the accuracy (%) of the majority vote alone on the test set; None without votes.
    """

    train: Split
    truth: Tensor
    meta: Split
    test: Split
    classes: int
    vote_pct: float | None


class Labels(NamedTuple):
    """Rows of the training set that keep a label, those labels, and :attr:`WeakData.vote_pct`."""

    rows: Indices
    given: Indices
    vote_pct: float | None


def load_weak(settings: WeakSettings, run: Run, device: torch.device | None = None) -> WeakData:
    """Draw the sets with the run's seed and note what was read; BERT reads texts on ``device``."""
    rng = np.random.default_rng(run.seed)
    if settings.data == "digits":
        return _label_digits(settings, run, rng)
    return _load_texts(settings, run, rng, device)


def _label_digits(settings: WeakSettings, run: Run, rng: np.random.Generator) -> WeakData:
    from common.data.images import digits

    images = digits()
    run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
    x = torch.from_numpy(images.pixels.reshape(len(images), -1) / 16).float()
    y = images.labels
    test, rest = per_class(y, settings.test_per_class, rng)
    meta, train = (rest[part] for part in per_class(y[rest], settings.meta_per_class, rng))
    if settings.noise == "symmetric":
        given = noisy_labels(y[train], settings.noise_rate, 10, rng)
        labels = Labels(np.arange(len(train)), given, None)
    else:
        accuracy = np.linspace(*settings.function_accuracy, settings.functions)
        votes = [
            weak_labels(y[part], 10, accuracy, settings.function_coverage, rng)
            for part in (train, test)
        ]
        labels = aggregated(votes[0], votes[1], y[test], 10, rng)
    train = train[labels.rows]
    return _data(x[train], labels, y[train], (x[meta], y[meta]), (x[test], y[test]), 10)


def _load_texts(
    settings: WeakSettings, run: Run, rng: np.random.Generator, device: torch.device | None
) -> WeakData:
    from common.data.registry import identity
    from common.data.wrench import SPLITS, wrench

    root = Path(settings.data_root) if settings.data_root else None
    name = settings.data
    files = [f"{name}/{stem}.json" for stem in (*SPLITS, "label")]
    files += [f"{name}/labeled_ids.json"] if name != "semeval" else []
    run.uses(identity("wrench", files, root))
    train, valid, test = (wrench(name, split, root) for split in SPLITS)
    classes = len(train.class_names)
    # Published sizes leave out the rows whose truth the authors of the functions had.
    rows = np.setdiff1d(np.arange(len(train)), train.labelled)
    labels = aggregated(train.weak_labels[rows], test.weak_labels, test.labels, classes, rng)
    kept = rows[labels.rows]
    if settings.text_features == "bert":
        x = bert_features([train, valid, test], settings.bert, root, run, device)
    else:
        x = text_features([train, valid, test], settings.text_dimensions, run.seed)
    return _data(
        x[0][kept], labels, train.labels[kept], (x[1], valid.labels), (x[2], test.labels), classes
    )


def _data(
    x: Tensor,
    labels: Labels,
    truth: Indices,
    meta: tuple[Tensor, Indices],
    test: tuple[Tensor, Indices],
    classes: int,
) -> WeakData:
    given, true, meta_y, test_y = (
        torch.from_numpy(np.array(part)) for part in (labels.given, truth, meta[1], test[1])
    )
    return WeakData(
        Split(x, given),
        true,
        Split(meta[0], meta_y),
        Split(test[0], test_y),
        classes,
        labels.vote_pct,
    )


def aggregated(
    votes: Indices,
    test_votes: Indices,
    test_labels: Indices,
    classes: int,
    rng: np.random.Generator,
) -> Labels:
    """The majority vote of each row, ties drawn. Rows without a vote are left out, as in WRENCH.

    The test set is not thinned out: where no function votes, any class is as likely.
    """
    # The paper took Snorkel's label model. Two models of its kind, fitted by expectation
    # maximisation, were tried: one accuracy for each function, which collapses to a single class
    # where each function votes for one class alone, and Dawid and Skene's confusion matrices with
    # abstaining as a vote. On TREC and SemEval both end far below the majority vote.
    rows = np.flatnonzero((votes != ABSTAIN).any(axis=1))
    winners = majority(votes[rows], classes)
    given = np.argmax(winners * (1 + rng.random(winners.shape)), axis=1)
    hits = majority(test_votes, classes)[np.arange(len(test_labels)), test_labels]
    return Labels(rows, given, 100 * float(hits.mean()))


def majority(votes: Indices, classes: int) -> ClassShares:
    """(n, classes): an equal share for each class with the most of the votes (n, functions)."""
    counts = (votes[:, :, None] == np.arange(classes)).sum(axis=1)
    most = counts == counts.max(axis=1, keepdims=True)
    shares: ClassShares = most / most.sum(axis=1, keepdims=True)
    return shares


def text_features(splits: list[WeakTexts], dimensions: int, seed: int) -> list[Tensor]:
    """Features (n, dimensions) of each split, in float32; fitted on the first one's texts.

    Where a text names two entities, the words between them are told apart from the same words
    elsewhere, since their relation is the label. The mean squared feature is 1.

    Raises:
        InputError: as many dimensions as terms, or more.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    counts = tfidf.fit_transform(marked(splits[0]))
    if dimensions >= counts.shape[1]:
        raise InputError(f"text_dimensions {dimensions}: allowed below {counts.shape[1]} terms")
    svd = TruncatedSVD(dimensions, random_state=seed)
    fitted = svd.fit_transform(counts)
    scale = np.sqrt((fitted**2).mean())
    parts = [fitted, *(svd.transform(tfidf.transform(marked(split))) for split in splits[1:])]
    return [torch.from_numpy(part / scale).float() for part in parts]


def bert_features(
    splits: list[WeakTexts],
    settings: BertSettings,
    root: Path | None,
    run: Run,
    device: torch.device | None,
) -> list[Tensor]:
    """Features of each split by a frozen BERT; the mean squared feature is 1, as of TF-IDF.

    Raises: InputError as :func:`~common.tasks.text_classifier.identify_files`.
    """
    from common.tasks.text_classifier import (
        frozen_features,
        identify_files,
        read_bert,
        read_tokenizer,
    )

    run.uses(identify_files(settings, root))
    bert: nn.Module = read_bert(settings, root)
    bert.to(device)
    tokenizer = read_tokenizer(settings, root)
    parts = [
        frozen_features(bert, tokenizer, split.texts, split.spans, settings.pooling)
        for split in splits
    ]
    scale = parts[0].square().mean().sqrt()
    return [part / scale for part in parts]


def marked(texts: WeakTexts) -> list[str]:
    """Texts, with the words between their two entities once more as ``between_word``."""
    if not texts.spans.shape[1]:
        return list(texts.texts)
    return [
        " ".join([text, *(f"between_{word}" for word in text[spans[0, 1] : spans[1, 0]].split())])
        for text, spans in zip(texts.texts, np.sort(texts.spans, axis=1), strict=True)
    ]
