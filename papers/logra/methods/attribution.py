"""Scores of every method that the experiments compare, each from one trained model.

Gradients are taken anew for each use instead of stored: sets of this size are read twice or
three times, and the paper's experiments on them keep nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cached_property, partial
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.experiments.settings import Settings
from papers.logra.curvature.curvatures import Damping
from papers.logra.curvature.hessians import Hessian, IdentityHessian
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.capture import Batch, Capture
from papers.logra.gradients.projections import Projections, pca_projections, random_projections
from papers.logra.gradients.watching import watched
from papers.logra.methods.representation_similarity import Similarity, representation_scores
from papers.logra.methods.trak import trak_scores
from papers.logra.scoring.influence import build_hessian
from papers.logra.scoring.scores import TOTAL, Blocks, Mode, scores, self_influences
from papers.logra.tasks.samples import Samples, losses


class InfluenceSettings(Settings):
    """An influence function. Its default is LoGra with random projections."""

    projection: Literal["none", "random", "orthonormal", "pca"] = "random"
    rank: int = Field(16, gt=0, description="of both sides of a projection")
    hessian: Literal["none", "raw", "kfac", "ekfac"] = "raw"
    relative_damping: float = Field(0.1, ge=0, description="of each layer's mean eigenvalue")
    mode: Mode = Field("dot", description="cosine is l-RelatIF")
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
    settings: AttributionSettings, model: nn.Module, train: Samples, queries: Samples, seed: int
) -> Tensor:
    """Scores (queries, train), positive for proponents, on the CPU.

    Args:
        settings: of the method.
        model: trained, on the device of the samples.
        train, queries: samples.
        seed: of what a method draws.
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
    return InfluenceFunction(settings, model, train, seed).scores(queries)


class InfluenceFunction:
    """An influence function of one model on one training set.

    Args:
        settings: of projection, H and damping.
        model, train: as of :func:`attribute`.
        seed: of a random projection.
    """

    def __init__(
        self, settings: InfluenceSettings, model: nn.Module, train: Samples, seed: int
    ) -> None:
        self.settings, self.model, self.train = settings, model.eval(), train
        self.layers = watched(model, name_filter=settings.layers)
        self.damping = Damping(settings.relative_damping)
        self._capture = Capture(model, self.layers, self._projections(seed))
        self.layout = self._capture.layout

    def _projections(self, seed: int) -> Projections | None:
        kind, rank = self.settings.projection, self.settings.rank
        if kind == "none":
            return None
        if kind == "pca":
            return pca_projections(self._covariances(None), rank)
        return random_projections(self.layers, rank, seed, orthonormal=kind == "orthonormal")

    def _covariances(self, projections: Projections | None) -> Statistics:
        """Forward and backward second moments, for which no gradients are needed."""
        statistics = Statistics({"forward": ["covariance"], "backward": ["covariance"]})
        capture = Capture(
            self.model, self.layers, projections, statistics=statistics, gradients=False
        )
        for _ in self._batches(capture, self.train):
            pass
        return statistics

    @cached_property
    def hessian(self) -> Hessian:
        """H of the training set."""
        kind, projections = self.settings.hessian, self._capture.projections
        if kind == "none":
            return IdentityHessian(self.layout)
        if kind == "raw":
            statistics = Statistics()
            self._gather(statistics, {"grad": ["covariance"]})
        else:
            statistics = self._covariances(projections)  # type: ignore[arg-type]
            if kind == "ekfac":
                self._gather(statistics, {"grad": ["corrected_eigval"]})
        return build_hessian(statistics, self.layout, kind)

    def _gather(self, statistics: Statistics, what: dict[str, Collection[str]]) -> None:
        statistics.collect(what)
        capture = Capture(
            self.model,
            self.layers,
            self._capture.projections,
            statistics=statistics,
            rotated="corrected_eigval" in what["grad"],
        )
        for _ in self._batches(capture, self.train):
            pass

    def gradients(self, samples: Samples) -> Iterator[tuple[int, Tensor]]:
        """(n, width) of each batch, and the place of its first sample."""
        for start, batch in self._batches(self._capture, samples):
            yield start, batch.matrix

    def matrix(self, samples: Samples) -> Tensor:
        """Gradients (n, width) of all."""
        return torch.cat([part for _, part in self.gradients(samples)])

    def scores(self, queries: Samples, damping: Damping | None = None) -> Tensor:
        """(queries, train) in the settings' mode and by default their damping, on the CPU."""
        hessian, count = self.hessian, len(self.train.x)
        damping = damping or self.damping
        blocks: Callable[[], Blocks] = partial(self.gradients, self.train)
        own = None
        if self.settings.mode != "dot":
            own = self_influences(blocks(), count, hessian, damping)
        parts = []
        for _, some in queries.batches(self.settings.queries_at_once):
            rows = hessian.precondition(self.matrix(some), damping)
            found = scores(rows, blocks(), count, mode=self.settings.mode, self_influences=own)
            parts.append(found[TOTAL])
        return torch.cat(parts)

    def self_influences(self) -> Tensor:
        """(train,) of each training sample on itself."""
        blocks = self.gradients(self.train)
        return self_influences(blocks, len(self.train.x), self.hessian, self.damping)[TOTAL]

    def _batches(self, capture: Capture, samples: Samples) -> Iterator[tuple[int, Batch]]:
        return captured(capture, self.model, samples, self.settings.batch_size)


def captured(
    capture: Capture, model: nn.Module, samples: Samples, size: int
) -> Iterator[tuple[int, Batch]]:
    """What is captured of each batch of samples, with the place of its first one."""
    for start, part in samples.batches(size):
        # Scoring, which asks for gradients block by block, has autograd switched off.
        with torch.enable_grad(), capture.batch() as batch:
            loss = losses(model(part.x), part.y).sum()
            loss.backward()  # type: ignore[no-untyped-call]
        yield start, batch
