"""Scores of every method that the experiments compare, each from one trained model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.experiments.settings import Settings
from papers.logra import Config, LoggingConfig, LogIX, LogIXScheduler, LoRAConfig, merge_logs
from papers.logra.log_store.manifest import DtypeName
from papers.logra.methods.representation_similarity import Similarity, representation_scores
from papers.logra.methods.trak import trak_scores
from papers.logra.scoring.influence import Log, Scores, SelfScores, flatten_log
from papers.logra.scoring.scores import Mode
from papers.logra.session.scheduler import HessianName
from papers.logra.tasks.samples import Samples, losses


class InfluenceSettings(Settings):
    """An influence function. Its default is LoGra with random projections."""

    projection: Literal["none", "random", "orthonormal", "pca"] = "random"
    rank: int = Field(16, gt=0, description="of both sides of a projection")
    hessian: HessianName = "empirical_fisher"
    relative_damping: float = Field(0.1, ge=0, description="of each layer's mean eigenvalue")
    mode: Mode = Field("dot", description="relatif, or LogIX's name cosine, is l-RelatIF")
    layers: tuple[str, ...] | None = Field(None, description="parts of names; all where absent")
    batch_size: int = Field(256, gt=0, description="samples whose gradients are held at once")
    queries_at_once: int = Field(1024, gt=0)


class AttributionSettings(InfluenceSettings):
    """Which method, and its own settings."""

    method: Literal["influence", "trak", "representation", "random"] = "influence"
    dimension: int = Field(2048, gt=0, description="of TRAK's projection")
    similarity: Similarity = "cosine"

    @model_validator(mode="after")
    def _check(self) -> AttributionSettings:
        if self.method != "influence" and self.model_fields_set & set(
            InfluenceSettings.model_fields
        ) - {"batch_size", "queries_at_once", "layers"}:
            raise ValueError(f"method {self.method} takes no settings of influence functions")
        return self


def attribute(
    settings: AttributionSettings,
    model: nn.Module,
    train: Samples,
    queries: Samples,
    seed: int,
    folder: Path,
) -> Tensor:
    """Scores (queries, train), positive for proponents, on the CPU.

    Args:
        settings: of the method.
        model: trained, on the device of the samples.
        train, queries: samples.
        seed: of what a method draws.
        folder: of a log, see :class:`LoggedTrainingSet`.
    """
    if settings.method == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(queries.x), len(train.x), generator=generator)
    if settings.method == "representation":
        return representation_scores(model, train, queries, settings.similarity)
    if settings.method == "trak":
        return trak_scores(
            model, train, queries, settings.dimension, seed, batch_size=settings.batch_size
        )
    return LoggedTrainingSet(settings, model, train, seed, folder).scores(queries)


class LoggedTrainingSet:
    """A training set, logged by the library, and scores of queries on it.

    Projected gradients are stored and read for each scoring. Whole ones, of which a model of some
    size has terabytes, are computed again, as the paper does for EKFAC.

    Args:
        settings: of projection, H and damping.
        model, train: as of :func:`attribute`.
        seed: of a random projection.
        folder: where the log lies; one that is there, as a run that was killed leaves, is removed.
            Where it was another training set's, that one scores no more.
        dtype: of the log; by default float64 of such a model, else float32.
    """

    def __init__(
        self,
        settings: InfluenceSettings,
        model: nn.Module,
        train: Samples,
        seed: int,
        folder: Path,
        dtype: DtypeName | None = None,
    ) -> None:
        self.settings, self.model, self.train = settings, model.eval(), train
        self.is_stored = settings.projection != "none"
        if dtype is None:
            double = next(model.parameters()).dtype == torch.float64
            dtype = "float64" if double else "float32"
        if self.is_stored:
            lora = LoRAConfig(init=settings.projection, rank=settings.rank, seed=seed)
        else:
            lora = LoRAConfig()
        logging = LoggingConfig(log_dtype=dtype)
        shutil.rmtree(folder, ignore_errors=True)
        config = Config(root_dir=folder.parent, logging=logging, lora=lora)
        self.run = LogIX(folder.name, config)
        self.run.watch(model, name_filter=settings.layers)
        self._log()

    def _log(self) -> None:
        """All passes over the training set that projections, H and the log take."""
        if not self.is_stored and self.settings.hessian == "none":
            self.run.eval()
            return
        save: Literal["grad", "none"] = "grad" if self.is_stored else "none"
        for _ in LogIXScheduler(self.run, self.is_stored, self.settings.hessian, save, log=False):
            for _batch in self._batches(self.train):
                pass
        if self.is_stored:
            self.run.finalize()
        else:  # factors stay in memory
            self.run.eval()

    def _batches(self, samples: Samples) -> Iterator[None]:
        return log_batches(self.run, self.model, samples, self.settings.batch_size)

    def logs(self, samples: Samples) -> Iterator[Log]:
        """Ids and gradients (n, width) of each batch, computed when they are asked for."""
        for _ in self._batches(samples):
            yield self.run.get_log(flatten=True)

    def scores(self, queries: Samples, relative_damping: float | None = None) -> Tensor:
        """(queries, train) in the settings' mode and by default their damping, on the CPU."""
        settings = self.settings
        options: dict[str, Any] = {
            "mode": settings.mode,
            "hessian": settings.hessian,
            "relative_damping": settings.relative_damping
            if relative_damping is None
            else relative_damping,
        }
        parts = []
        for _, some in queries.batches(settings.queries_at_once):
            asked = merge_logs(self.logs(some))
            if self.is_stored:
                found = self.run.compute_influence_all(
                    asked, rows_at_once=settings.batch_size, **options
                )
            else:
                found = self.run.compute_influence_all(asked, self.logs(self.train), **options)
            parts.append(whole_scores(found))
        return torch.cat(parts)

    def self_influences(self) -> Tensor:
        """(train,) of each training sample on itself, on the CPU."""
        options: dict[str, Any] = {
            "hessian": self.settings.hessian,
            "relative_damping": self.settings.relative_damping,
        }
        logs = [self.run.build_log_dataloader()] if self.is_stored else self.logs(self.train)
        parts = [whole_scores(self.run.compute_self_influence(log, **options)) for log in logs]
        return torch.cat(parts).cpu()

    def gradient_norms(self) -> Tensor:
        """(train,) length of each training sample's gradient, on the CPU."""
        layout = self.run.layout
        norms = [flatten_log(log, layout).norm(dim=1) for log in self.logs(self.train)]
        return torch.cat(norms).cpu()


def log_batches(run: LogIX, model: nn.Module, samples: Samples, size: int) -> Iterator[None]:
    """Log samples, ``size`` at a time, called by their places."""
    for start, part in samples.batches(size):
        # Scoring, which asks for gradients block by block, has autograd switched off.
        with torch.enable_grad(), run(data_id=range(start, start + len(part.x))):
            losses(model(part.x), part.y).sum().backward()  # type: ignore[no-untyped-call]
        yield


def whole_scores(found: Scores | SelfScores) -> Tensor:
    """Scores by all layers together, for which no groups were asked."""
    scores = found["influence"]
    assert isinstance(scores, Tensor)
    return scores
