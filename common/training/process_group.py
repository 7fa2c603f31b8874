"""The end of a process group."""

from __future__ import annotations

import time

from torch import distributed


def leave_process_group() -> None:
    """Destroy this process's group, if it is in one; all its processes do so together.

    Torch joins gloo's threads with the interpreter's lock held, and they need it to release the
    tensors of the last collectives: without the pause one run in ten hangs here for ever.
    """
    if distributed.is_initialized():
        time.sleep(0.3)
        distributed.destroy_process_group()
