"""Settings of the training core, to be nested in a paper's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings


class CoreSettings(Settings):
    """How to train; what to train is the paper's."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the GPU has it, else fp32"
    )
    strategy: Literal["single", "ddp", "fsdp"] = Field(
        "single", description="several processes are started by torchrun"
    )
    global_batch_size: int = Field(gt=0, description="samples of one optimiser step, all devices")
    accumulation: int = Field(1, gt=0, description="micro-batches of one step on a device")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    compile: bool = Field(False, description="torch.compile the model")
    deterministic: bool = Field(False, description="refuse nondeterministic kernels")
    tf32: bool = Field(False, description="TF32 matrix products where precision is fp32")
    num_workers: int = Field(0, ge=0, description="processes that load data")
    save_every: int = Field(200, gt=0, description="optimiser steps between resume states")

    def device_batch_size(self, world_size: int) -> int:
        """Samples of one micro-batch on one device.

        Raises:
            InputError: the global batch does not divide.
        """
        shares = world_size * self.accumulation
        if self.global_batch_size % shares:
            raise InputError(
                f"global_batch_size {self.global_batch_size}: must be a multiple of devices x "
                f"accumulation = {world_size} x {self.accumulation} = {shares}"
            )
        return self.global_batch_size // shares
