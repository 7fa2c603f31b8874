"""A Lightning module and Trainer that log per-sample gradients and score samples.

::

    Module, Trainer = patch(MyModule, lightning.Trainer, LogIXArguments("valuation", "network"))
    module = Module()
    trainer = Trainer(accelerator="cpu", max_epochs=1)
    trainer.extract_log(module, train_loader)
    scores = trainer.influence(module, query_loader)

Lightning moves batches, sets precision and runs ``training_step``; no optimiser steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from common.errors import InputError
from papers.logra.checks.sample_batches import rows_in, take_samples
from papers.logra.scoring.influence import Log, Scores, SelfScores, merge_logs
from papers.logra.session.data_ids import DataIDGenerator
from papers.logra.session.scheduler import LogIXScheduler
from papers.logra.trainers import trainer_passes
from papers.logra.trainers.loss_reduction import Example
from papers.logra.trainers.trainer_passes import TrainerPasses, evaluating

Extractor = Callable[[Any], Any]


class LogIXArguments(trainer_passes.LogIXArguments):
    """How a Trainer logs and scores."""

    model_key: str  # the module's attribute whose layers are watched


def patch(
    module_class: type[Any],
    trainer_class: type[Any],
    logix_args: LogIXArguments,
    data_id_extractor: Extractor | None = None,
    mask_extractor: Extractor | None = None,
    terms_extractor: Extractor | None = None,
) -> tuple[type[Any], type[Any]]:
    """Both classes, the Trainer with ``extract_log``, ``influence`` and ``self_influence``.

    Args:
        module_class: whose ``training_step`` returns the loss, or a mapping with ``loss``.
        trainer_class: the Trainer.
        logix_args: how.
        data_id_extractor: ids of a batch; by default a hash of its tensors.
        mask_extractor: the (n, t) mask of a batch's tokens, if it has one.
        terms_extractor: how many terms of a batch a mean loss is over, where these are not its
            samples but, say, its labels that are not ignored.
    """
    over = "samples" if terms_extractor is None else "what terms_extractor counts"
    hashed = DataIDGenerator()

    def name_samples(batch: Any) -> list[str]:
        if data_id_extractor is not None:
            return list(data_id_extractor(batch))
        parts = batch.values() if isinstance(batch, Mapping) else batch
        tensors: list[Any] = [part for part in parts if isinstance(part, Tensor)]
        return hashed(*tensors)

    class LogIXModule(module_class):  # type: ignore[misc]
        #: Set while a LogIXTrainer goes through the data.
        logging_with: TrainerPasses | None = None
        seen: Callable[[Log], None]

        def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
            if self.logging_with is None:
                return super().training_step(batch, *args, **kwargs)
            _require_all_samples(self.trainer)
            passes, ids = self.logging_with, name_samples(batch)
            if passes.run.has_logged(ids):
                return None
            step = super().training_step

            def example(batch: Any) -> Example:
                def backward() -> None:
                    found = step(batch, *args, **kwargs)
                    self.manual_backward(found["loss"] if isinstance(found, Mapping) else found)

                def part(places: Sequence[int]) -> Example | None:
                    found = take_samples(batch, places, rows_in(batch))
                    return None if found is None else example(found)

                rows = rows_in(batch)
                terms = rows if terms_extractor is None else int(terms_extractor(batch))
                return Example([""] * rows, None, terms, backward, part)

            mask = None if mask_extractor is None else mask_extractor(batch)
            given = example(batch)._replace(ids=ids, mask=mask)
            with passes.logged(given, _loss_scale(self.trainer)):
                given.backward()
            self.seen(passes.run.get_log())
            return None

        def configure_optimizers(self) -> Any:
            return None if self.logging_with is not None else super().configure_optimizers()

    class LogIXTrainer(trainer_class):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Nothing is trained, so there is nothing to validate, keep or report.
            quiet = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
            super().__init__(*args, **(kwargs | quiet))
            self._passes: TrainerPasses | None = None

        @property
        def logix(self) -> Any:
            """The run; there once a module was given."""
            if self._passes is None:
                raise InputError("no module was logged or scored; allowed: after extract_log")
            return self._passes.run

        def extract_log(self, module: Any, train_dataloaders: Any) -> None:
            """Log and store all samples. Raises InputError where the loader leaves some out."""
            passes = self._find_passes(module)
            scheduler = LogIXScheduler(
                passes.run, logix_args.lora, logix_args.hessian, logix_args.save
            )
            for _ in scheduler:
                self._through(module, train_dataloaders, lambda _log: None)
            passes.run.finalize()

        def influence(self, module: Any, train_dataloaders: Any) -> Scores:
            """Scores of what is stored for the queries that the loader gives."""
            logs = self._looked_at(module, train_dataloaders)
            return self._find_passes(module).scores(merge_logs(logs))

        def self_influence(self, module: Any, train_dataloaders: Any) -> SelfScores:
            """Self-influence of the samples that the loader gives."""
            logs = self._looked_at(module, train_dataloaders)
            return self._find_passes(module).self_scores(merge_logs(logs))

        def _looked_at(self, module: Any, loaders: Any) -> list[Log]:
            logs: list[Log] = []
            self._find_passes(module).only_look()
            self._through(module, loaders, logs.append)
            return logs

        def _find_passes(self, module: Any) -> TrainerPasses:
            model = getattr(module, logix_args.model_key, None)
            if model is None:
                raise InputError(
                    f"model_key {logix_args.model_key!r}: the module has no such attribute;"
                    f" allowed: {', '.join(name for name, _ in module.named_children())}"
                )
            if self._passes is None or self._passes.model is not model:
                self._passes = TrainerPasses(
                    model,
                    logix_args,
                    over=over,
                    allowed="terms_extractor of patch(...), which counts what the mean is over",
                )
            return self._passes

        def _through(self, module: Any, loaders: Any, seen: Callable[[Log], None]) -> None:
            """One epoch of Lightning's over the data, in evaluation mode and without a step."""
            automatic = module.automatic_optimization
            module.logging_with, module.seen = self._passes, seen
            module.automatic_optimization = False
            # It counts epochs over all calls.
            self.fit_loop.max_epochs = self.fit_loop.epoch_progress.current.processed + 1
            try:
                with evaluating(module):
                    self.fit(module, loaders)
            finally:
                module.logging_with = None
                module.automatic_optimization = automatic

    LogIXModule.__name__ = f"LogIX{module_class.__name__}"
    LogIXTrainer.__name__ = f"LogIX{trainer_class.__name__}"
    return LogIXModule, LogIXTrainer


def _require_all_samples(trainer: Any) -> None:
    """Raises InputError unless Lightning goes through each sample of its loader, once."""
    loader, batches = trainer.train_dataloader, trainer.num_training_batches
    if isinstance(loader, DataLoader):
        if getattr(loader.batch_sampler, "drop_last", loader.drop_last):
            raise InputError(
                "drop_last=True of the loader, which leaves samples out; allowed: drop_last=False"
            )
        sampler = loader.sampler
        if isinstance(sampler, DistributedSampler):
            whole = len(sampler.dataset)  # type: ignore[arg-type]
            if sampler.total_size != whole:
                raise InputError(
                    f"a DistributedSampler that gives {sampler.total_size} of {whole} samples to"
                    f" {sampler.num_replicas} processes; allowed: as many as there are, so a number"
                    " of samples that processes can share evenly"
                )
    try:
        there = len(loader)
    except TypeError:  # of unknown length
        return
    if batches < there:
        raise InputError(
            f"{batches} of the loader's {there} batches, by limit_train_batches, overfit_batches or"
            " fast_dev_run of the Trainer; allowed: all, or a loader of fewer samples"
        )


def _loss_scale(trainer: Any) -> float:
    """What mixed precision multiplies losses by."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
