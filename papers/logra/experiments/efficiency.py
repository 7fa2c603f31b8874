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
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training.local_gpu import Device
from common.training.peak_memory import peak_tensor_bytes
from papers.logra import Config, LoggingConfig, LogIX, LogIXScheduler, LoRAConfig, merge_logs
from papers.logra.curvature.memory_limits import require_memory, told_when_memory_ends
from papers.logra.measures.disk_usage import folder_bytes
from papers.logra.methods.attribution import log_batches
from papers.logra.scoring.influence import Log, Scores
from papers.logra.tasks.devices import take_device
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
    folder = run.work / "efficiency"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with told_when_memory_ends(
            f"{where}: logging {settings.log_batch} at once",
            "a smaller log_batch, other statistics",
        ):
            few = train.take(slice(2 * settings.log_batch))
            # First, for the other job's sums must not stand beside it; and libraries warm up.
            peak = logging_peak(TimedRun(settings, model, folder / "few", run.seed), few)
            job = TimedRun(settings, model, folder / "all", run.seed)
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


def logging_peak(job: TimedRun, few: Samples) -> float:
    """Most bytes that logging makes, of a job that is then thrown away."""
    return float(peak_tensor_bytes(lambda: [step.do() for step in job.steps(few)]))


def logging_costs(job: TimedRun, train: Samples) -> dict[str, float]:
    """Log; returns tokens per second of each pass and of all, and what is stored."""
    tokens = train.x.numel()
    timings = [(step, timed(step.do)) for step in job.steps(train)]
    through = {step.name: seconds for step, seconds in timings if not step.once}
    return {
        **{f"{name}_tokens_per_s": tokens / seconds for name, seconds in through.items()},
        **{f"{step.name}_s": seconds for step, seconds in timings if step.once},
        "log_tokens_per_s": tokens / sum(through.values()),
        "log_s": sum(seconds for _, seconds in timings),
        "storage_bytes": job.stored_bytes(len(train.x)),
        "storage_of_1b_tokens_extrapolated_bytes": job.stored_bytes(
            PUBLISHED_TOKENS // train.x.shape[1]
        ),
    }


def scoring_costs(job: TimedRun, train: Samples, queries: Samples) -> dict[str, float]:
    """Score what was logged; returns pairs per second and bytes."""
    asked = job.precondition(queries)
    rows = asked[1]
    assert isinstance(rows, Tensor)
    peak = peak_tensor_bytes(lambda: job.score(asked, train))
    times = [timed(lambda: job.score(asked, train)) for _ in range(job.settings.repetitions)]
    return {
        "score_s": median(times),
        "pairs_per_s": len(queries.x) * len(train.x) / median(times),
        "influence_peak_bytes": float(peak),
        "influence_held_bytes": float(rows.nbytes),
    }


class TimedRun:
    """The library's run on a model: passes that log, then scores.

    Args:
        settings: of the measurement.
        model: on its device.
        folder: absent; what is logged goes there.
        seed: of projections.
    """

    def __init__(
        self, settings: EfficiencySettings, model: nn.Module, folder: Path, seed: int
    ) -> None:
        self.settings, self.model, self.projected = settings, model, settings.method == "logra"
        logging = LoggingConfig(
            log_dtype=settings.precision,
            cpu_offload=settings.statistics_device == "cpu",
            statistics_dtype=settings.statistics_dtype,
            # Reading all weights takes as long as a pass over few sequences, however many follow.
            digest_weights=False,
        )
        lora = LoRAConfig(init="random", rank=settings.rank, seed=seed)
        config = Config(root_dir=folder.parent, logging=logging, lora=lora)
        self.run = LogIX(folder.name, config)
        self.run.watch(model.eval(), name_filter=settings.layers)

    def steps(self, train: Samples) -> Iterator[Step]:
        """Steps of logging in their order, each to be done before the next one is asked for."""
        settings = self.settings
        if self.projected:
            passes = iter(LogIXScheduler(self.run, "random", "empirical_fisher", "grad", log=False))
            next(passes)
            numbers = settings.train_batch * self.run.layout.width
            kept = self.run.get_logging_config()
            self.run.set_logging_config(kept.model_copy(update={"flush_threshold": numbers}))
            yield Step("grad", lambda: self._go_through(train))
            yield Step("finalize", self.run.finalize, once=True)
            return
        passes = iter(LogIXScheduler(self.run, hessian="ekfac", log=False))
        next(passes)
        self._require_memory(train.x.device)
        yield Step("kfac", lambda: self._go_through(train))
        yield Step("eigenvectors", lambda: self._find_eigenvectors(passes), once=True)
        yield Step("eigenvalue", lambda: self._go_through(train))
        self.run.eval()  # factors stay in memory

    def _go_through(self, train: Samples) -> None:
        for _ in log_batches(self.run, self.model, train, self.settings.log_batch):
            pass

    def _find_eigenvectors(self, passes: Iterator[int]) -> None:
        next(passes)
        self.run.statistics.clear()  # of covariances; their eigenvectors stay

    def _require_memory(self, device: torch.device) -> None:
        # Sums, the covariances that they make, and these's eigenvectors stand beside each other.
        size = getattr(torch, self.settings.statistics_dtype).itemsize
        blocks = self.run.layout.blocks
        require_memory(
            3 * size * sum(block.inner**2 + block.out**2 for block in blocks),
            torch.device("cpu") if self.settings.statistics_device == "cpu" else device,
            f"EKFAC's factors of {len(blocks)} layers",
            "fewer layers, statistics_dtype float32, statistics_device cpu",
        )

    def stored_bytes(self, sequences: int) -> float:
        """What is kept between logging so many sequences and scoring."""
        if self.projected:
            store = self.run.build_log_dataset().store
            return folder_bytes(store.folder) * sequences / len(store)
        curvatures = self.run.influence.hessian("ekfac").curvatures.values()
        numbers = sum(part.numel() for block in curvatures for part in block.factors())
        return float(numbers * self.run.statistics.dtype.itemsize)

    def precondition(self, queries: Samples) -> Log:
        """The queries, ready to be scored."""
        return merge_logs(self.run.influence.precondition(log) for log in self._logs(queries))

    def score(self, queries: Log, train: Samples) -> Scores:
        """Scores of all pairs, of preconditioned queries."""
        if self.projected:
            return self.run.compute_influence_all(
                queries, precondition=False, rows_at_once=self.settings.train_batch
            )
        return self.run.compute_influence_all(queries, self._logs(train), precondition=False)

    def _logs(self, samples: Samples) -> Iterator[Log]:
        for _ in log_batches(self.run, self.model, samples, self.settings.train_batch):
            yield self.run.get_log(flatten=True)


class Step(NamedTuple):
    """A step of logging.

    Attributes:
        name: of its metrics.
        do: what is timed.
        once: whether its time does not grow with the training set.
    """

    name: str
    do: Callable[[], object]
    once: bool = False


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
