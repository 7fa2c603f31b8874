"""Settings of a problem and of the engine. Source: Choe et al. 2023, Sec. 3.2 and Appendix F."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from common.errors import InputError

Method = Literal["darts", "neumann", "cg", "itd", "reinforce", "sama"]
Precision = Literal["fp32", "fp16", "bf16"]
Strategy = Literal["default", "distributed", "zero", "fsdp", "accelerate", "cpu", "gpu"]


class _Checked:
    """A dataclass that refuses values out of range, naming field, value and what is allowed."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):  # type: ignore[arg-type]
            choices = get_args(hints[field.name])
            value = getattr(self, field.name)
            named = bool(choices) and all(isinstance(choice, str) for choice in choices)
            if named and value not in choices:
                self._refuse(field.name, value, "one of " + ", ".join(choices))
        self._check()

    def _check(self) -> None:
        """More checks of a subclass."""

    def _refuse(self, name: str, value: Any, allowed: str) -> None:
        raise InputError(f"{type(self).__name__}: {name}={value!r}: must be {allowed}")

    def _at_least(self, smallest: float, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= smallest:
                self._refuse(name, getattr(self, name), f">= {smallest:g}")

    def _positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                self._refuse(name, getattr(self, name), "> 0")


@dataclass
class Config(_Checked):
    """How one problem is solved and differentiated.

    ``type`` says how the best-response Jacobian of *this* problem's optimum is approximated when an
    upper problem asks for it; ``first_order=False`` on the *upper* problem instead differentiates
    through the unrolled steps of every lower :class:`IterativeProblem`, whatever its type.

    Args:
        type: ``darts`` (finite difference), ``neumann``, ``cg``, ``itd``, ``reinforce``, ``sama``.
        unroll_steps: optimiser steps before the upper problems are stepped.
        first_order: implicit differentiation of the lower problems.
        retain_graph: accepted for programs written for the published package; graphs are retained
            where they are needed and nowhere else.
        allow_unused: whether parameters that the loss does not touch are allowed.
        gradient_accumulation: micro-batches of an optimiser step.
        gradient_clipping: largest global gradient norm; 0 switches clipping off.
        precision: of the forward pass (autocast).
        initial_dynamic_scale, scale_factor: loss scaling of fp16.
        warmup_steps: own steps before the upper problems are stepped for the first time.
        log_step: own steps between log lines; -1 for none.
        log_local_step: log the problem's own step count instead of the engine's.
        darts_alpha: length of the perturbation of ``darts``.
        darts_multitask: leave the lower weights at ``w - eps v`` after the hypergradient instead of
            restoring them: the *nudge*, a normalised step on the upper loss. Versions of the
            published package up to 0.2.0 always did (see the paper's README).
        sama_adam_alpha, sama_multitask: the same for ``sama``.
        neumann_iterations: terms of the series beyond the first.
        neumann_alpha: its step, below 2 / largest eigenvalue of the Hessian to converge.
        cg_iterations: conjugate-gradient steps.
        cg_alpha: scale of the system; cancels, kept for programs of the published package.
        cg_damping: added to the Hessian's diagonal.
    """

    type: Method = "darts"
    unroll_steps: int = 1
    first_order: bool = True
    retain_graph: bool = False
    allow_unused: bool = True
    gradient_accumulation: int = 1
    gradient_clipping: float = 0.0
    precision: Precision = "fp32"
    initial_dynamic_scale: float = 4096.0
    scale_factor: float = 2.0
    warmup_steps: int = 0
    log_step: int = -1
    log_local_step: bool = False
    darts_alpha: float = 0.01
    darts_multitask: bool = False
    sama_adam_alpha: float = 1.0
    sama_multitask: bool = False
    neumann_iterations: int = 1
    neumann_alpha: float = 1.0
    cg_iterations: int = 1
    cg_alpha: float = 1.0
    cg_damping: float = 0.0

    def _check(self) -> None:
        self._at_least(1, "unroll_steps", "gradient_accumulation", "cg_iterations")
        self._at_least(0, "gradient_clipping", "warmup_steps", "neumann_iterations", "cg_damping")
        self._positive("darts_alpha", "sama_adam_alpha", "neumann_alpha", "cg_alpha")
        self._positive("initial_dynamic_scale")
        if self.scale_factor <= 1:
            self._refuse("scale_factor", self.scale_factor, "> 1")


@dataclass
class EngineConfig(_Checked):
    """How the whole program runs.

    Args:
        train_iters: engine iterations: steps of each leaf of the graph.
        valid_step: iterations between calls of ``Engine.validation``.
        logger_type: ``none``, ``tensorboard`` or ``wandb``.
        roll_back: redo a problem's last step with the updated upper parameters (DARTS).
        strategy: device and distribution; several processes are started by torchrun.
        backend: of torch.distributed; empty for nccl on GPUs and gloo on CPUs.
        early_stopping, early_stopping_mode, early_stopping_tolerance, early_stopping_metric: stop
            after so many validations without a better value of a metric that it returns.
    """

    train_iters: int = 50000
    valid_step: int = 500
    logger_type: Literal["none", "tensorboard", "wandb"] = "none"
    roll_back: bool = False
    strategy: Strategy = "default"
    backend: str = ""
    early_stopping: bool = False
    early_stopping_mode: Literal["min", "max"] = "min"
    early_stopping_tolerance: int = 5
    early_stopping_metric: str = "loss"

    def _check(self) -> None:
        self._at_least(1, "train_iters", "valid_step", "early_stopping_tolerance")


__all__ = ["Config", "EngineConfig"]
