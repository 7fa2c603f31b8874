"""Processes that are killed, and what they leave on disk."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Processes that start at once, with what takes long imported already. Not their programs: the
#: server that forks does not look where tests are, and a package may have installed its own.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["papers.logra.session.scheduler", "papers.logra.session.session"])


TOKEN = rb'"token": "[0-9a-f]{32}"'


def files(folder: Path, pattern: str = "**/*") -> dict[str, bytes]:
    """Files below a folder, without the tokens of logs: no two logs have the same."""
    return {
        str(path.relative_to(folder)): re.sub(TOKEN, b"", path.read_bytes())
        for path in folder.glob(pattern)
        if path.is_file()
    }


def started(target: Callable[..., None], folder: Path, *arguments: Any) -> tuple[Any, Any]:
    """A process that runs ``target``, and the pipe that it sends to."""
    receives, sends = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=target, args=(folder, sends, *arguments))
    process.start()
    sends.close()
    return process, receives
