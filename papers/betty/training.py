"""What the experiments share: running an engine so that a kill does not cost it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from torch import Tensor

from common.core import Core
from papers.betty.configs import Strategy
from papers.betty.engine import Engine


class History:
    """Rows of validation, part of the resume state."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0

    def state_dict(self) -> dict[str, object]:
        """Rows and time so far."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.rows = list(state["rows"])  # type: ignore[call-overload]
        self.seconds = float(state["seconds"])  # type: ignore[arg-type]


def run_engine(
    engine: Engine,
    core: Core,
    evaluate: Callable[[], dict[str, float]],
    every: int,
) -> History:
    """Run ``engine`` to its end, evaluating every so many iterations and at the end.

    Saves a resume state where the core's settings say so, between inner loops; a run that was
    killed ends as one that was not. Evaluation does not count in ``seconds``.
    """
    history = History()
    core.track(engine=engine, history=history)
    core.restore()
    started = perf_counter()

    def after_iteration() -> None:
        nonlocal started
        step = engine.global_step
        if step % every == 0 or step == engine.config.train_iters:
            history.seconds += perf_counter() - started
            engine.eval()
            with torch.no_grad():
                history.rows.append({"iteration": float(step), **evaluate()})
            engine.train()
            started = perf_counter()
        if engine.between_loops:
            now = perf_counter()
            history.seconds, started = history.seconds + now - started, now
            core.completed_step()

    engine.run(after_iteration)
    return history


@contextmanager
def saved_bytes() -> Iterator[Callable[[], int]]:
    """Count bytes that autograd keeps for backward passes while this is open, shared ones once.

    A deterministic measure of memory on machines without a GPU; parameters are not counted.
    """
    seen: dict[tuple[int, int], int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):
            storage = tensor.untyped_storage()
            seen[(storage.data_ptr(), storage.nbytes())] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(seen.values())


def strategy_on(device: torch.device) -> Strategy:
    """The engine's strategy for one process on ``device``."""
    return "gpu" if device.type == "cuda" else "cpu"


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right classes, %."""
    return 100 * float((logits.argmax(1) == labels).float().mean())
