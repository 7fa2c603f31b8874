"""What a run computes on: the CPU, or a GPU that no other run of this machine takes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from common.errors import InputError
from common.runs.run import Run
from papers.mmt_how2.translation.training_settings import Schedule


@contextmanager
def claimed_device(schedules: Sequence[Schedule], run: Run) -> Iterator[torch.device]:
    """A GPU, held to the end, if one of a run's schedules asks for one; noted in the run.

    Raises:
        InputError: there is no GPU, or others hold all of them.
    """
    run.precision = "float16" if any(one.fp16 for one in schedules) else "float32"
    if not any(one.gpu for one in schedules):
        yield torch.device("cpu")
        return
    # The package of the shared core loads accelerate, which no run on a CPU needs.
    from common.training.local_gpu import claimed_gpu, visible_gpus
    from common.training.meters import peak_gpu_bytes

    with ExitStack() as claim:
        # The claim comes first: CUDA keeps to the GPUs that are visible when it is first asked.
        if visible_gpus() > 1:
            claim.enter_context(claimed_gpu(visible_gpus()))
        if not torch.cuda.is_available():
            raise InputError("schedule.gpu: true; there is no GPU here, allowed: false")
        device = torch.device("cuda")
        run.device = torch.cuda.get_device_name()
        yield device
        run.peak_gpu_bytes = peak_gpu_bytes(device)
