"""What the helpers of trainers share: their settings, and what is done with a trainer's batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, Field, StrictBool, ValidationError
from torch import Tensor, nn

from common.errors import InputError
from common.experiments.settings import Settings
from papers.logra.curvature.curvatures import Damping
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.watching import watched
from papers.logra.scoring.influence import HessianKind, Log, Scores, SelfScores, merge_logs
from papers.logra.scoring.scores import Mode
from papers.logra.session.scheduler import HessianName, LogIXScheduler, LoRA, Save
from papers.logra.session.session import LogIX
from papers.logra.trainers.loss_reduction import Declared, Example, LossReduction


class LogIXArguments(Settings):
    """How a trainer logs and scores."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), arbitrary_types_allowed=True
    )

    project: str
    config: Path | str | None = None
    lora: LoRA | StrictBool = Field("none", description="True: as the configuration says")
    hessian: HessianName = "empirical_fisher"
    save: Save = "grad"
    initialize_from_log: bool = Field(
        False, description="score with an earlier run's statistics, projections and log"
    )
    resume: bool = Field(
        False, description="go on where extract_log of the same program was killed"
    )
    name_filter: list[str] | None = None
    type_filter: list[type[nn.Module]] | None = None
    loss_reduction: Declared = Field(
        "auto", description="of the trainer's loss over what is counted; auto: found out"
    )
    influence_damping: float | None = Field(None, description="lambda itself, as of LogIX")
    influence_relative_damping: float | None = Field(
        None, description="lambda over the mean eigenvalue of each layer's H; 0.1 by default"
    )
    influence_mode: Mode = "dot"
    influence_groups: list[str] | None = None
    log_batch_size: int = Field(16, gt=0, description="LogIX's; the log is read by its chunks")
    log_num_workers: int = Field(1, ge=0, description="LogIX's; one thread reads ahead")

    def __init__(self, **settings: Any) -> None:
        """Raises InputError: an unknown key, or a value that is not allowed."""
        try:
            super().__init__(**settings)
        except ValidationError as error:
            said = "; ".join(_said(detail, type(self)) for detail in error.errors())
            raise InputError(f"LogIXArguments: {said}") from None
        Damping.of(self.influence_damping, self.influence_relative_damping)


GiveBatches = Callable[[], Iterable[Example]]


class TrainerPasses:
    """Logs and scores the batches that a trainer gives.

    Args:
        model: in which layers are watched.
        arguments: how.
        over, allowed: as of :class:`papers.logra.trainers.loss_reduction.LossReduction`.
    """

    def __init__(
        self, model: nn.Module, arguments: LogIXArguments, *, over: str, allowed: str
    ) -> None:
        self.model, self.arguments = model, arguments
        self.reduction = LossReduction(arguments.loss_reduction, over, allowed)
        self.run = LogIX(arguments.project, arguments.config, resume=arguments.resume)
        self.run.watch(model, arguments.type_filter, arguments.name_filter)

    def extract_log(self, batches: GiveBatches) -> None:
        """Log all batches, in as many passes as projections and Hessian take."""
        chosen = self.arguments
        for _ in LogIXScheduler(self.run, chosen.lora, chosen.hessian, chosen.save):
            for _log in self.logs(batches):
                pass
        self.run.finalize()

    def influence(self, batches: GiveBatches) -> Scores:
        """Scores of all stored samples for the queries in ``batches``."""
        self.only_look()
        return self.scores(merge_logs(self.logs(batches)))

    def self_influence(self, batches: GiveBatches) -> SelfScores:
        """Self-influence of the samples in ``batches``."""
        self.only_look()
        return self.self_scores(merge_logs(self.logs(batches)))

    def only_look(self) -> None:
        """GiveBatches to come are neither stored nor counted."""
        self.reduction.begin()
        if self.arguments.initialize_from_log:
            self.run.initialize_from_log()
        self.run.setup({"grad": ["log"]})
        self.run.eval()

    def scores(self, queries: Log) -> Scores:
        """The influence of all stored samples on these queries."""
        return self.run.compute_influence_all(
            queries,
            mode=self.arguments.influence_mode,
            hessian=self._hessian,
            influence_groups=self.arguments.influence_groups,
            damping=self.arguments.influence_damping,
            relative_damping=self.arguments.influence_relative_damping,
        )

    def self_scores(self, samples: Log) -> SelfScores:
        """The influence of each sample on itself."""
        return self.run.compute_self_influence(
            samples,
            hessian=self._hessian,
            influence_groups=self.arguments.influence_groups,
            damping=self.arguments.influence_damping,
            relative_damping=self.arguments.influence_relative_damping,
        )

    @property
    def _hessian(self) -> HessianKind:
        """What the log was made with; statistics of an earlier run say it themselves."""
        return "none" if self.arguments.hessian == "none" else "auto"

    def logs(self, batches: GiveBatches) -> Iterator[Log]:
        """The log of each batch, as the run is set up; not of those from before a kill."""
        with evaluating(self.model):
            for example in batches():
                if self.run.has_logged(example.ids):
                    continue
                with self.logged(example):
                    example.backward()
                yield self.run.get_log()

    def logged(self, example: Example, loss_scale: float = 1.0) -> LogIX:
        """A batch of the run, for a ``with`` block.

        Args:
            example: the batch; what its loss is over is checked now and then.
            loss_scale: of a GradScaler.
        """
        self.reduction.check(example, self._gradients)
        scale = self.reduction.scale(example.terms) * loss_scale
        return self.run(data_id=example.ids, mask=example.mask, loss_scale=scale)

    def _gradients(self, backward: Callable[[], None]) -> Tensor:
        """(n, width) of the smallest layer that is watched; neither stored nor counted."""
        with self._of_one_layer.batch() as batch:
            backward()
        return batch.matrix

    @cached_property
    def _of_one_layer(self) -> Capture:
        layers = watched(self.model, self.arguments.type_filter, self.arguments.name_filter)
        sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in layers.items()}
        name = min(sizes, key=lambda layer: sizes[layer])
        return Capture(self.model, {name: layers[name]})


def _said(detail: Any, arguments: type[LogIXArguments]) -> str:
    """One of pydantic's complaints."""
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{name}'; allowed: {', '.join(arguments.model_fields)}"
    return f"{name}: {detail['msg']}, got {detail['input']!r}"


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
