"""Looks at a generator along its training: metrics, samples to draw, and whether it diverged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

from torch import Tensor

from common.runs.run import Run
from common.training import Core
from papers.okgan.divergence import DivergedError
from papers.okgan.methods.generation import Generation

log = logging.getLogger("okgan")


class Looks:
    """Rows of metrics, the samples that they are of, and seconds of training (of a CPU, its own).

    Part of the resume state. Of a training that diverges the last look before stands, and the
    record says when it did.

    Args:
        judge: samples -> metrics; raises DivergedError for samples that are not finite.
        judged: samples of a look.
        kept: of these, how many are kept of every look, to be drawn; all of the last one are.
    """

    def __init__(
        self, judge: Callable[[Tensor], dict[str, float]], judged: int, kept: int = 0
    ) -> None:
        self._judge, self._judged, self._kept = judge, judged, kept
        self.rows: list[dict[str, float]] = []
        self.frames: list[Tensor] = []
        self.samples: Tensor | None = None
        self.seconds = 0.0
        self.diverged_at: int | None = None

    def take(self, training: Generation) -> None:
        """One look."""
        samples = training.sample(self._judged)
        self.rows.append({"iteration": float(training.count), **self._judge(samples)})
        self.samples = samples
        if self._kept:
            self.frames.append(samples[: self._kept].clone())

    def train(
        self,
        training: Generation,
        iterations: int,
        every: int,
        draw: Callable[[], Tensor],
        before: Callable[[int], None],
        after: Callable[[], object] = lambda: None,
    ) -> None:
        """The loop, with a look before it, every so many iterations, and at its end.

        Args:
            draw: the next real batch.
            before: called before each iteration with its number.
            after: called after it.
        """
        # Processor time does not depend on what else a machine does, but leaves out a GPU's.
        clock = process_time if training.device.type == "cpu" else perf_counter
        try:
            if not self.rows:
                self.take(training)
            while training.count < iterations:
                before(training.count)
                started = clock()
                training.iterate(draw())
                self.seconds += clock() - started
                if training.count % every == 0 or training.count == iterations:
                    self.take(training)
                after()
        except DivergedError as error:
            if not self.rows:
                raise  # nothing came before
            self.diverged_at = training.count
            log.warning(
                "diverged in iteration %d (%s): metrics are those of iteration %d",
                training.count,
                error,
                int(self.rows[-1]["iteration"]),
            )

    def metrics(self) -> dict[str, float]:
        """The last look's, ``diverged`` (0 or 1), and ``train_s``."""
        last = {name: value for name, value in self.rows[-1].items() if name != "iteration"}
        diverged = float(self.diverged_at is not None)
        return {**last, "diverged": diverged, "train_s": self.seconds}

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "rows": self.rows,
            "frames": self.frames,
            "samples": self.samples,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.rows, self.frames = list(state["rows"]), list(state["frames"])
        self.samples, self.seconds = state["samples"], float(state["seconds"])


@contextmanager
def shown(
    training: Generation, core: Core, run: Run, iterations: int
) -> Iterator[Callable[[], None]]:
    """A progress bar; yields what to call after each iteration, which also saves resume state."""
    with run.progress(iterations, "iterations") as bar:
        bar.update(training.count)

        def completed() -> None:
            bar.update(1)
            core.completed_step()

        yield completed
