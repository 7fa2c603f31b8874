"""The core over accelerate: device, precision, distribution, steps, resume, stopping."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import GradientAccumulationPlugin, patch_environment
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from common.errors import InputError
from common.runs.run import Run
from common.seeds import seed_python
from common.training.data_order import EpochLoader, EpochOrder, mixed
from common.training.local_gpu import claimed_gpu, visible_gpus
from common.training.meters import Throughput, peak_gpu_bytes
from common.training.process_group import leave_process_group
from common.training.resume_state import random_state, read_state, set_random_state, write_state
from common.training.settings import CoreSettings

#: Exit status of a run that was told to stop (SIGTERM, SIGUSR1) and saved its state: "try again".
STOPPED: Final = 75
log = logging.getLogger("core")


class Core:
    """Services of a training loop.

    Args:
        settings: see :class:`CoreSettings`.
        run: seeds, the folder of resume states, and the record's device, precision and memory.

    Attributes:
        device: where tensors go.
        step_count: optimiser steps done, over all epochs.
        history: what :meth:`log_metrics` was given; part of the resume state.

    Raises:
        InputError: no GPU where one is asked for, fp16 on a CPU, or a batch that does not divide.
    """

    def __init__(self, settings: CoreSettings, run: Run) -> None:
        self.settings, self.run = settings, run
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun sets it
        if self.world_size > 1 and settings.strategy == "single":
            raise InputError(
                f"strategy single: torchrun started {self.world_size} processes; allowed: ddp, fsdp"
            )
        self.device_batch_size = settings.device_batch_size(self.world_size)
        self._claim = ExitStack()
        with ExitStack() as claim:
            # First of all: whoever asks for a GPU or its precisions initialises CUDA, which keeps
            # to the GPUs that were visible then.
            if settings.device != "cpu" and self.world_size == 1 and visible_gpus() > 1:
                claim.enter_context(claimed_gpu(visible_gpus()))
            cuda = _wants_cuda(settings)
            self.precision = _precision(settings, cuda)
            if cuda:
                self._claim = claim.pop_all()
        self._sharding = (
            _sharding() if settings.strategy == "fsdp" and self.world_size > 1 else None
        )
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # The call loads the compiler, a second of every run, so it is made for a change alone.
        if torch.are_deterministic_algorithms_enabled() != settings.deterministic:
            torch.use_deterministic_algorithms(settings.deterministic)
        torch.backends.cuda.matmul.allow_tf32 = settings.tf32
        torch.backends.cudnn.allow_tf32 = settings.tf32
        _seed(run.seed)  # the same on every device: they build the same model
        self.accelerator = Accelerator(
            cpu=not cuda,
            mixed_precision="no" if self.precision == "fp32" else self.precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=settings.accumulation, sync_with_dataloader=False
            ),
        )
        self.device: torch.device = self.accelerator.device
        self.step_count, self.epoch = 0, 0
        self.history: list[dict[str, float]] = []
        self._throughput = Throughput(self.device)
        self._tracked: dict[str, Any] = {}
        self._stop = False
        run.device = torch.cuda.get_device_name(self.device) if cuda else "cpu"
        run.precision = self.precision
        run.measure_gpu = partial(peak_gpu_bytes, self.device)
        self._handlers = {
            number: signal.signal(number, self._ask_to_stop)
            for number in (signal.SIGTERM, signal.SIGUSR1)
        }

    def _ask_to_stop(self, _number: int, _frame: Any) -> None:
        self._stop = True

    @property
    def fused(self) -> dict[str, Any]:
        """Arguments that make torch's optimisers fused on CUDA: ``AdamW(..., **core.fused)``."""
        return {"fused": True} if self.device.type == "cuda" else {}

    def prepare(
        self, model: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[nn.Module, AcceleratedOptimizer]:
        """Move to the device, wrap for the strategy, compile; convolutions become channels-last."""
        if self.device.type == "cuda" and any(isinstance(m, nn.Conv2d) for m in model.modules()):
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._sharding:
            model = self.accelerator.prepare_model(model, evaluation_mode=True)  # not DDP
            self._sharding.shard(model, optimiser, self.device.type)
            optimiser = self.accelerator.prepare(optimiser)
        else:
            model, optimiser = self.accelerator.prepare(model, optimiser)
        if self.settings.compile:
            model.compile()
        return model, optimiser

    def loader(self, dataset: Any) -> EpochLoader:
        """Training data in an order that depends on seed and epoch alone."""
        order = EpochOrder(
            len(dataset),
            self.settings.global_batch_size,
            self.settings.accumulation,
            self.accelerator.process_index,
            self.world_size,
            self.run.seed,
        )
        return EpochLoader(dataset, order, self.settings, self.device)

    def evaluation_loader(self, dataset: Any, batch_size: int) -> DataLoader[Any]:
        """Every sample once, in order; :meth:`gather` drops what pads the last batch."""
        # A private generator: evaluating must not change training.
        loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=batch_size, generator=torch.Generator().manual_seed(0)
        )
        prepared: DataLoader[Any] = self.accelerator.prepare_data_loader(loader)
        return prepared

    def gather(self, values: Any) -> Any:
        """Values of all devices, (samples, ...), without the padding of an evaluation loader."""
        return self.accelerator.gather_for_metrics(values)

    def track(self, **objects: Any) -> None:
        """Name what belongs to the resume state: models, optimisers, schedulers, own counters.

        Anything with ``state_dict`` and ``load_state_dict`` of tensors and plain values.
        """
        self._tracked |= objects

    def epochs(self, loader: EpochLoader, count: int) -> Iterator[tuple[int, Iterator[Any]]]:
        """(epoch, its micro-batches) from where the resume state stands to ``count`` epochs.

        An epoch whose steps were all done but whose body was not (its evaluation, say) comes again
        without batches.
        """
        self.restore()
        for epoch in range(self.epoch, count):
            done = self.step_count - epoch * loader.steps_per_epoch
            yield epoch, self._throughput.timed(loader.batches(epoch, done))
            self.epoch = epoch + 1

    def accumulate(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Context of one micro-batch: gradients are synchronised only where a step is due."""
        context: AbstractContextManager[Any] = self.accelerator.accumulate(model)
        return context

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass of a micro-batch's mean loss, scaled for accumulation and precision."""
        self.accelerator.backward(loss)

    def step(
        self, model: nn.Module, optimiser: AcceleratedOptimizer, scheduler: Any = None
    ) -> None:
        """After each micro-batch: where a step is due, clip, step, count, save or stop.

        ``scheduler`` moves with the step, but for one that fp16's scaler skipped (overflow).
        """
        due = self.accelerator.sync_gradients
        if due and self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(model.parameters(), self.settings.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        if not due:
            return
        if scheduler is not None and not optimiser.step_was_skipped:
            scheduler.step()
        self.completed_step()

    def completed_step(self) -> None:
        """Count an optimiser step, save or stop where that is due.

        :meth:`step` calls it; so does a loop that takes its steps in another way.
        """
        self.step_count += 1
        self._throughput.add(self.settings.global_batch_size)
        stop = self._told_to_stop()
        if stop or self.step_count % self.settings.save_every == 0:
            self.save()
        if stop:
            log.warning("told to stop: state of step %d is saved", self.step_count)
            self._part()
            raise SystemExit(STOPPED)

    def _told_to_stop(self) -> bool:
        """Whether any process was told to; all must stop at the same step."""
        if self.world_size == 1:
            return self._stop
        flag = torch.tensor(float(self._stop), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum").item())

    def log_metrics(self, **metrics: float) -> None:
        """Append a row to :attr:`history`."""
        self.history.append({name: float(value) for name, value in metrics.items()})

    @property
    def fingerprint(self) -> str:
        """Names the run that a resume state belongs to: its identity, settings and world size."""
        settings = self.run.settings.model_dump(mode="json")
        identity = [str(self.run.key), settings, self.world_size]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def save(self) -> None:
        """Write the resume state; all processes must call it. :meth:`step` does, when it is due."""
        own = random_state(self.device, self.run.rng)
        everyone: list[Any] = [own]
        if self.world_size > 1:
            everyone = [None] * self.world_size
            torch.distributed.all_gather_object(everyone, own)
        state = {
            "objects": {name: self._capture(item) for name, item in self._tracked.items()},
            "step_count": self.step_count,
            "epoch": self.epoch,
            "history": self.history,
            "random": everyone,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
        }
        if self.accelerator.is_main_process:
            write_state(self.run.work, self.step_count, state, self.fingerprint, self.run.code())
        self.accelerator.wait_for_everyone()

    def restore(self) -> bool:
        """Load the newest usable resume state; False where there is none: training starts.

        From here on every device draws other numbers (its own dropout masks, say).
        """
        rank = self.accelerator.process_index
        found = read_state(self.run.work, self.fingerprint)
        if found is None:
            if rank:
                _seed(mixed(self.run.seed, rank))
            return False
        state, changed = found
        self.run.doubt(changed)
        for name, item in self._tracked.items():
            self._restore(item, state["objects"][name])
        self.step_count, self.epoch = state["step_count"], state["epoch"]
        self.history = state["history"]
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"][rank], self.device, self.run.rng)
        log.info("resumed at step %d", self.step_count)
        return True

    def _capture(self, item: Any) -> Any:
        plain = self._plain(item)
        if self._sharding:
            return self._sharding.full_state(plain, self._unwrap(plain))
        return plain.state_dict()

    def _restore(self, item: Any, state: Any) -> None:
        plain = self._plain(item)
        if self._sharding:
            self._sharding.set_full_state(plain, state, self._unwrap(plain))
        else:
            plain.load_state_dict(state)

    def _plain(self, item: Any) -> Any:
        """The model or optimiser inside accelerate's wrapper."""
        if isinstance(item, nn.Module):
            return self.accelerator.unwrap_model(item)
        return item.optimizer if isinstance(item, AcceleratedOptimizer) else item

    def _unwrap(self, item: Any) -> nn.Module | None:
        """The tracked model whose parameters an optimiser holds; None for what is no optimiser."""
        if not isinstance(item, torch.optim.Optimizer):
            return None
        held = {id(p) for group in item.param_groups for p in group["params"]}
        for model in self._tracked.values():
            if isinstance(model, nn.Module) and held & {id(p) for p in model.parameters()}:
                return model
        raise ValueError("an optimiser is tracked without its model; track both")

    def samples_per_s(self) -> float:
        """Throughput of training after warm-up."""
        return self._throughput.samples_per_s()

    def finish(self, model: nn.Module | None = None, name: str = "weights.safetensors") -> None:
        """Write final weights as an artifact if given, and let go.

        All processes must call it. Signals act as before, and processes talk no more.
        """
        if model is not None:
            weights = self._capture(model)
            if self.accelerator.is_main_process:
                # Clones: safetensors refuses tensors that share memory (tied weights).
                plain = {key: value.detach().cpu().clone() for key, value in weights.items()}
                plain = {key: value.contiguous() for key, value in plain.items()}
                save_file(plain, str(Path(self.run.path(name))))
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._part()

    def _part(self) -> None:
        """Leave the process group, together."""
        if self.world_size > 1:
            self.accelerator.wait_for_everyone()
            leave_process_group()
        self.accelerator.end_training()
        self._claim.close()


def _seed(seed: int) -> None:
    seed_python(seed)
    torch.manual_seed(seed)


def _sharding() -> ModuleType:
    """Imported where it is used alone: it takes as long as a third of torch."""
    from common.training import sharding

    return sharding


def _wants_cuda(settings: CoreSettings) -> bool:
    if settings.device == "cpu":
        return False
    # Lightning, once imported, has torch ask NVML, which counts GPUs that CUDA cannot use.
    with patch_environment(PYTORCH_NVML_BASED_CUDA_CHECK="0"):
        there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise InputError("device cuda: no GPU is visible; allowed here: auto, cpu")
    return there


def _precision(settings: CoreSettings, cuda: bool) -> str:
    if settings.precision == "auto":
        # Older GPUs (a T4) emulate bf16 on fp32, which is slower and less exact than fp32 itself.
        bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if bf16 else "fp32"
    if settings.precision == "fp16" and not cuda:
        raise InputError("precision fp16: needs a GPU; allowed on a CPU: auto, fp32, bf16")
    if settings.precision == "fp16" and settings.strategy == "fsdp":
        raise InputError("precision fp16: not with strategy fsdp; allowed: auto, fp32, bf16")
    return settings.precision
