"""One model of the checkpoints of several epochs: the mean of each weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from papers.mmt_how2.translation.fairseq_start import start_fairseq
from papers.mmt_how2.translation.generation import read_checkpoint


def average_checkpoints(checkpoints: Sequence[Path], path: Path) -> Path:
    """Write the mean of checkpoints of one model to ``path``, which is returned.

    Weights and running statistics are averaged in float64; counts are the last checkpoint's. The
    optimizer's state is left out. It is for translating, and to start another training from.

    Raises:
        InputError: no checkpoint, an unreadable one, or one of another model or other dictionaries.
    """
    if not checkpoints:
        raise InputError("0 checkpoints; allowed: from 1")
    start_fairseq()
    last = _state(checkpoints[-1])
    shapes = {name: value.shape for name, value in last["model"].items()}
    sums = {
        name: torch.zeros_like(value, dtype=torch.float64)
        for name, value in last["model"].items()
        if value.is_floating_point()
    }
    for checkpoint in checkpoints:
        state = _state(checkpoint)
        found = {name: value.shape for name, value in state["model"].items()}
        if found != shapes:
            name = min(dict(found.items() ^ shapes.items()))
            raise InputError(
                f"{checkpoint}: another model than {checkpoints[-1]}'s: {name} is"
                f" {tuple(found.get(name, ()))}, not {tuple(shapes.get(name, ()))}"
            )
        if state["task_state"].get("dictionaries") != last["task_state"].get("dictionaries"):
            raise InputError(f"{checkpoint}: of other dictionaries than {checkpoints[-1]}")
        for name, total in sums.items():
            total += state["model"][name]
    means: dict[str, Tensor] = {
        name: (total / len(checkpoints)).to(last["model"][name].dtype)
        for name, total in sums.items()
    }
    last["model"] = {**last["model"], **means}
    last.pop("last_optimizer_state", None)
    partial = path.with_name(f".{path.name}.partial")
    torch.save(last, partial)
    return partial.replace(path)


def _state(checkpoint: Path) -> dict[str, Any]:
    """What is in the file, as it is. Raises InputError as :func:`read_checkpoint`."""
    read_checkpoint(checkpoint)
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return state
