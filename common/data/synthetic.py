"""Seeded damage and stand-ins: long tails, wrong labels, weak labels and pictures of scenes.

``seed`` is a number or a generator; the same number gives the same bytes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from common.errors import InputError

Seed = int | np.random.Generator
Indices = npt.NDArray[np.int64]


def long_tailed(
    labels: Indices,
    imbalance: float,
    seed: Seed,
    largest: int | None = None,
    order: Literal["index", "random"] = "random",
) -> Indices:
    """Indices (m,), ascending, of a subset whose class sizes fall exponentially.

    The class of rank r = 0 ... K - 1 keeps largest * imbalance^(-r / (K - 1)) examples, rounded to
    a whole number and at least one.

    Args:
        labels (n,): class of each example, whole numbers.
        imbalance: size of the largest class over that of the smallest, at least 1.
        largest: size of the largest class; as large as the labels allow unless given.
        order: ``index`` ranks the classes by their number, ``random`` by a draw.

    Raises: InputError if imbalance < 1, or a class has fewer than ``largest`` examples.
    Source: Cui, Jia, Lin, Song, Belongie 2019; random order as Shu et al. 2019.
    """
    if imbalance < 1:
        raise InputError(f"imbalance {imbalance}; allowed 1 and more")
    rng = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    most = int(sizes.min(initial=len(labels)))
    largest = most if largest is None else largest
    if not 1 <= largest <= most:
        raise InputError(f"largest {largest}; allowed 1 to {most}, the size of the smallest class")
    ranked = rng.permutation(classes) if order == "random" else classes
    shares = imbalance ** -np.linspace(0, 1, len(classes))
    kept = np.maximum(1, np.rint(largest * shares).astype(int))
    chosen = [
        rng.choice(np.flatnonzero(labels == label), size, replace=False)
        for label, size in zip(ranked, kept, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def noisy_labels(
    labels: Indices, rate: float, classes: int, seed: Seed, to: Literal["other", "any"] = "other"
) -> Indices:
    """Labels (n,) of which a share ``rate``, exactly up to rounding, is drawn anew uniformly.

    Args:
        labels (n,): true classes, 0 to ``classes`` - 1.
        rate: share of examples that are drawn anew, 0 to 1.
        to: ``other`` draws among the other classes, so that all of them are wrong afterwards;
            ``any`` among all classes, so that a share 1 / classes of them stays right.

    Raises: InputError if rate is outside 0 to 1, a label outside the classes, or classes < 2.
    Source: Zhang, Bengio, Hardt, Recht, Vinyals 2017 (any); Patrini et al. 2017 (other).
    """
    _check_classes(labels, classes)
    _check_share("rate", rate)
    rng = np.random.default_rng(seed)
    noisy = np.array(labels, dtype=np.int64)
    hit = rng.choice(len(noisy), round(rate * len(noisy)), replace=False)
    if to == "other":
        noisy[hit] = (noisy[hit] + rng.integers(1, classes, len(hit))) % classes
    else:
        noisy[hit] = rng.integers(0, classes, len(hit))
    return noisy


def weak_labels(
    labels: Indices,
    classes: int,
    accuracy: npt.ArrayLike,
    coverage: npt.ArrayLike,
    seed: Seed,
) -> Indices:
    """Votes (n, functions) of independent labelling functions; -1 where one abstains.

    Each function votes on an example with chance ``coverage``, and then rightly with chance
    ``accuracy``, else for one of the other classes, each as likely.

    Args:
        labels (n,): true classes, 0 to ``classes`` - 1.
        accuracy (functions,): 0 to 1.
        coverage: 0 to 1, one number for all functions or (functions,).

    Raises: InputError if a chance is outside 0 to 1, a label outside the classes, or classes < 2.
    Source: the model of Ratner, De Sa, Wu, Selsam, Re 2016.
    """
    _check_classes(labels, classes)
    _check_share("accuracy", accuracy)
    _check_share("coverage", coverage)
    rng = np.random.default_rng(seed)
    accuracy = np.asarray(accuracy, dtype=float)
    shape = (len(labels), accuracy.size)
    wrong = (labels[:, None] + rng.integers(1, classes, shape)) % classes
    votes = np.where(rng.random(shape) < accuracy, labels[:, None], wrong)
    return np.where(rng.random(shape) < np.asarray(coverage), votes, -1)


def scene_pictures(
    scenes: Indices,
    prototypes: npt.NDArray[np.float64],
    noise: float,
    seed: Seed,
    quality: float = 1.0,
) -> npt.NDArray[np.float32]:
    """Feature vectors (n, d) of pictures: the prototype of the scene shown plus Gaussian noise.

    Args:
        scenes (n,): scene of each sentence, row of ``prototypes``.
        prototypes (scenes, d): one vector for each scene, usually of norm 1.
        noise: root mean square of the norm of a picture's noise.
        quality: chance that the picture shows the sentence's scene; else any scene, each as likely,
            so that 1 is a faithful picture and 0 an unrelated one.

    Raises: InputError if quality is outside 0 to 1 or noise < 0.
    """
    _check_share("quality", quality)
    if noise < 0:
        raise InputError(f"noise {noise}; needed at least 0")
    rng = np.random.default_rng(seed)
    count, width = prototypes.shape
    unrelated = rng.integers(0, count, len(scenes))
    shown = np.where(rng.random(len(scenes)) < quality, scenes, unrelated)
    scatter = rng.standard_normal((len(scenes), width)) * (noise / np.sqrt(width))
    pictures: npt.NDArray[np.float32] = (prototypes[shown] + scatter).astype(np.float32)
    return pictures


def _check_classes(labels: Indices, classes: int) -> None:
    if classes < 2 or (len(labels) and not 0 <= labels.min() <= labels.max() < classes):
        raise InputError(f"labels must be 0 to classes - 1 = {classes - 1}, and classes at least 2")


def _check_share(name: str, value: npt.ArrayLike) -> None:
    values = np.asarray(value, dtype=float)
    if not np.all((values >= 0) & (values <= 1)):
        raise InputError(f"{name} {values.tolist()}; allowed 0 to 1")
