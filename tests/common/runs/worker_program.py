"""Worker processes that load data while something goes wrong, run by the tests in a process.

``python -m tests.common.runs.worker_program WHAT``: a data set raises ``input`` or ``other``
errors, or the ``caller`` does; or all is well, but the last batch is ``left``.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.utils.data import Dataset

from common.errors import InputError
from common.runs.cli import guarded
from common.training import CoreSettings, EpochLoader, EpochOrder


class Samples(Dataset[Any]):
    """Twelve numbers, the sixth of which may not be there."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        if self.error is not None and index == 5:
            raise self.error
        return index


def main() -> None:
    """Do what the first argument says."""
    what = sys.argv[1]
    errors = {"input": InputError("5.jpg: InputError: cannot be read"), "other": OSError("5.jpg")}
    settings = CoreSettings(global_batch_size=1, num_workers=2)
    loader = EpochLoader(
        Samples(errors.get(what)), EpochOrder(12, 1), settings, torch.device("cpu")
    )
    kept.append(batches := loader.batches(0))
    for number, _ in enumerate(batches):
        if what == "caller" and number == 3:
            raise OSError("caller")
        if what == "left" and number == 11:
            break


#: As a program's reference cycles do, it holds the batches until Python has ended.
kept: list[Any] = []

if __name__ == "__main__":
    guarded(main)
