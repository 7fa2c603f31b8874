"""One label of an example from the votes of labelling functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Votes = npt.NDArray[np.int64]
Chances = npt.NDArray[np.float64]
ABSTAIN = -1
#: Votes, right or wrong, that each function counts besides its own: keeps accuracies inside 0 to 1.
PRIOR_RIGHT, PRIOR_WRONG = 2.0, 1.0


def majority_vote(votes: Votes, classes: int) -> Chances:
    """Share of the votes (n, functions) for each class, (n, classes); all equal where none is."""
    counts = _one_hot(votes, classes).sum(axis=1)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), 1 / classes)


def function_accuracies(votes: Votes, classes: int, steps: int = 100) -> Chances:
    """Accuracy (functions,) of each labelling function, from how they agree; no truth is read.

    Functions are taken as independent given the true class, wrong votes as equally likely, true
    classes too; that likelihood is climbed by expectation maximisation from the majority vote.
    Source: Ratner et al. 2016, Sec. 4 (data programming without dependencies).
    """
    hot = _one_hot(votes, classes)
    given = hot.sum(axis=(0, 2))
    posterior = majority_vote(votes, classes)
    for _ in range(steps):
        right = np.einsum("njc,nc->j", hot, posterior)
        accuracies: Chances = (right + PRIOR_RIGHT) / (given + PRIOR_RIGHT + PRIOR_WRONG)
        posterior = data_programming(votes, accuracies, classes)
    return accuracies


def data_programming(votes: Votes, accuracies: Chances, classes: int) -> Chances:
    """Chance (n, classes) of each class given votes of functions with known ``accuracies``."""
    evidence = np.log(accuracies) - np.log((1 - accuracies) / (classes - 1))
    scores = np.einsum("njc,j->nc", _one_hot(votes, classes), evidence)
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    chances: Chances = odds / odds.sum(axis=1, keepdims=True)
    return chances


def expected_accuracy(chances: Chances, labels: npt.NDArray[np.int64]) -> float:
    """Accuracy, %, of the likeliest class; ties count as if one of them were drawn."""
    likeliest = chances >= chances.max(axis=1, keepdims=True) - 1e-9
    hits = likeliest[np.arange(len(labels)), labels] / likeliest.sum(axis=1)
    return 100 * float(hits.mean())


def drawn_labels(chances: Chances, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The likeliest class (n,) of each row; ties are drawn."""
    likeliest = chances >= chances.max(axis=1, keepdims=True) - 1e-9
    return np.argmax(likeliest * (1 + rng.random(chances.shape)), axis=1)


def _one_hot(votes: Votes, classes: int) -> Chances:
    """(n, functions, classes); a row of zeros where a function abstains."""
    hot: Chances = (votes[:, :, None] == np.arange(classes)).astype(float)
    return hot
