"""A problem's step on one batch: its cost, gradient, hypergradients and update.

Source: Choe et al. 2023, Sec. 3.2 and 3.3.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from common.errors import InputError
from papers.betty.configs import Config
from papers.betty.hypergradient import hypergradient
from papers.betty.problems.replay import MicroBatch, Replay

if TYPE_CHECKING:
    from papers.betty.engine import Engine
    from papers.betty.problems.problem import Problem

log = logging.getLogger("betty")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
#: On a GPU the loss is looked at this seldom, because looking waits for the device.
STEPS_BETWEEN_LOOKS = 50


class Descent(abc.ABC):
    """What :class:`Problem` does with a batch; a part of it, not for use alone."""

    parents: list[Problem]
    engine: Engine | None

    def __init__(self, name: str, config: Config) -> None:
        self._name, self._config = name, config
        self.module: Any = None
        self.optimizer: Any = None
        self.scheduler: Any = None
        self.device = torch.device("cpu")
        self.scaler: GradScaler | None = None
        self.cur_batch: Any = None
        self.last_loss = float("nan")
        self._count = 0
        self._replay = Replay()
        self._last_grads: dict[int, Tensor] = {}
        self._asked: set[str] = set()

    @property
    def name(self) -> str:
        """Identifier in the program."""
        return self._name

    @property
    def config(self) -> Config:
        """Settings."""
        return self._config

    @abc.abstractmethod
    def training_step(self, batch: Any) -> Tensor | Mapping[str, Any]:
        """The cost on ``batch``: a scalar, or a mapping with ``loss`` and more to be logged."""

    @abc.abstractmethod
    def get_batch(self) -> Any:
        """The next batch."""

    @abc.abstractmethod
    def parameters(self) -> list[Tensor]:
        """All parameters."""

    @abc.abstractmethod
    def trainable_parameters(self) -> list[Tensor]:
        """Parameters that require a gradient."""

    @abc.abstractmethod
    def look_at_reads(self, loss: Tensor) -> None:
        """Once: compare what the cost reads with the program's edges."""

    def grad_callback(self) -> None:  # noqa: B027  (optional)
        """Called when gradients have been accumulated, before the optimiser's step."""

    def param_callback(self) -> None:  # noqa: B027  (optional)
        """Called after the optimiser's step, e.g. to project parameters."""

    def one_step_descent(self, batch: Any = None) -> dict[str, Any]:
        """Gradient of one batch and, where accumulation is complete, the optimiser's step.

        Returns what :meth:`training_step` gave, with the loss as a number.
        """
        self.cur_batch = self.get_batch() if batch is None else batch
        with self._recorded() if self.parents else nullcontext():
            loss, stats = self.get_loss(self.cur_batch)
        self.look_at_reads(loss)
        self.backward(loss)
        self.grad_callback()
        if self._count % self.config.gradient_accumulation == 0:
            self.optimizer_step()
            self.param_callback()
            self.zero_grad()
        return stats

    def _recorded(self) -> AbstractContextManager[None]:
        """Context in which what the cost on this batch is computed from is kept for replays."""
        first = (self._count - 1) % self.config.gradient_accumulation == 0
        return self._replay.recorded(self, self.cur_batch, first)  # type: ignore[arg-type]

    def get_loss(self, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """(loss over accumulation steps, scaled for fp16; everything to be logged).

        Raises:
            FloatingPointError: the loss is NaN or infinite.
            InputError: it is not a scalar.
        """
        given = self.training_step_exec(batch)
        stats = dict(given) if isinstance(given, Mapping) else {"loss": given}
        loss = stats.get("loss")
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shown = tuple(loss.shape) if isinstance(loss, Tensor) else loss
            raise InputError(f"problem {self.name!r}: training_step gave {shown}; needs a scalar")
        loss = _scalar(loss)
        if self.device.type == "cpu" or self._count % STEPS_BETWEEN_LOOKS == 0:
            self.last_loss = loss.item()
            if not self.last_loss - self.last_loss == 0:
                raise FloatingPointError(
                    f"problem {self.name!r}: loss is {self.last_loss} at its step {self._count}"
                )
        stats["loss"] = loss.detach()
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        batches = self.config.gradient_accumulation
        return loss if batches == 1 else loss / batches, stats

    def training_step_exec(self, batch: Any) -> Tensor | Mapping[str, Any]:
        """:meth:`training_step` in this problem's precision."""
        dtype = DTYPES.get(self.config.precision)
        if dtype is None:
            return self.training_step(batch)
        with torch.autocast(self.device.type, dtype=dtype):
            return self.training_step(batch)

    @property
    def resolution(self) -> float:
        """Relative distance of neighbouring numbers in the forward pass."""
        own = self.trainable_parameters()[0].dtype
        return torch.finfo(DTYPES.get(self.config.precision, own)).eps

    def backward(self, loss: Tensor) -> None:
        """Add direct gradient and hypergradients of ``loss`` to ``.grad``. Eq. 1 and 2."""
        params = self.trainable_parameters()
        grads = hypergradient(self, loss, params)  # type: ignore[arg-type]
        self.warn_of_no_gradient(grads)
        for param, grad in zip(params, grads, strict=True):
            if grad is not None:
                param.grad = grad if param.grad is None else param.grad + grad

    def optimizer_step(self) -> None:
        """Synchronise, clip, step; the schedule follows the optimiser, not the micro-batches."""
        assert self.engine is not None
        self.engine.distribution.average_grads(self.trainable_parameters())
        if self.scaler is not None and self.optimizer is not None:
            self.scaler.unscale_(self.optimizer)
        if self.config.gradient_clipping > 0:
            params = self.trainable_parameters()
            torch.nn.utils.clip_grad_norm_(params, self.config.gradient_clipping)
        if self.config.type == "sama":
            params = self.trainable_parameters()
            self._last_grads = {id(p): p.grad for p in params if p.grad is not None}
        with self.engine.distribution.updating(self.optimizer):
            self.custom_optimizer_step()
        if self.scheduler is not None:
            self.scheduler.step()

    def custom_optimizer_step(self) -> None:
        """The update itself; override for another than the optimiser's."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()

    def zero_grad(self) -> None:
        """Forget gradients."""
        for param in self.parameters():
            param.grad = None

    @property
    def micro_batches(self) -> list[MicroBatch]:
        """Those of the last optimiser step, whose cost is the sum of their replayed losses."""
        return self._replay.micro_batches

    def replayed_loss(self, batch: MicroBatch, sign: int = 1) -> Tensor:
        """The share of a micro-batch in the last step's cost again, or minus that.

        With the same random numbers, and buffers left as they were: two passes of a finite
        difference would otherwise differ by their dropout masks, and batch normalisation would
        count the batch again.
        """
        with self._replay.again(self, batch):  # type: ignore[arg-type]
            given = self.training_step_exec(batch.batch)
        loss = _scalar(given["loss"] if isinstance(given, Mapping) else given)
        parts = sign * len(self.micro_batches)
        return loss if parts == 1 else loss / parts

    def held(self, name: str, value: Tensor) -> Tensor:
        """``value`` as it was in the step itself, also in replays at perturbed parameters.

        For what enters the cost as a constant though it is computed from the parameters: a weight
        network that reads ``loss.detach()`` would read another loss at the perturbed parameters,
        and a finite difference would count that change as a gradient.
        """
        return self._replay.held(name, value.detach())

    def jacobian_type(self, upper: Problem) -> str:
        """The method by which ``upper`` differentiates this problem's optimum."""
        return self.config.type

    def last_grad(self, weight: Tensor) -> Tensor | None:
        """Gradient of ``weight`` in the last optimiser step, for ``sama``."""
        return self._last_grads.get(id(weight))

    def first_time(self, what: str) -> bool:
        """Whether ``what`` is asked for the first time since the program was put together."""
        if what in self._asked:
            return False
        self._asked.add(what)
        return True

    def warn_once(self, message: str, about: str = "") -> None:
        """Log a warning that names this problem, once for each ``about`` (or message)."""
        first = self.engine is None or self.engine.is_rank_zero()
        if self.first_time(about or message) and first:
            log.warning("problem %r: %s", self.name, message)

    def warn_of_no_gradient(self, grads: Sequence[Tensor | None]) -> None:
        """Warn of a step that cannot move any parameter."""
        if all(grad is None for grad in grads):
            self.warn_once(
                "its step has no gradient: its cost does not depend on its own parameters, and no"
                " hypergradient reaches it (are u2l and l2u swapped?)"
            )

    def check_unused(self, grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> None:
        """Refuse parameters that the cost does not touch, unless ``allow_unused``."""
        if self.config.allow_unused:
            return
        unused = [tuple(p.shape) for g, p in zip(grads, params, strict=True) if g is None]
        if unused:
            raise InputError(
                f"problem {self.name!r}: its cost does not depend on parameters of shapes {unused};"
                " allow_unused=True accepts that"
            )


def _scalar(loss: Tensor) -> Tensor:
    """A loss of one element without dimensions; a view would be one more node to go back by."""
    return loss.reshape(()) if loss.dim() else loss
