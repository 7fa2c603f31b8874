"""The device of a run's models. A GPU is claimed as all papers' training loops claim theirs."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import Literal

import torch

from common.errors import InputError
from common.runs.run import Run
from common.training.local_gpu import claimed_gpu, visible_gpus

Device = Literal["auto", "cpu", "cuda"]

#: Holds the claim until the process, which is one run, ends.
_claims = ExitStack()
atexit.register(_claims.close)


def take_device(name: Device, run: Run) -> torch.device:
    """The device, noted in the run; where there are several GPUs, one that no other run has.

    Raises:
        InputError: there is no GPU, or all are taken.
    """
    with ExitStack() as claim:
        # First of all: whoever asks for a GPU initialises CUDA, which keeps to those visible then.
        if name != "cpu" and visible_gpus() > 1:
            claim.enter_context(claimed_gpu(visible_gpus()))
        cuda = name != "cpu" and torch.cuda.is_available()
        if name == "cuda" and not cuda:
            raise InputError("device cuda: there is no GPU; allowed: cpu, auto")
        if cuda:
            _claims.push(claim.pop_all())
    run.device = torch.cuda.get_device_name() if cuda else "cpu"
    run.precision = "fp32"
    if not cuda:
        # Matrices of these networks are too small to share; runs beside each other are not.
        torch.set_num_threads(1)
    return torch.device("cuda" if cuda else "cpu")
