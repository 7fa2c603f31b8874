"""The folder of a training: its checkpoints, and of which training they are."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError
from common.runs.files import file_sha256
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel

log = logging.getLogger("mmt_how2.training")


class Epoch(NamedTuple):
    """What one epoch measured; losses are in bits a target token."""

    epoch: int
    updates: int
    train_loss: float
    valid_loss: float
    valid_nll: float
    tokens: int
    wall_s: float
    cpu_s: float


def save_epoch(trainer: Any, batches: Any, work: Path, history: list[Epoch], keep: int = 0) -> None:
    """Write the checkpoint of this epoch, as the best one too if it is; each by one rename.

    Of the last ``keep`` epochs it stays under the epoch's name, too.
    """
    losses = [epoch.valid_loss for epoch in history]
    extra = {
        "train_iterator": batches.state_dict(),
        "val_loss": losses[-1],
        "best": min(losses),
        "history": [list(epoch) for epoch in history],
        **trainer.task.get_checkpoint_dict(),
    }
    trainer.consolidate_optimizer()
    written = work / ".checkpoint.partial"
    trainer.save_checkpoint(str(written), extra)
    copies = [best_path(work)] if losses[-1] <= min(losses) else []
    copies += [epoch_path(work, history[-1].epoch)] if keep else []
    for path in copies:
        partial = path.with_name(f".{path.name}.partial")
        shutil.copyfile(written, partial)
        partial.replace(path)
    # The last one comes last: killed before it is there, the epoch is trained and written again.
    written.replace(last_path(work))
    if keep:
        epoch_path(work, history[-1].epoch - keep).unlink(missing_ok=True)


def best_path(work: Path) -> Path:
    """fairseq's name of the checkpoint with the lowest validation loss."""
    return work / "checkpoint_best.pt"


def last_path(work: Path) -> Path:
    """fairseq's name of the newest checkpoint."""
    return work / "checkpoint_last.pt"


def epoch_path(work: Path, epoch: int) -> Path:
    """fairseq's name of an epoch's checkpoint."""
    return work / f"checkpoint{epoch}.pt"


def prepare_folder(work: Path, fingerprint: str) -> None:
    """Make ``work`` ready for a training: checkpoints of another one in it are removed."""
    work.mkdir(parents=True, exist_ok=True)
    note = work / "training.json"
    with suppress(FileNotFoundError, ValueError):
        if json.loads(note.read_text(encoding="utf8")) == fingerprint:
            return
    for path in sorted(work.glob("checkpoint*.pt")):
        log.warning("%s: of another training; removed", path)
        path.unlink()
    note.write_text(json.dumps(fingerprint), encoding="utf8")


def training_fingerprint(
    data: Path,
    model: TranslationModel,
    schedule: Schedule,
    seed: int,
    visual: Path | None = None,
) -> str:
    """SHA-256 of what a training is a function of: settings, seed, and contents of files.

    Files are those of the text, of the pictures where the model reads some, and those that options
    name, such as word vectors.

    Raises:
        InputError: a file of pictures is absent.
    """
    lengthening = {"epochs", "patience"}  # A longer training may go on from a shorter.
    digest = hashlib.sha256(
        json.dumps(
            [model.model_dump(), schedule.model_dump(exclude=lengthening), seed], sort_keys=True
        ).encode()
    )
    files = sorted([*data.glob("dict.*.txt"), *data.glob("train.*"), *data.glob("valid.*")])
    if visual is not None and model.reads_pictures:
        files += [visual / "train.npy", visual / "valid.npy"]
    files += [
        Path(value)
        for _, value in sorted(model.options.items())
        if isinstance(value, str) and Path(value).is_file()
    ]
    for path in files:
        if not path.is_file():
            raise InputError(f"{path}: no such file; one row of numbers for each sentence")
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
