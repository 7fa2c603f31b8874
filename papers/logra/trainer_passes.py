"""What the helpers of trainers share: their settings, and what is done with a trainer's batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from common.config import Settings
from papers.logra.influence import HessianKind, Log, Scores, SelfScores, merge_logs
from papers.logra.scheduler import HessianName, LogIXScheduler, LoRA, Save
from papers.logra.scores import Mode
from papers.logra.session import LogIX


class LogIXArguments(Settings):
    """How a trainer logs and scores."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), arbitrary_types_allowed=True
    )

    project: str
    config: Path | str | None = None
    lora: LoRA = "none"
    hessian: HessianName = "raw"
    save: Save = "grad"
    initialize_from_log: bool = Field(
        False, description="score with an earlier run's statistics, projections and log"
    )
    resume: bool = Field(
        False, description="go on where extract_log of the same program was killed"
    )
    name_filter: list[str] | None = None
    type_filter: list[type[nn.Module]] | None = None
    loss_reduction: Literal["mean", "sum"] = Field(
        "mean", description="of the trainer's loss, over what its labels count"
    )
    influence_damping: float | None = None
    influence_mode: Mode = "dot"
    influence_groups: list[str] | None = None


class Example(NamedTuple):
    """A batch: its ids, the mask of its tokens, how many terms a mean loss has, and a call that
    runs it forward and backward."""

    ids: list[str]
    mask: Tensor | None
    terms: int
    backward: Callable[[], None]


Batches = Callable[[], Iterable[Example]]


class TrainerPasses:
    """Logs and scores the batches that a trainer gives.

    Args:
        model: in which layers are watched.
        arguments: how.
    """

    def __init__(self, model: nn.Module, arguments: LogIXArguments) -> None:
        self.model, self.arguments = model, arguments
        self.run = LogIX(arguments.project, arguments.config, resume=arguments.resume)
        self.run.watch(model, arguments.type_filter, arguments.name_filter)

    def extract_log(self, batches: Batches) -> None:
        """Log all batches, in as many passes as projections and Hessian take."""
        chosen = self.arguments
        for _ in LogIXScheduler(self.run, chosen.lora, chosen.hessian, chosen.save):
            for _log in self.logs(batches):
                pass
        self.run.finalize()

    def influence(self, batches: Batches) -> Scores:
        """Scores of all stored samples for the queries in ``batches``."""
        self.only_look()
        return self.scores(merge_logs(self.logs(batches)))

    def self_influence(self, batches: Batches) -> SelfScores:
        """Self-influence of the samples in ``batches``."""
        self.only_look()
        return self.self_scores(merge_logs(self.logs(batches)))

    def only_look(self) -> None:
        """Batches to come are neither stored nor counted."""
        if self.arguments.initialize_from_log:
            self.run.initialize_from_log()
        self.run.setup({"grad": ["log"]})
        self.run.eval()

    def scores(self, queries: Log) -> Scores:
        """Of all stored samples."""
        return self.run.compute_influence_all(
            queries,
            mode=self.arguments.influence_mode,
            hessian=self._hessian,
            influence_groups=self.arguments.influence_groups,
            damping=self.arguments.influence_damping,
        )

    def self_scores(self, samples: Log) -> SelfScores:
        """Of each sample with itself."""
        return self.run.compute_self_influence(
            samples,
            hessian=self._hessian,
            influence_groups=self.arguments.influence_groups,
            damping=self.arguments.influence_damping,
        )

    @property
    def _hessian(self) -> HessianKind:
        """What the log was made with; statistics of an earlier run say it themselves."""
        return "none" if self.arguments.hessian == "none" else "auto"

    def logs(self, batches: Batches) -> Iterator[Log]:
        """The log of each batch, as the run is set up; not of those from before a kill."""
        with evaluating(self.model):
            for example in batches():
                if self.run.has_logged(example.ids):
                    continue
                with self.logged(example.ids, example.mask, example.terms):
                    example.backward()
                yield self.run.get_log()

    def logged(self, ids: list[str], mask: Tensor | None, terms: int) -> LogIX:
        """A batch of the run, for a ``with`` block."""
        scale = 1.0 if self.arguments.loss_reduction == "sum" else 1.0 / terms
        return self.run(data_id=ids, mask=mask, loss_scale=scale)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, and with fixed statistics of batch norm, as long as the block lasts."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def rows_in(batch: Any) -> int:
    """Samples of a nested batch: the length of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch)
    parts = batch.values() if isinstance(batch, dict) else batch
    return rows_in(next(iter(parts)))
