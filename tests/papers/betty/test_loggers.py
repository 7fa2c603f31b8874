"""Numbers of a run are seen, once, where the program says or else on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from papers.betty import Config, Engine, EngineConfig
from papers.betty.loggers import LineLogger
from tests.papers.betty.programs import engine, problem

ONE = torch.ones(2, dtype=torch.float64)
BETTY, ROOT = logging.getLogger("betty"), logging.getLogger()


@contextmanager
def plain() -> Iterator[None]:
    """Logging as in a program that never heard of it, also of the handlers that pytest has."""
    before = ROOT.handlers, BETTY.handlers, BETTY.level
    ROOT.handlers, BETTY.handlers = [], []
    BETTY.setLevel(logging.NOTSET)
    try:
        yield
    finally:
        ROOT.handlers, BETTY.handlers, level = before
        BETTY.setLevel(level)


class Validated(Engine):
    """Returns numbers of several kinds."""

    def validation(self) -> dict[str, Any]:
        grad = torch.ones(1, requires_grad=True)
        return {"loss": 0.25, "numpy": np.float32(0.5), "count": np.int64(3), "tensor": grad}


def single(kind: type[Engine] = Validated, log_step: int = -1, **settings: Any) -> Engine:
    config = Config(log_step=log_step)
    item = problem("single", ONE, lambda w: w.square().sum(), (), config)
    return kind([item], EngineConfig(**{"strategy": "cpu", "train_iters": 4, **settings}))


@plain()
def test_validation_is_seen_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # a second engine does not say it twice
        single(valid_step=2).run()
    lines = capsys.readouterr().err.splitlines()
    shown = "INFO betty: validation at {}: loss 0.25, numpy 0.5, count 3, tensor 1"
    assert lines == [shown.format(step) for step in (2, 4)] * 2


@plain()
def test_without_validation_the_losses_are_seen(capsys: pytest.CaptureFixture[str]) -> None:
    single(Engine, train_iters=5, valid_step=4).run()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"INFO betty: losses at {step}: single 2" for step in (4, 5)]


@plain()
def test_a_validation_that_never_comes_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    single(valid_step=500).run()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING betty: validation() is never called: valid_step 500 is above")


@plain()
def test_a_programs_own_handlers_and_level_decide(capsys: pytest.CaptureFixture[str]) -> None:
    caught: list[str] = []

    class Catch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            caught.append(record.getMessage())

    program = single(valid_step=4, log_step=2)
    ROOT.addHandler(Catch())  # later than the engine, and at the root's level
    program.run()
    stats = "loss 0.25, numpy 0.5, count 3, tensor 1"
    wanted = [f"single at {step}: loss 2" for step in (2, 4)] + [f"validation at 4: {stats}"]
    assert caught == wanted
    assert capsys.readouterr().err == ""
    BETTY.setLevel(logging.WARNING)
    single(valid_step=4).run()
    assert caught == wanted


def test_what_is_no_number_makes_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "betty")
    LineLogger().log({"name": "x", "row": torch.ones(3)}, tag="validation", step=1)
    assert not caplog.records


def test_lines_are_of_the_first_process_alone(caplog: pytest.LogCaptureFixture) -> None:
    from papers.betty.loggers import Silence, make_logger

    assert type(make_logger("none", first=False)) is Silence
    program = engine([problem("single", ONE, lambda w: w.sum())], {}, {})
    program.logger = Silence()
    program.run()
    assert not caplog.records
