"""Where training statistics go: Python's logging, and TensorBoard or Weights & Biases if asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

log = logging.getLogger("betty")


class Logger(Protocol):
    """Takes the numbers of one step."""

    def log(self, stats: Mapping[str, Any], tag: str = "", step: int = 0) -> None:
        """Write ``stats`` under ``tag`` at ``step``."""


class LineLogger:
    """One line a step on Python's logging."""

    def log(self, stats: Mapping[str, Any], tag: str = "", step: int = 0) -> None:
        """Write one line."""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers(stats).items())
        log.info("%s at %d: %s", tag or "step", step, shown)


class TensorBoardLogger(LineLogger):
    """TensorBoard scalars beside the line."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter()  # type: ignore[no-untyped-call]

    def log(self, stats: Mapping[str, Any], tag: str = "", step: int = 0) -> None:
        """Write scalars."""
        super().log(stats, tag, step)
        for name, value in numbers(stats).items():
            self._writer.add_scalar(f"{tag}/{name}", value, step)  # type: ignore[no-untyped-call]


class WandbLogger(LineLogger):
    """Weights & Biases beside the line."""

    def __init__(self) -> None:
        import wandb  # type: ignore[import-not-found,unused-ignore]

        self._run = wandb.run or wandb.init()

    def log(self, stats: Mapping[str, Any], tag: str = "", step: int = 0) -> None:
        """Write scalars."""
        super().log(stats, tag, step)
        self._run.log({f"{tag}/{name}": value for name, value in numbers(stats).items()}, step)


class Silence:
    """Of processes that are not the first."""

    def log(self, stats: Mapping[str, Any], tag: str = "", step: int = 0) -> None:
        """Write nothing."""


def numbers(stats: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are single numbers."""
    found = {}
    for name, value in stats.items():
        if (isinstance(value, Tensor) and value.numel() == 1) or isinstance(value, int | float):
            found[name] = float(value)
    return found


def logger_of(kind: str, first: bool) -> Logger:
    """The logger that the engine's ``logger_type`` names; lines alone where it is not installed."""
    if not first:
        return Silence()
    try:
        return {"none": LineLogger, "tensorboard": TensorBoardLogger, "wandb": WandbLogger}[kind]()
    except ImportError as error:
        log.warning(
            "logger_type %r: %s (pip install %s); numbers go to lines alone", kind, error, kind
        )
        return LineLogger()
