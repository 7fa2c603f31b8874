"""Program: spectra of training features, of the published sets or made up (Figure 2)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from common.data import how2, multi30k
from common.data.registry import identity
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.mmt_how2.corpora.picture_vectors import (
    Pictures,
    picture_vectors,
    prototypes,
    scenes_of_videos,
)
from papers.mmt_how2.corpora.visual_features import (
    cumulative_shares_pct,
    scene_accuracy,
    variance_shares,
)

Registered = Literal["how2_full", "multi30k_features"]


class SpectrumSettings(Settings):
    """Sets of features by name: a registered one, or what is wrong with made-up pictures."""

    sets: dict[str, Registered | Pictures] = Field(min_length=1)
    rows: int = Field(6000, ge=2, description="of a made-up set")
    scenes: int = Field(50, ge=2, description="of a made-up set")


def run_spectra(settings: SpectrumSettings, run: Run) -> dict[str, float]:
    """Cumulative shares of each set and the made-up pictures that tell their scene, in percent."""
    metrics: dict[str, float] = {}
    rows = []
    for name, chosen in settings.sets.items():
        if isinstance(chosen, Pictures):
            features, metrics[f"{name}_scene_accuracy_pct"] = draw_features(chosen, settings, run)
        else:
            features = read_features(chosen, run)
        shares = variance_shares(features)
        for count, share in cumulative_shares_pct(shares).items():
            metrics[f"{name}_top{count}_pct"] = share
        rows += [
            {"set": name, "component": place, "share_pct": f"{100 * share:.6g}"}
            for place, share in enumerate(shares)
        ]
    run.write_rows("spectrum.csv", rows)
    return metrics


def draw_features(
    pictures: Pictures, settings: SpectrumSettings, run: Run
) -> tuple[npt.NDArray[np.float32], float]:
    """Pictures of random scenes, and the percentage that tell theirs."""
    run.uses(DataIdentity.generated("scene pictures", run.seed))
    seeds = np.random.SeedSequence(run.seed).generate_state(3).tolist()
    rng = np.random.default_rng(seeds[0])
    looks = prototypes(settings.scenes, pictures.size, seeds[1])
    scenes = scenes_of_videos(settings.rows, settings.scenes, pictures.per_video, rng)
    vectors = picture_vectors(scenes, looks, pictures, seeds[2])
    return vectors, 100 * scene_accuracy(vectors, looks, scenes)


def read_features(name: Registered, run: Run) -> npt.NDArray[Any]:
    """Training features of a registered set."""
    if name == "how2_full":
        run.uses(identity(name, [f"{how2.FEATURES}/train.npy"]))
        return how2.features("train")
    run.uses(identity(name))
    return multi30k.picture_features()


PROGRAM = Program(SpectrumSettings, run_spectra)
