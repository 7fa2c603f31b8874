"""The classifier that images are judged by: trained once, read by all runs of ``images``."""

from __future__ import annotations

import torch
from pydantic import Field
from torch.nn.functional import cross_entropy

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.batches import Batches
from common.tasks.scores import accuracy
from common.training import Core, CoreSettings
from papers.okgan.tasks.image_networks import Reader
from papers.okgan.tasks.images import SetName, in_floats, load_images

#: The artifact with the weights.
WEIGHTS = "reader.pt"


class ReaderSettings(Settings):
    """Data, network and training."""

    core: CoreSettings = CoreSettings(device="cpu", global_batch_size=128)
    data_root: str | None = None
    data: SetName
    widths: tuple[int, ...] = Field((16, 32, 64), description="channels of its convolutions")
    steps: int = Field(gt=0)
    lr: float = Field(3e-3, gt=0, description="falls to 0 in a half cosine")


def run_reader(settings: ReaderSettings, run: Run) -> dict[str, float]:
    """Train by Adam, and return accuracy on held-out images (%)."""
    from pathlib import Path

    core = Core(settings.core, run)
    root = Path(settings.data_root) if settings.data_root else None
    images = load_images(settings.data, root, run)
    channels, side, _ = images.shape
    reader = Reader(channels, side, settings.widths, int(images.train_labels.max()) + 1)
    optimizer = torch.optim.Adam(reader.parameters(), settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    size = settings.core.global_batch_size
    loader = Batches(images.train, images.train_labels, size=size, seed=run.seed)
    core.track(reader=reader, optimizer=optimizer, schedule=schedule, loader=loader)
    core.restore()
    with run.progress(settings.steps, "steps", "") as bar:
        while core.step_count < settings.steps:
            for x, y in loader:
                loss = cross_entropy(reader(in_floats(x)), y)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                bar.update(1)
                core.completed_step()
                if core.step_count == settings.steps:
                    break
    reader.eval()
    with torch.no_grad():
        found = accuracy(
            torch.cat([reader(in_floats(x)) for x in torch.split(images.test, 1000)]),
            images.test_labels,
        )
    torch.save(reader.state_dict(), run.path(WEIGHTS))
    core.finish()
    return {"accuracy_pct": found}


PROGRAM = Program(ReaderSettings, run_reader)
