"""Command line: ``python -m papers.cover_song.rank FEATURES.npz --measure qmax --out SCORES.npy``.

Features in, scores of all pairs out: higher is more alike; a song with itself has minus infinity.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from papers.cover_song.command_line import bar, exit_of, load_weights
from papers.cover_song.ranking.rankings import RANKINGS
from papers.cover_song.scoring import ANY_MEASURE, collection_scores
from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set
from papers.cover_song.similarity.measures import Alignment


def main(arguments: Sequence[str] | None = None) -> None:
    """Read features, score all pairs, write scores."""
    parser = argparse.ArgumentParser(
        prog="python -m papers.cover_song.rank",
        description="Scores of all pairs of songs, from their chroma. SCORES[i, j] is of query i"
        " and reference j, float64, higher is more alike; -inf on the diagonal.",
    )
    parser.add_argument(
        "features",
        type=Path,
        help="npz with X (songs, frames, 12), uint8 or floating, a frame a second, zero after a"
        " song's end",
    )
    parser.add_argument("--measure", choices=ANY_MEASURE, default="qmax", help="default: qmax")
    parser.add_argument(
        "--ranking",
        choices=RANKINGS,
        default="raw",
        help="raw scores; cosine or correlation of their rows; zscore over a reference's queries;"
        " mutual proximity. Default: raw",
    )
    parser.add_argument(
        "--shifts",
        type=int,
        help="transpositions tried, 0 to 12, of cnn from 1 on; default: 1, of cnn as it learned",
    )
    parser.add_argument("--weights", type=Path, help="of cnn: safetensors; default: ours")
    parser.add_argument(
        "--candidates",
        type=int,
        metavar="K",
        help="of cnn: the network sees each song's best K by Qmax alone, and a pair that is among"
        " those of one of its songs; the other pairs have their Qmax, less so much that all of them"
        " lie at least 1 below the lowest log-odds, and below -1. Default: it sees all pairs",
    )
    parser.add_argument("--out", type=Path, required=True, help="npy to write")
    given = parser.parse_args(arguments)
    least = 1 if given.measure == "cnn" else 0
    if given.shifts is not None and not least <= given.shifts <= 12:
        raise InputError(f"--shifts {given.shifts}: allowed: {least} to 12")
    if given.weights and given.measure != "cnn":
        raise InputError(f"--weights {given.weights}: is of --measure cnn alone")
    if given.candidates is not None and given.measure != "cnn":
        raise InputError(f"--candidates {given.candidates}: is of --measure cnn alone")
    if given.candidates is not None and given.candidates < 1:
        raise InputError(f"--candidates {given.candidates}: allowed: from 1 on")
    _check_out(given.out)
    songs = _read(given.features)
    network = None
    if given.measure == "cnn":
        from papers.cover_song.network.keyed_scoring import fitted

        network = load_weights(given.weights)
        songs = fitted(songs, network.frames)
    shortest = 1 if given.measure == "fourier" else Alignment().shortest
    for row in np.flatnonzero(songs.lengths < shortest):
        raise InputError(
            f"{given.features}: X[{row}]: {songs.lengths[row]} frames that sound; allowed: from"
            f" {shortest} on"
        )
    count, ranking = len(songs), given.ranking
    if count < 3 and ranking != "raw":
        print(
            f"--ranking {ranking}: {given.features} holds {count} songs, of which it says nothing;"
            " scores are raw",
            file=sys.stderr,
        )
        ranking = "raw"
    pairs = count * (count - 1) // 2
    more = min(pairs, count * given.candidates) if given.candidates else 0  # at most
    with bar(pairs + more, given.measure, "pair") as progress:
        scores = collection_scores(
            songs,
            given.measure,
            ranking,
            network,
            None if given.shifts is None else Alignment(shifts=given.shifts),
            progress.update,
            given.candidates,
        )
    np.fill_diagonal(scores, -np.inf)
    _write(given.out, scores)


def _read(path: Path) -> ChromaSet:
    """Songs out of an npz file. Raises InputError, naming the file, for what is none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as stored:
            if "X" not in stored:
                raise InputError(f"{path}: holds {sorted(stored)}; needed: X (songs, frames, 12)")
            given = stored["X"]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: no npz file ({error})") from None
    if given.dtype != np.uint8 and given.dtype.kind != "f":
        raise InputError(f"{path}: X is {given.dtype}; allowed: uint8 or floating")
    if given.ndim != 3 or len(given) < 1:
        raise InputError(f"{path}: X is {given.shape}; allowed: (1 or more songs, frames, 12)")
    try:
        return chroma_set(given)
    except InputError as error:
        raise InputError(f"{path}: X: {error}") from None


def _check_out(path: Path) -> None:
    """Before hours of scoring. Raises InputError if no file can be written there."""
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: no such folder")
    if path.is_dir():
        raise InputError(f"--out {path}: is a folder; allowed: a file")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--out {path}: its folder cannot be written to")


def _write(path: Path, scores: NDArray[np.float64]) -> None:
    """By one rename, so that a file that is there is whole."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as stream:
        np.save(stream, scores)
    Path(name).chmod(0o644)
    Path(name).replace(path)


if __name__ == "__main__":
    exit_of(main)
