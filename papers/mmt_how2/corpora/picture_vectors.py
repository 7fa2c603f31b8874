"""Made-up pictures: vectors that show a scene through noise, clutter and repetition."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from common.data.synthetic import scene_pictures
from common.experiments.settings import Settings

Scenes = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
#: Directions that all pictures share are those of the world, the same in every split.
SHARED_SEED: Final = 0


class Pictures(Settings):
    """What is wrong with pictures; by default little."""

    size: int = Field(64, ge=1, description="numbers of a vector")
    quality: float = Field(1.0, ge=0, le=1, description="chance to show the sentence's scene")
    noise: float = Field(0.3, ge=0, description="root mean square of the norm of a vector's noise")
    common: float = Field(
        0.0, ge=0, description="deviation along each direction that all pictures share"
    )
    directions: int = Field(2, ge=0, description="of those that say nothing about the scene")
    per_video: int = Field(1, ge=1, description="consecutive sentences with one scene and picture")


def prototypes(scenes: int, size: int, seed: int) -> npt.NDArray[np.float64]:
    """What each scene looks like: (scenes, size), rows of norm 1 in random directions."""
    drawn = np.random.default_rng(seed).standard_normal((scenes, size))
    looks: npt.NDArray[np.float64] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return looks


def scenes_of_videos(count: int, scenes: int, per_video: int, rng: np.random.Generator) -> Scenes:
    """Scene of each of ``count`` sentences: uniform for each video, the same all through it."""
    videos = -(-count // per_video)
    return np.repeat(rng.integers(scenes, size=videos), per_video)[:count]


def picture_vectors(
    scenes: Scenes, looks: npt.NDArray[np.float64], pictures: Pictures, seed: int
) -> Vectors:
    """Picture of each sentence, (n, size); sentences of one video have the same one.

    Args:
        scenes (n,): scene of each sentence, as :func:`scenes_of_videos` draws them.
        looks (scenes, size): rows of :func:`prototypes`.
    """
    rng = np.random.default_rng(seed)
    first = scenes[:: pictures.per_video]
    shown = scene_pictures(first, looks, pictures.noise, rng, pictures.quality)
    shared = shared_directions(looks.shape[1], pictures.directions)
    clutter = rng.standard_normal((len(first), len(shared))) * pictures.common
    vectors = (shown + clutter @ shared).astype(np.float32)
    return np.repeat(vectors, pictures.per_video, axis=0)[: len(scenes)]


def shared_directions(size: int, count: int) -> npt.NDArray[np.float64]:
    """Orthonormal rows, (count, size), in which pictures vary whatever they show."""
    drawn = np.random.default_rng([SHARED_SEED, size]).standard_normal((size, count))
    return np.ascontiguousarray(np.linalg.qr(drawn)[0].T)


def nearest_scene(vectors: Vectors, looks: npt.NDArray[np.float64]) -> Scenes:
    """The scene that each vector is nearest to, (n,): what one can read off a picture."""
    # Prototypes have one norm, so the nearest is the one with the largest product.
    return np.asarray((vectors @ looks.T).argmax(axis=1), dtype=np.int64)
