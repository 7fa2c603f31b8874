"""A small training program on the core, run in processes of its own by the tests.

``python -m tests.common.training.core_program JSON`` with the keys out, work, settings, seed,
interrupt.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from common.experiments.schema import RunKey
from common.experiments.settings import Settings
from common.runs.cli import guarded
from common.runs.run import Run
from common.training import Core, CoreSettings

SAMPLES, FEATURES, CLASSES = 53, 6, 3


class ProgramSettings(Settings):
    """Settings of the program."""

    core: CoreSettings = CoreSettings(global_batch_size=8)
    epochs: int = 3
    dropout: float = 0.0
    noisy: bool = False


class Classification(Dataset[Any]):
    """Fixed inputs (53, 6) and labels; noise from every global generator, as augmentation draws."""

    def __init__(self, noisy: bool) -> None:
        self.inputs = torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(7))
        self.labels, self.noisy = self.inputs[:, :CLASSES].argmax(1), noisy

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        inputs = self.inputs[index]
        if self.noisy:
            shift = random.gauss(0, 1) + np.random.standard_normal()
            inputs = inputs + 0.1 * (torch.randn(FEATURES) + shift)
        return inputs, self.labels[index]


class Net(nn.Module):
    """Blocks in a list, so that FSDP has something to gather one at a time."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(FEATURES, 8), nn.Linear(8, 5)])
        self.head = nn.Linear(5, CLASSES)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            inputs = self.dropout(torch.tanh(block(inputs)))
        output: torch.Tensor = self.head(inputs)
        return output


class Interrupt(Settings):
    """Send ``signal`` to process ``rank`` in the middle of step ``step``."""

    step: int = -1
    signal: int = signal.SIGKILL
    rank: str = "0"

    def act(self, step: int) -> None:
        """Send it where it is due."""
        if step == self.step and os.environ.get("RANK", "0") == self.rank:
            os.kill(os.getpid(), self.signal)


def train(settings: ProgramSettings, run: Run, interrupt: Interrupt) -> dict[str, float]:
    """Train, evaluate after each epoch, leave history and weights."""
    core = Core(settings.core, run)
    noisy, plain = Classification(settings.noisy), Classification(noisy=False)
    loader = core.loader(noisy)
    model: nn.Module = Net(settings.dropout)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05, **core.fused)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + 0.1 * step))
    model, optimiser = core.prepare(model, optimiser)
    core.track(model=model, optimiser=optimiser, scheduler=scheduler)
    for epoch, batches in core.epochs(loader, settings.epochs):
        model.train()
        for inputs, labels in batches:
            with core.accumulate(model):
                core.backward(nn.functional.cross_entropy(model(inputs), labels))
            interrupt.act(core.step_count)
            core.step(model, optimiser, scheduler)
        model.eval()
        with torch.no_grad():
            pairs = [
                core.gather((model(inputs), labels))
                for inputs, labels in core.evaluation_loader(plain, 8)
            ]
        logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        loss = nn.functional.cross_entropy(logits, labels)
        core.log_metrics(
            epoch=epoch,
            samples=len(labels),
            ordered=torch.equal(labels.cpu(), plain.labels),
            loss=loss.item(),
            lr=float(scheduler.get_last_lr()[0]),
            draw=run.rng.random(),
            last_device_draw=core.gather(torch.rand(1)).tolist()[-1],
        )
    run.write_json("history.json", core.history)
    core.finish(model)
    return {"loss": core.history[-1]["loss"], "steps": core.step_count}


def main() -> None:
    """Run the program as its first argument, JSON, says."""
    torch.set_num_threads(1)
    options = json.loads(sys.argv[1])
    settings = ProgramSettings.model_validate(options["settings"])
    key = RunKey("test", "core", "case", "arm", options.get("seed", 3), "smoke")
    with Run(key, "core", settings, Path(options["out"]), Path(options["work"])) as run:
        interrupt = Interrupt.model_validate(options.get("interrupt", {}))
        run.finish(train(settings, run, interrupt))


if __name__ == "__main__":
    guarded(main)
