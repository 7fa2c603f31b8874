"""Where training statistics go: Python's logging, and TensorBoard or Weights & Biases if asked.

Lines of the logger ``betty`` are seen by default; its level WARNING leaves warnings alone, and
handlers of the program's own take the place of stderr.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any, Protocol

from torch import Tensor
from tqdm import tqdm

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
        if shown:
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
    """Logger of processes that are not the first: it writes nothing."""

    def log(self, stats: Mapping[str, Any], tag: str = "", step: int = 0) -> None:
        """Write nothing."""


def numbers(stats: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are single numbers."""
    found = {}
    for name, value in stats.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            found[name] = float(value.detach())
        elif isinstance(value, Real):
            found[name] = float(value)
    return found


class _Lines(logging.Handler):
    """Lines on stderr, above a progress bar, until the program has handlers of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        if not logging.getLogger().handlers:
            tqdm.write(self.format(record), file=sys.stderr)


def show_lines() -> None:
    """Let lines be seen, as far as the program has not said what to do with them."""
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    if not log.hasHandlers():
        handler = _Lines()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        log.addHandler(handler)


def make_logger(kind: str, first: bool) -> Logger:
    """The logger that the engine's ``logger_type`` names; lines alone where it is not installed."""
    if not first:
        return Silence()
    show_lines()
    try:
        return {"none": LineLogger, "tensorboard": TensorBoardLogger, "wandb": WandbLogger}[kind]()
    except ImportError as error:
        log.warning(
            "logger_type %r: %s (pip install %s); numbers go to lines alone", kind, error, kind
        )
        return LineLogger()
