"""The loop of every experiment: base steps, and a meta step after every few of them.

Source: Choe et al. 2023 (SAMA), Sec. B.1 of the problem: base level ``theta*(lambda)``, meta level
``L_meta(theta*(lambda))``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.experiments.settings import Settings
from papers.sama import SAMA, Adaptation
from papers.sama.three_passes import Cost

OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]
OPTIMIZERS: Final[dict[str, type[torch.optim.Optimizer]]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


class BaseOptimizer(Settings):
    """The optimiser of the base network, and its schedule."""

    name: OptimizerName = "adam"
    lr: float = Field(gt=0)
    momentum: float = Field(0.0, ge=0, description="sgd only")
    nesterov: bool = Field(False, description="sgd only")
    betas: tuple[float, float] = Field((0.9, 0.999), description="adam and adamw only")
    eps: float = Field(1e-8, gt=0, description="not of sgd")
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of steps in which lr rises from 0")
    decay: Literal["none", "linear", "cosine", "milestones"] = Field(
        "none", description="of lr after the warm-up; linear, cosine: to 0 at the last step"
    )
    milestones: tuple[float, ...] = Field(
        (), description="shares of steps at which lr falls to 1/10"
    )

    def make(self, params: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser."""
        own: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.name == "sgd":
            own |= {"momentum": self.momentum, "nesterov": self.nesterov}
        else:
            own |= {"eps": self.eps}
        if self.name in ("adam", "adamw"):
            own |= {"betas": self.betas}
        return OPTIMIZERS[self.name](params, **own)

    def schedule(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Factors of lr over ``steps`` steps."""
        rise = round(self.warmup * steps)

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / rise
            if self.decay == "linear":
                return (steps - step) / max(1, steps - rise)
            if self.decay == "cosine":
                return (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2
            passed = sum(step >= round(share * steps) for share in self.milestones)
            return 0.1**passed if self.decay == "milestones" else 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class MetaSettings(Settings):
    """How meta parameters are learned."""

    method: Literal["sama", "sama_na"] = Field(
        "sama", description="sama_na: without the adaptation to the base optimiser"
    )
    alpha: float = Field(1.0, gt=0, description="length of the shift of the base weights")
    nudge: bool = Field(False, description="leave base weights at the end of the shift")
    unroll_steps: int = Field(5, ge=1, description="base steps for each meta step")
    lr: float = Field(gt=0, description="of Adam")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)


class Bilevel:
    """A base network, and meta parameters that are learned while it is trained.

    Args:
        base: the network; trainable parameters are stepped.
        base_optimizer: how.
        steps: base steps of the whole training, which the schedule spans.
        meta: what holds the meta parameters; None trains the base network alone.
        meta_settings: how those are learned.
    """

    def __init__(
        self,
        base: nn.Module,
        base_optimizer: BaseOptimizer,
        steps: int,
        meta: nn.Module | None = None,
        meta_settings: MetaSettings | None = None,
    ) -> None:
        self.base, self.meta = base, meta
        self._settings, self._meta_settings = base_optimizer, meta_settings
        self._params = [param for param in base.parameters() if param.requires_grad]
        self.optimizer = base_optimizer.make(self._params)
        self.schedule = base_optimizer.schedule(self.optimizer, steps)
        self.count = 0
        self._adaptation: Adaptation | None = None
        self.sama: SAMA | None = None
        if meta is not None:
            assert meta_settings is not None
            if meta_settings.method == "sama":
                self._adaptation = Adaptation(self.optimizer)
            self.sama = SAMA(
                base, meta, self._adaptation, alpha=meta_settings.alpha, nudge=meta_settings.nudge
            )
            self.meta_optimizer = torch.optim.Adam(
                meta.parameters(),
                lr=meta_settings.lr,
                betas=meta_settings.betas,
                weight_decay=meta_settings.weight_decay,
            )

    def step(self, base_cost: Cost, meta_cost: Cost | None = None) -> Tensor:
        """A base step, and the meta step where it is due.

        Args:
            base_cost: on one batch. A later call must read as constants what the first one did:
                see :class:`Constant`.
            meta_cost: called where a meta step is due.

        Returns:
            The base cost before the step, detached.
        """
        cost = base_cost()
        cost.backward(inputs=self._params)  # type: ignore[no-untyped-call]
        self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.count += 1
        if self.sama is not None and self.count % self._unroll == 0:
            assert meta_cost is not None
            self.meta_optimizer.zero_grad()
            self.sama.backward(meta_cost, base_cost)
            self.meta_optimizer.step()
        return cost.detach()

    @property
    def _unroll(self) -> int:
        assert self._meta_settings is not None
        return self._meta_settings.unroll_steps

    def _clip(self) -> None:
        largest = self._settings.clip_norm
        if largest is None:
            return
        if self._adaptation is not None:
            self._adaptation.clip_grad_norm_(largest)
        else:
            nn.utils.clip_grad_norm_(self._params, largest)

    def _parts(self) -> dict[str, Any]:
        parts = {"base": self.base, "optimizer": self.optimizer, "schedule": self.schedule}
        if self.meta is not None:
            parts |= {"meta": self.meta, "meta_optimizer": self.meta_optimizer}
        return parts

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, schedule and count, for a run that goes on after a kill."""
        return {"count": self.count} | {
            name: part.state_dict() for name, part in self._parts().items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.count = state["count"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])


class Constant:
    """A value that a cost reads as a constant, as the losses that a weight network sees.

    ::

        seen = Constant()

        def base_cost():
            losses = cross_entropy(net(x), y, reduction="none")
            return (weigher(seen(losses)) * losses).mean()

    The first call keeps the value; later ones, at moved weights, give it again. Read anew it would
    count as a function of the weights, and its change as a gradient.
    """

    def __init__(self) -> None:
        self._value: Tensor | None = None

    def __call__(self, value: Tensor) -> Tensor:
        """The value of the first call, detached."""
        if self._value is None:
            self._value = value.detach()
        return self._value
