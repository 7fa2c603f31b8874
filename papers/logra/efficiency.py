"""Cost of valuing a language model's training set: logging once, then scoring queries.

LoGra logs projected gradients and their second moment and reads them for each batch of queries.
EKFAC fits factors in two passes and recomputes all training gradients for each batch of queries.
Scoring is timed after queries are preconditioned, as both do that alike. What is measured does not
depend on the weights, so the model is as it was initialised. Source: Choe et al. 2024, Table 1.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from common.config import Program, Settings
from common.results.memory import peak_tensor_bytes
from common.run import DataIdentity, Run
from papers.logra.attribution import captured
from papers.logra.capture import Capture
from papers.logra.classifier_training import Device, device_of
from papers.logra.hessians import Hessian
from papers.logra.influence import hessian_of
from papers.logra.language_models import TransformerSettings
from papers.logra.log_store import LogStore
from papers.logra.log_store.creation import create
from papers.logra.moments import Statistics
from papers.logra.networks import Transformer
from papers.logra.projections import random_projections
from papers.logra.samples import Samples
from papers.logra.scores import scores
from papers.logra.watching import watched


class EfficiencySettings(Settings):
    """The model, the sequences and the batches."""

    network: TransformerSettings
    method: Literal["logra", "ekfac"]
    rank: int = Field(16, gt=0)
    layers: tuple[str, ...] = Field(("blocks",), description="parts of names of watched layers")
    vocabulary: int = Field(gt=1)
    length: int = Field(gt=1, description="tokens of a sequence")
    train: int = Field(gt=0, description="sequences that are valued")
    log_batch: int = Field(gt=0)
    train_batch: int = Field(gt=0, description="training gradients that are scored at once")
    test_batch: int = Field(gt=0, description="queries that are scored at once")
    repetitions: int = Field(3, gt=0, description="of the scoring; the median counts")
    device: Device = "auto"


def run_efficiency(settings: EfficiencySettings, run: Run) -> dict[str, float]:
    """Time both phases; returns throughputs, times, bytes on disk and in tensors."""
    device = device_of(settings.device, run)
    run.uses(DataIdentity.generated("uniform tokens", "papers.logra.efficiency", run.seed))
    torch.manual_seed(run.seed)
    shape = settings.network
    model = Transformer(
        settings.vocabulary, settings.length, shape.width, shape.depth, shape.heads, shape.hidden
    )
    kind = LoGraJob if settings.method == "logra" else EkfacJob
    job = kind(settings, model.to(device).eval(), run.work / "log", run.seed)
    count = settings.train + settings.test_batch
    tokens = torch.randint(settings.vocabulary, (count, settings.length + 1), device=device)
    samples = Samples(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    train, queries = samples.take(slice(settings.train)), samples.take(slice(settings.train, None))
    try:
        return measured(settings, job, train, queries)
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)


def measured(
    settings: EfficiencySettings, job: Job, train: Samples, queries: Samples
) -> dict[str, float]:
    """All numbers of a job on these samples."""
    tokens = settings.train * settings.length
    passes = {name: timed(partial(step, train)) for name, step in job.passes().items()}
    logging_s = sum(passes.values())
    rows = job.preconditioned(queries)
    score_s = median(timed(lambda: job.score(rows, train)) for _ in range(settings.repetitions))
    metrics = {f"{name}_tokens_per_s": tokens / seconds for name, seconds in passes.items()}
    metrics |= {
        "log_tokens_per_s": tokens / logging_s,
        "log_s": logging_s,
        "storage_bytes": float(job.stored_bytes()),
        "score_s": score_s,
        "pairs_per_s": len(queries.x) * len(train.x) / score_s,
        "influence_peak_bytes": float(peak_tensor_bytes(lambda: job.score(rows, train))),
    }
    # A second job, for the first one's statistics are at their full size.
    few = train.take(slice(2 * settings.log_batch))
    fresh = type(job)(settings, job.model, job.folder / "again", job.seed)
    metrics["log_peak_bytes"] = float(
        peak_tensor_bytes(lambda: [step(few) for step in fresh.passes().values()])
    )
    return metrics


class Job(ABC):
    """A method on a model: passes that log, then scores.

    Args:
        settings: of the measurement.
        model: on its device.
        folder: absent; what is logged goes there.
        seed: of projections.
    """

    projected = False

    def __init__(
        self, settings: EfficiencySettings, model: Transformer, folder: Path, seed: int
    ) -> None:
        self.settings, self.model, self.folder, self.seed = settings, model, folder, seed
        self.layers = watched(model, name_filter=settings.layers)
        self.projections = (
            random_projections(self.layers, settings.rank, seed) if self.projected else None
        )
        self.statistics = Statistics()
        self.capture = Capture(model, self.layers, self.projections)

    @abstractmethod
    def passes(self) -> dict[str, Callable[[Samples], None]]:
        """Passes over the training set, by name and in order."""

    @abstractmethod
    def blocks(self, train: Samples) -> Iterator[tuple[int, Tensor]]:
        """Training gradients, a batch at a time."""

    @abstractmethod
    def hessian(self) -> Hessian:
        """H of what was logged."""

    @abstractmethod
    def stored_bytes(self) -> int:
        """What is kept between logging and scoring."""

    def preconditioned(self, queries: Samples) -> Tensor:
        """(queries, width)."""
        hessian = self.hessian()
        parts = [
            hessian.precondition(part)
            for _, part in self.gradients(self.capture, queries, self.settings.train_batch)
        ]
        return torch.cat(parts)

    def score(self, rows: Tensor, train: Samples) -> Tensor:
        """(queries, train)."""
        return scores(rows, self.blocks(train), len(train.x))["total"]

    def gradients(
        self, capture: Capture, samples: Samples, size: int
    ) -> Iterator[tuple[int, Tensor]]:
        """(n, width) of each batch; an empty one where a capture takes none."""
        for start, batch in captured(capture, self.model, samples, size):
            yield start, batch.matrix if capture.gradients else torch.empty(0)


class LoGraJob(Job):
    """Projected gradients on disk, and their second moment."""

    projected = True

    def passes(self) -> dict[str, Callable[[Samples], None]]:
        return {"grad": self._log}

    def _log(self, train: Samples) -> None:
        self.statistics.collect({"grad": ["covariance"]})
        capture = Capture(self.model, self.layers, self.projections, statistics=self.statistics)
        with create(
            self.folder,
            capture.layout,
            identity={"seed": self.seed},
            rows_per_chunk=self.settings.train_batch,
        ) as writer:
            for start, rows in self.gradients(capture, train, self.settings.log_batch):
                writer.append([str(start + place) for place in range(len(rows))], rows)

    def blocks(self, train: Samples) -> Iterator[tuple[int, Tensor]]:
        store = LogStore.open(self.folder)
        return store.blocks(self.settings.train_batch, device=train.x.device)

    def hessian(self) -> Hessian:
        return hessian_of(self.statistics, self.capture.layout, "raw")

    def stored_bytes(self) -> int:
        files = (path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return sum(files)


class EkfacJob(Job):
    """Factors in memory; training gradients are computed again for each batch of queries."""

    def passes(self) -> dict[str, Callable[[Samples], None]]:
        return {"kfac": self._covariances, "eigenvalue": self._eigenvalues}

    def _covariances(self, train: Samples) -> None:
        self.statistics.collect({"forward": ["covariance"], "backward": ["covariance"]})
        self._go_through(train, gradients=False)

    def _eigenvalues(self, train: Samples) -> None:
        self.statistics.collect({"grad": ["corrected_eigval"]})
        self._go_through(train, gradients=True)

    def _go_through(self, train: Samples, gradients: bool) -> None:
        capture = Capture(self.model, self.layers, statistics=self.statistics, gradients=gradients)
        for _ in self.gradients(capture, train, self.settings.log_batch):
            pass

    def blocks(self, train: Samples) -> Iterator[tuple[int, Tensor]]:
        return self.gradients(self.capture, train, self.settings.train_batch)

    def hessian(self) -> Hessian:
        return hessian_of(self.statistics, self.capture.layout, "ekfac")

    def stored_bytes(self) -> int:
        hessian = self.hessian()
        factors = (part for block in hessian.curvatures.values() for part in block.factors())
        return sum(part.nbytes for part in factors)


def timed(step: Callable[[], object]) -> float:
    """Seconds that a step takes."""
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


PROGRAM = Program(EfficiencySettings, run_efficiency)
