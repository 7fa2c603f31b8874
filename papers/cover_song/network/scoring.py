"""Log-odds of "cover" for all pairs, or for those that a cheap measure puts first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.special import expit
from torch import nn

from common.errors import InputError
from papers.cover_song.network.architectures import ARCHITECTURES, build_network, log_odds
from papers.cover_song.network.matrices import cross_similarity
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import pair_batches

#: Matrices in memory at once: 64 of 180 x 180 are 8 MB, and 270 MB with a layer's activations.
BATCH: Final = 64


@torch.inference_mode()
def pair_log_odds(
    network: nn.Module,
    songs: ChromaSet,
    pairs: NDArray[np.int64],
    advance: Callable[[int], object] | None = None,
    *,
    shifts: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Log-odds that pairs (p, 2) are covers: (p,), float64; computed on the network's device.

    Args:
        advance: is told of pairs that are done.
        shifts: (p,), semitones that the later song of each pair moves up by (default: the optimal
            transposition).
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    found = [np.empty(0)]
    for start in range(0, len(pairs), BATCH):
        part = slice(start, start + BATCH)
        matrices = cross_similarity(songs, pairs[part], None if shifts is None else shifts[part])
        found.append(log_odds(network(matrices.to(device)).float()).cpu().numpy())
        if advance:
            advance(len(matrices))
    network.train(was_training)
    return np.concatenate(found)


def all_log_odds(
    network: nn.Module, songs: ChromaSet, advance: Callable[[int], object] | None = None
) -> NDArray[np.float64]:
    """Log-odds of all pairs: (songs, songs), symmetric, the diagonal NaN."""
    count = len(songs)
    scores = np.full((count, count), np.nan)
    for pairs in pair_batches(count, BATCH * 16):
        i, j = pairs.T
        scores[i, j] = scores[j, i] = pair_log_odds(network, songs, pairs, advance)
    return scores


def reranked(
    scores: NDArray[np.float64],
    candidates: int,
    log_odds_of: Callable[[NDArray[np.int64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """A cheap measure's order, in which the network sorts the best ``candidates`` of each query.

    Args:
        scores: (songs, songs) of the cheap measure.
        candidates: how many of each query the network looks at.
        log_odds_of: pairs i < j (p, 2), each once, to (p,): :func:`pair_log_odds`, say.

    Returns:
        (songs, songs), the diagonal NaN: probabilities plus 1 of what was looked at; below zero the
        rest, in its order.
    """
    count = len(scores)
    looked_at = min(candidates, count - 1)
    order = np.argsort(-np.where(np.eye(count, dtype=bool), -np.inf, scores), axis=1, kind="stable")
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(count)[None], axis=1)
    found = -1.0 - places
    pairs = np.stack([np.repeat(np.arange(count), looked_at), order[:, :looked_at].ravel()], axis=1)
    once, where = np.unique(np.sort(pairs, axis=1), axis=0, return_inverse=True)
    found[pairs[:, 0], pairs[:, 1]] = 1 + expit(log_odds_of(once))[where.ravel()]
    np.fill_diagonal(found, np.nan)
    return found  # type: ignore[return-value]


def save_network(network: nn.Module, path: Path, **told: Any) -> None:
    """Weights as safetensors, with what is needed to build the network again.

    Args:
        told: ``architecture``, ``frames`` and ``filters``.
    """
    weights = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    # One key: the library writes several in any order, and equal networks would be unequal files.
    save_file(weights, str(path), metadata={"network": json.dumps(told, sort_keys=True)})


def load_network(path: Path) -> tuple[nn.Module, int]:
    """A network as :func:`save_network` wrote it, and the frames that it takes; ready to score.

    Raises: InputError if the file is no such network.
    """
    return built_network(read_network(path), path)


class StoredNetwork(NamedTuple):
    """What a file holds: what it tells of the network, and the weights by their names."""

    told: dict[str, Any]
    weights: dict[str, torch.Tensor]


def read_network(path: Path) -> StoredNetwork:
    """A file of :func:`save_network`; it tells nothing if another program wrote it.

    Raises: InputError if the file is not in safetensors form.
    """
    try:
        with safe_open(str(path), framework="pt") as stored:
            told = json.loads((stored.metadata() or {}).get("network", "{}"))
        weights = load_file(str(path))
    except Exception as error:  # the library raises its own kinds for what is no such file
        raise InputError(f"{path}: no weights in safetensors form ({error})") from None
    return StoredNetwork(told if isinstance(told, dict) else {}, weights)


def built_network(stored: StoredNetwork, path: Path) -> tuple[nn.Module, int]:
    """One of the published forms, and the frames that it takes; ready to score.

    Raises: InputError, naming ``path``, if what is stored is no such network.
    """
    told = stored.told
    missing = {"architecture", "frames", "filters"} - told.keys()
    if missing or told["architecture"] not in ARCHITECTURES:
        raise InputError(f"{path}: its metadata is {told}; needed: architecture, frames, filters")
    frames = int(told["frames"])
    network = build_network(told["architecture"], frames, int(told["filters"]))
    return with_weights(network, stored, path), frames


def with_weights(network: nn.Module, stored: StoredNetwork, path: Path) -> nn.Module:
    """The network with the weights of a file, ready to score.

    Raises: InputError, naming ``path``, if they do not fit.
    """
    try:
        network.load_state_dict(stored.weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: its weights do not fit its metadata ({reason})") from None
    return network.eval()
