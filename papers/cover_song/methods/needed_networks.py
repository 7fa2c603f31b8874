"""Networks that the runs which came before have left: to judge, or to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from torch import nn

from common.errors import InputError
from common.runs.run import Run
from papers.cover_song.network.coarse import PairNetwork, load_pair_network
from papers.cover_song.network.scoring import load_network

#: Name under which training programs leave their weights.
WEIGHTS: Final = "network.safetensors"


def plain_network(run: Run, seconds: int) -> nn.Module:
    """The needed run's network, for matrices in the optimal transposition: (n, 1, T, T).

    Raises: InputError if it takes another T than ``seconds``, or is of the coarse form.
    """
    network, frames = load_network(_weights(run))
    _check_seconds(frames, seconds)
    return network


def keyed_network(run: Run, seconds: int) -> PairNetwork:
    """The needed run's network of either form, with the number of its keys.

    Raises: InputError if it takes songs of another length than ``seconds``.
    """
    given = load_pair_network(_weights(run))
    _check_seconds(given.frames, seconds)
    return given


def starting_weights(run: Run) -> Path:
    """Of the needed runs 'start' in turn, by the run's seed: a plain network's file."""
    folders = run.needed("start")
    return folders[run.seed % len(folders)] / WEIGHTS


def _weights(run: Run) -> Path:
    """Of the needed run 'network' with the run's own seed.

    Raises: InputError if there is none: another seed's has learned from works that are judged here.
    """
    folders = {folder.name: folder for folder in run.needed("network")}
    if f"seed{run.seed}" not in folders:
        raise InputError(f"network: seed {run.seed}; trained: {', '.join(folders)}")
    return folders[f"seed{run.seed}"] / WEIGHTS


def _check_seconds(frames: int, seconds: int) -> None:
    if frames != seconds:
        raise InputError(f"collection.seconds {seconds}: the network takes {frames}")
