"""The device of a run's models."""

from __future__ import annotations

import torch

from common.runs.run import Run
from common.training.local_gpu import Device, claimed_device


def take_device(name: Device, run: Run) -> torch.device:
    """The device, noted in the run, which holds it to its end.

    Raises:
        InputError: there is no GPU, or other runs hold all of them.
    """
    device = run.hold(claimed_device(name, run))
    run.precision = "fp32"
    if device.type == "cpu":
        # Matrices of these networks are too small to share; runs beside each other are not.
        torch.set_num_threads(1)
    return device
