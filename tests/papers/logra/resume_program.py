"""A program that logs in several passes and may be killed, for the tests of what it leaves."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from common.errors import InputError
from papers.logra import LoggingConfig, LogIX, LogIXScheduler, LoRAConfig
from papers.logra.log_store import LogStore
from tests.papers.logra.logged_network import data, loss, network

ROWS, BATCH, PROJECT = 50, 4, Path("logix/project")


def new_run(seconds: float = 0.0, **options: Any) -> LogIX:
    """A run in the working folder whose chunks, of about seven rows, end within batches."""
    logging = LoggingConfig(log_dtype="float64", flush_threshold=70, checkpoint_seconds=seconds)
    run = LogIX("project", logging_config=logging, **options)
    run.set_lora_config(LoRAConfig(rank=2))
    run.watch(network())
    return run


def log(
    run: LogIX,
    lora: Any = "pca",
    hessian: Any = "ekfac",
    asks: bool = True,
    after: Callable[[], None] = lambda: None,
    share: slice = slice(None),
) -> None:
    """Log a share of the batches, as the documented program; ``after`` each that is computed."""
    inputs, targets = data(ROWS)
    for _ in LogIXScheduler(run, lora, hessian, save="grad"):
        for part in torch.arange(ROWS).split(BATCH)[share]:
            if asks and run.has_logged(part):
                continue
            with run(data_id=part):
                loss(run._model().model, inputs[part], targets[part]).backward()
            after()
    run.finalize()


def start(folder: Path, computed: Connection, seconds: float, options: dict[str, Any]) -> None:
    """Log in ``folder`` what is missing, and tell of each batch."""
    torch.set_num_threads(1)
    os.chdir(folder)
    run = new_run(seconds, resume=True)
    computed.send("began")
    log(run, **options, after=lambda: computed.send("batch"))


def start_share(folder: Path, computed: Connection, rank: int, processes: int = 2) -> None:
    """As :func:`start`, in one of several processes that meet in ``folder``."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    start(folder, computed, 0.0, {"share": slice(rank, None, processes)})
    distributed.destroy_process_group()


def log_until_full(
    folder: Path, said: Connection, largest: int, batches: int, seconds: float = 1e9
) -> None:
    """Log some batches; then the disk takes no file of more than ``largest`` bytes."""
    os.chdir(folder)
    run, done, message = new_run(seconds, resume=True), 0, ""

    def fill() -> None:
        nonlocal done
        done += 1
        if done == batches:
            while not len(LogStore.open(PROJECT / "log")):
                time.sleep(0.01)  # a busy machine has its writer behind
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    try:
        log(run, "random", "raw", after=fill)
    except InputError as error:
        message = str(error)
    said.send(message)
