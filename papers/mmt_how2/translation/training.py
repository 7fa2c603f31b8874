"""Training of a translation model through fairseq, in this process and from plain settings."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import InputError
from common.progress import Progress
from papers.mmt_how2.translation.configuration import configuration
from papers.mmt_how2.translation.fairseq_start import old_calls, start_fairseq
from papers.mmt_how2.translation.training_folder import (
    Epoch,
    best_path,
    epoch_path,
    last_path,
    prepare_folder,
    save_epoch,
    training_fingerprint,
)
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel


class Training(NamedTuple):
    """A finished training.

    Attributes:
        best: checkpoint of the lowest validation loss; ``last`` of the last epoch.
        history: all epochs, those before a resume included.
        parameters: number of trained parameters.
        resumed: epochs that were taken from an earlier, interrupted training.
        kept: checkpoints of the last epochs, if some were to be kept; the oldest first.
    """

    best: Path
    last: Path
    history: list[Epoch]
    parameters: int
    resumed: int
    kept: tuple[Path, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Target tokens trained on in a second of wall time."""
        return sum(e.tokens for e in self.history) / sum(e.wall_s for e in self.history)

    @property
    def best_epoch(self) -> Epoch:
        """The epoch of the checkpoint ``best``."""
        return min(self.history, key=lambda epoch: epoch.valid_loss)


@old_calls()
def train(
    data: Path,
    work: Path,
    model: TranslationModel,
    schedule: Schedule,
    seed: int,
    visual: Path | None = None,
    progress: Progress | None = None,
    keep: int = 0,
) -> Training:
    """Train on ``train``, choose by ``valid``, and keep fairseq's checkpoints in ``work``.

    A training that was killed goes on after its last whole epoch; one of other settings, data,
    pictures or seed in ``work`` is thrown away.

    Args:
        data: folder of fairseq-preprocess, or of :func:`~.binarised_text.binarise`.
        visual: folder of ``train.npy`` and ``valid.npy``.
        keep: of so many last epochs the checkpoints stay, to be averaged
            (:func:`~.checkpoint_averaging.average_checkpoints`).

    Raises:
        InputError: settings, text or features are unusable.
    """
    start_fairseq()
    config = configuration(data, work, model, schedule, seed, visual)
    trainer = make_trainer(config)
    for split in ("train", "valid"):
        trainer.task.load_dataset(split)
    # This comes late: an earlier training is not thrown away for a file that is not usable.
    prepare_folder(work, training_fingerprint(data, model, schedule, seed, visual))
    history, batches = restored(config, trainer)
    valid = trainer.get_valid_iterator("valid")
    resumed = len(history)
    bar = progress(schedule.epochs, "train", "epoch") if progress else None
    if bar:
        bar.update(resumed)
    while len(history) < schedule.epochs and not out_of_patience(history, schedule.patience):
        history.append(one_epoch(trainer, batches, valid))
        # The checkpoint comes after it and so holds the rate that the next epoch learns with.
        trainer.lr_step(batches.epoch, history[-1].valid_loss)
        save_epoch(trainer, batches, work, history, keep)
        if bar:
            bar.update(1)
            bar.set_postfix(valid=history[-1].valid_loss)
        batches = trainer.get_train_iterator(batches.next_epoch_idx, load_dataset=False)
    if bar:
        bar.close()
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    newest = [epoch_path(work, epoch.epoch) for epoch in history[-keep:]] if keep else []
    kept = tuple(path for path in newest if path.exists())
    return Training(best_path(work), last_path(work), history, parameters, resumed, kept)


def restored(config: Any, trainer: Any) -> tuple[list[Epoch], Any]:
    """Epochs that ``trainer`` goes on after, once it is as its checkpoint left it; and batches.

    Where there is none yet, it has the parameters of the option ``finetune_from_model``, if one is
    given, and no epochs.

    Raises:
        InputError: the model to start from is absent or does not fit.
    """
    from fairseq import checkpoint_utils

    start = config.checkpoint.finetune_from_model
    going_on = last_path(Path(config.checkpoint.save_dir)).exists()
    try:
        extra, batches = checkpoint_utils.load_checkpoint(config.checkpoint, trainer)
    except InputError:
        raise
    except Exception as error:  # The file leads fairseq to any.
        if start is None or going_on:
            raise
        reason = " ".join(str(error.__context__ or error).split())[:300]
        raise InputError(f"finetune_from_model {start}: cannot be loaded ({reason})") from None
    if extra is None or (start is not None and not going_on):
        return [], batches
    return [Epoch(*values) for values in extra.get("history", ())], batches


def make_trainer(config: Any) -> Any:
    """fairseq's trainer of a new model, for a configuration of :func:`configuration`."""
    from fairseq import tasks, utils
    from fairseq.logging import metrics
    from fairseq.trainer import Trainer

    metrics.reset()
    utils.set_torch_seed(config.common.seed)
    task = tasks.setup_task(config.task)
    trainer = Trainer(
        config, task, task.build_model(config.model), task.build_criterion(config.criterion)
    )
    if not trainer.cuda:
        trainer._set_seed = partial(seed_update, trainer)
    return trainer


def seed_update(trainer: Any) -> None:
    """Seed the next update as fairseq does, on the CPU alone.

    Where no GPU is in use, torch notes every seed for later with the stack of who gave it: a tenth
    of the time of a small model's update.
    """
    import torch

    torch.default_generator.manual_seed(trainer.cfg.common.seed + trainer.get_num_updates())


def one_epoch(trainer: Any, batches: Any, valid: Any) -> Epoch:
    """Train for an epoch of ``batches`` and validate on those of ``valid``."""
    from fairseq.data import iterators
    from fairseq.logging import metrics

    wall, cpu = time.perf_counter(), time.process_time()
    tokens = 0
    with metrics.aggregate(new_root=True) as trained:
        stream = iterators.GroupedIterator(batches.next_epoch_itr(shuffle=True), 1)
        trainer.begin_epoch(batches.epoch)
        for samples in stream:
            tokens += sum(sample["ntokens"] for sample in samples)
            trainer.train_step(samples)
    if trainer.cuda:
        import torch

        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    with metrics.aggregate(new_root=True) as validated:
        trainer.begin_valid_epoch(batches.epoch)
        for sample in valid.next_epoch_itr(shuffle=False, set_dataset_epoch=False):
            trainer.valid_step(sample)
    values = validated.get_smoothed_values()
    return Epoch(
        epoch=batches.epoch,
        updates=trainer.get_num_updates(),
        train_loss=float(trained.get_smoothed_values()["loss"]),
        valid_loss=float(values["loss"]),
        valid_nll=float(values.get("nll_loss", values["loss"])),
        tokens=int(tokens),
        wall_s=wall,
        cpu_s=cpu,
    )


def out_of_patience(history: list[Epoch], patience: int | None) -> bool:
    """Whether the last ``patience`` epochs brought no better validation loss."""
    if not history or patience is None:
        return False
    losses = [epoch.valid_loss for epoch in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience
