"""What all problems of a program share: a task sampler, a simulator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Env:
    """Shared object of a program: ``self.env`` in every problem.

    One that changes in a run defines ``state_dict`` and ``load_state_dict``, and is part of the
    engine's state.

    Attributes:
        train_data_loader: for problems to draw tasks from, if a subclass sets it.
        device: where the engine puts tensors.
    """

    train_data_loader: Iterable[Any] | None = None
    device: torch.device = torch.device("cpu")

    def initialize(self) -> None:
        """Called once by the engine, when the device is known."""


__all__ = ["Env"]
