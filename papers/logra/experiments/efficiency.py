"""Cost of valuing a language model's training set: logging once, then scoring queries.

LoGra logs projected gradients and their second moment and reads them for each batch of queries.
EKFAC fits factors in two passes and recomputes all training gradients for each batch of queries.
Scoring is timed after queries are preconditioned, as both do that alike. What is measured does not
depend on the weights, so the model is as it was initialised; nor does throughput on the number of
sequences, so that a few stand for a billion tokens. Source: Choe et al. 2024, Table 1.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.experiments.settings import Settings
from common.results.memory import peak_tensor_bytes
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.logra.curvature.hessians import EKFAC, Hessian
from papers.logra.curvature.memory_limits import require_memory, told_when_memory_ends
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.projections import random_projections
from papers.logra.gradients.watching import watched
from papers.logra.log_store import LogStore
from papers.logra.log_store.creation import create
from papers.logra.measures.disk_usage import folder_bytes
from papers.logra.methods.attribution import captured
from papers.logra.scoring.influence import build_hessian
from papers.logra.scoring.scores import scores
from papers.logra.tasks.classifier_training import Device, take_device
from papers.logra.tasks.language_architectures import ArchitectureSettings, language_model
from papers.logra.tasks.samples import Samples

#: Tokens that the paper logs: what is stored of so many is computed, not measured.
PUBLISHED_TOKENS: Final = 10**9


class EfficiencySettings(Settings):
    """The model, the sequences and the batches."""

    network: ArchitectureSettings
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
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of weights and activations, and of gradients on disk"
    )
    statistics_dtype: Literal["float64", "float32"] = Field(
        "float64", description="of the sums that H is made of, and of EKFAC's factors"
    )
    statistics_device: Literal["same", "cpu"] = Field(
        "same", description="where those are: with the model, or in host memory"
    )
    device: Device = "auto"


def run_efficiency(settings: EfficiencySettings, run: Run) -> dict[str, float]:
    """Time both phases; returns throughputs, times, bytes on disk and in tensors.

    Raises: InputError naming the arm and the batch where memory does not suffice.
    """
    device = take_device(settings.device, run)
    run.precision = "bf16" if settings.precision == "bfloat16" else "fp32"
    run.uses(DataIdentity.generated("uniform tokens", run.seed))
    torch.manual_seed(run.seed)
    where = f"{run.key.experiment}, arm {run.key.arm}"
    with told_when_memory_ends(f"{where}: the model", "a smaller network"):
        model = language_model(
            settings.network,
            settings.vocabulary,
            settings.length,
            device=device,
            dtype=getattr(torch, settings.precision),
        )
    count = settings.train + settings.test_batch
    tokens = torch.randint(settings.vocabulary, (count, settings.length + 1), device=device)
    samples = Samples(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    train, queries = samples.take(slice(settings.train)), samples.take(slice(settings.train, None))
    kind = LoGraJob if settings.method == "logra" else EkfacJob
    folder = run.work / "efficiency"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with told_when_memory_ends(
            f"{where}: logging {settings.log_batch} at once",
            "a smaller log_batch, other statistics",
        ):
            few = train.take(slice(2 * settings.log_batch))
            # First, for the other job's sums must not stand beside it; and libraries warm up.
            peak = logging_peak(kind(settings, model, folder / "few", run.seed), few)
            job = kind(settings, model, folder / "all", run.seed)
            metrics = logging_costs(job, train)
        with told_when_memory_ends(
            f"{where}: scoring {settings.train_batch} for {settings.test_batch} queries at once",
            "a smaller train_batch or test_batch",
        ):
            metrics |= scoring_costs(job, train, queries)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    weights = float(sum(part.nbytes for part in (*model.parameters(), *model.buffers())))
    return metrics | {
        "model_bytes": weights,
        "log_peak_bytes": peak,
        "log_memory_bytes": peak + weights,
        "influence_memory_bytes": metrics["influence_held_bytes"]
        + metrics["influence_peak_bytes"]
        + (0 if job.projected else weights),
    }


def logging_peak(job: Job, few: Samples) -> float:
    """Most bytes that logging makes, of a job that is then thrown away."""
    return float(peak_tensor_bytes(lambda: [step(few) for step in job.passes().values()]))


def logging_costs(job: Job, train: Samples) -> dict[str, float]:
    """Log; returns tokens per second of each pass and of all, and what is stored."""
    tokens = train.x.numel()
    seconds = {name: timed(partial(step, train)) for name, step in job.passes().items()}
    through = {name: value for name, value in seconds.items() if name not in job.once}
    return {
        **{f"{name}_tokens_per_s": tokens / value for name, value in through.items()},
        **{f"{name}_s": seconds[name] for name in job.once},
        "log_tokens_per_s": tokens / sum(through.values()),
        "log_s": sum(seconds.values()),
        "storage_bytes": job.stored_bytes(len(train.x)),
        "storage_of_1b_tokens_extrapolated_bytes": job.stored_bytes(
            PUBLISHED_TOKENS // train.x.shape[1]
        ),
    }


def scoring_costs(job: Job, train: Samples, queries: Samples) -> dict[str, float]:
    """Score what was logged; returns pairs per second and bytes."""
    rows = job.preconditioned(queries)
    peak = peak_tensor_bytes(lambda: job.score(rows, train))
    times = [timed(lambda: job.score(rows, train)) for _ in range(job.settings.repetitions)]
    return {
        "score_s": median(times),
        "pairs_per_s": len(queries.x) * len(train.x) / median(times),
        "influence_peak_bytes": float(peak),
        "influence_held_bytes": float(rows.nbytes),
    }


class Job(ABC):
    """A method on a model: passes that log, then scores.

    Args:
        settings: of the measurement.
        model: on its device.
        folder: absent; what is logged goes there.
        seed: of projections.
    """

    projected = False
    #: Passes whose time does not grow with the training set.
    once: tuple[str, ...] = ()

    def __init__(
        self, settings: EfficiencySettings, model: nn.Module, folder: Path, seed: int
    ) -> None:
        self.settings, self.model, self.folder, self.seed = settings, model, folder, seed
        self.layers = watched(model, name_filter=settings.layers)
        self.projections = (
            random_projections(self.layers, settings.rank, seed) if self.projected else None
        )
        self.statistics = Statistics(
            dtype=getattr(torch, settings.statistics_dtype),
            device="cpu" if settings.statistics_device == "cpu" else None,
        )
        self.capture = Capture(model, self.layers, self.projections)

    @abstractmethod
    def passes(self) -> dict[str, Callable[[Samples], None]]:
        """Passes over the training set, by name and in order."""

    @abstractmethod
    def blocks(self, train: Samples) -> Iterator[tuple[int, Tensor]]:
        """Training gradients, a batch at a time."""

    @cached_property
    @abstractmethod
    def hessian(self) -> Hessian:
        """H of what was logged."""

    @abstractmethod
    def stored_bytes(self, sequences: int) -> float:
        """What is kept between logging so many sequences and scoring."""

    def preconditioned(self, queries: Samples) -> Tensor:
        """(queries, width)."""
        parts = [
            self.hessian.precondition(part)
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
            dtype=self.settings.precision,
            rows_per_chunk=self.settings.train_batch,
        ) as writer:
            for start, rows in self.gradients(capture, train, self.settings.log_batch):
                writer.append([str(start + place) for place in range(len(rows))], rows)

    def blocks(self, train: Samples) -> Iterator[tuple[int, Tensor]]:
        store = LogStore.open(self.folder)
        return store.blocks(self.settings.train_batch, device=train.x.device)

    @cached_property
    def hessian(self) -> Hessian:
        return build_hessian(self.statistics, self.capture.layout, "raw")

    def stored_bytes(self, sequences: int) -> float:
        return folder_bytes(self.folder) * sequences / len(LogStore.open(self.folder))


class EkfacJob(Job):
    """Factors in memory; training gradients are computed again for each batch of queries."""

    once = ("eigenvectors",)

    def passes(self) -> dict[str, Callable[[Samples], None]]:
        return {
            "kfac": self._covariances,
            "eigenvectors": self._eigenvectors,
            "eigenvalue": self._eigenvalues,
        }

    def _covariances(self, train: Samples) -> None:
        # Sums, the covariances that they make, and these's eigenvectors stand beside each other.
        size = getattr(torch, self.settings.statistics_dtype).itemsize
        sides = (block.inner**2 + block.out**2 for block in self.capture.layout.blocks)
        require_memory(
            3 * size * sum(sides),
            torch.device("cpu") if self.statistics.device else train.x.device,
            f"EKFAC's factors of {len(self.layers)} layers",
            "fewer layers, statistics_dtype float32, statistics_device cpu",
        )
        self.statistics.collect({"forward": ["covariance"], "backward": ["covariance"]})
        self._go_through(train, gradients=False)

    def _eigenvectors(self, train: Samples) -> None:
        self.statistics.collect({"grad": ["corrected_eigval"]})
        self.statistics.clear()  # of covariances; their eigenvectors stay

    def _eigenvalues(self, train: Samples) -> None:
        self._go_through(train, gradients=True)

    def _go_through(self, train: Samples, gradients: bool) -> None:
        capture = Capture(
            self.model,
            self.layers,
            statistics=self.statistics,
            gradients=gradients,
            rotated=gradients,
        )
        for _ in self.gradients(capture, train, self.settings.log_batch):
            pass

    def blocks(self, train: Samples) -> Iterator[tuple[int, Tensor]]:
        return self.gradients(self.capture, train, self.settings.train_batch)

    @cached_property
    def hessian(self) -> Hessian:
        return EKFAC(
            self.capture.layout,
            self.statistics.eigenbases,
            self.statistics.corrected_eigenvalues(),
        )

    def stored_bytes(self, sequences: int) -> float:
        curvatures = self.hessian.curvatures.values()
        numbers = sum(part.numel() for block in curvatures for part in block.factors())
        return float(numbers * self.statistics.dtype.itemsize)


def timed(step: Callable[[], object]) -> float:
    """Seconds that a step takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


PROGRAM = Program(EfficiencySettings, run_efficiency)
