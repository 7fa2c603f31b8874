"""A small language whose ambiguous words only the picture's scene resolves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from papers.mmt_how2.translation.binarised_text import SentencePairs, binarise

SCENES, WIDTH = 4, 8


def pairs(
    rng: np.random.Generator, count: int, least: int = 1, most: int = 3
) -> tuple[SentencePairs, np.ndarray]:
    """Sentences of different lengths and their pictures, one vector each."""
    scenes = rng.integers(SCENES, size=count)
    source, target = [], []
    for scene in scenes:
        nouns = rng.integers(4, size=rng.integers(least, most + 1))
        source.append(" ".join(["the", *(f"n{noun}" for noun in nouns), "bank"]))
        target.append(" ".join([*(f"N{noun}" for noun in reversed(nouns)), f"BANK{scene % 2}"]))
    pictures = np.eye(WIDTH, dtype=np.float32)[scenes] + rng.normal(0, 0.1, (count, WIDTH))
    return SentencePairs(source, target), pictures.astype(np.float32)


def write(folder: Path, seed: int = 0, **sizes: int) -> tuple[Path, Path]:
    """Data folder and feature folder of splits with these numbers of sentences."""
    rng = np.random.default_rng(seed)
    visual = folder / "visual"
    visual.mkdir(parents=True, exist_ok=True)
    splits = {}
    for name, count in sizes.items():
        splits[name], pictures = pairs(rng, count)
        np.save(visual / f"{name}.npy", pictures)
    return binarise(splits, folder / "data", "en", "pt"), visual
