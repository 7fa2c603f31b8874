"""What the experiments share: a run that a kill does not cost, and what a step costs."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from common.errors import InputError
from common.training import Core
from papers.betty.configs import Strategy
from papers.betty.engine import Engine


class History:
    """Rows of validation and the time spent in between, part of the resume state.

    Args:
        device: whose work the time is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.rows: list[dict[str, float]] = []
        self._device, self._seconds = device, 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Time between :meth:`start` and :meth:`stop` so far."""
        return self._seconds + (0.0 if self._started is None else self._now() - self._started)

    def start(self) -> None:
        """The time counts from now on."""
        self._started = self._now()

    def stop(self) -> None:
        """It does no longer."""
        self._seconds, self._started = self.seconds, None

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what it was given may still be at work
        return perf_counter()

    def state_dict(self) -> dict[str, object]:
        """Rows and time so far."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.rows = list(state["rows"])  # type: ignore[call-overload]
        self._seconds = float(state["seconds"])  # type: ignore[arg-type]


def run_engine(
    engine: Engine,
    core: Core,
    evaluate: Callable[[], dict[str, float]],
    every: int,
) -> History:
    """Run ``engine`` to its end, evaluating every so many iterations and at the end.

    Writes the program's graph as the artifact ``graph.json``.

    Saves a resume state where the core's settings say so, between inner loops; a run that was
    killed ends as one that was not. Evaluation does not count in ``seconds``.
    """
    graph = engine.graph
    core.run.write_json("graph.json", {"names": graph.names, "u2l": graph.u2l, "l2u": graph.l2u})
    history = History(engine.device)
    core.track(engine=engine, history=history)
    core.restore()

    def after_iteration() -> None:
        step = engine.global_step
        if step % every == 0 or step == engine.config.train_iters:
            history.stop()
            engine.eval()
            with torch.no_grad():
                history.rows.append({"iteration": float(step), **evaluate()})
            engine.train()
            history.start()
        if engine.between_loops:
            core.completed_step()

    history.start()
    engine.run(after_iteration)
    history.stop()
    return history


def recorded(cost: type) -> Any:
    """A kind of problem with the methods of ``cost``, differentiated through its steps.

    Made here, so that runs that differentiate implicitly do not load what records steps.
    """
    from papers.betty import IterativeProblem

    return type(f"Iterative{cost.__name__}", (cost, IterativeProblem), {})


def choose_strategy(core: Core, divisible: bool = True) -> Strategy:
    """The engine's strategy: it computes where the core does, and in the core's process group.

    Args:
        divisible: whether the program's batches can be divided among processes.

    Raises:
        InputError: several processes where they cannot, or where the core would shard parameters.
    """
    if core.world_size == 1:
        return "gpu" if core.device.type == "cuda" else "cpu"
    if not divisible:
        raise InputError(
            f"torchrun started {core.world_size} processes; allowed: one, for the batches of this"
            " program are not divided"
        )
    if core.settings.strategy != "ddp":
        raise InputError(f"core.strategy {core.settings.strategy}: allowed here: ddp")
    return "accelerate"
