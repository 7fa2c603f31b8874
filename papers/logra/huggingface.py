"""A Hugging Face Trainer that logs per-sample gradients and scores samples.

::

    LograTrainer = patch_trainer(transformers.Trainer)
    trainer = LograTrainer(LogIXArguments(project="valuation", lora="random"), model=model, ...)
    trainer.extract_log()           # of train_dataset
    scores = trainer.influence(queries)

Models on one device or under DistributedDataParallel; each process takes its share of the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor

from common.errors import InputError
from papers.logra.checks.sample_batches import rows_in, take_samples
from papers.logra.scoring.influence import Scores, SelfScores
from papers.logra.session.data_ids import DataIDGenerator
from papers.logra.trainers import trainer_passes
from papers.logra.trainers.loss_reduction import Example
from papers.logra.trainers.trainer_passes import TrainerPasses


class LogIXArguments(trainer_passes.LogIXArguments):
    """How a Trainer logs and scores, and what its batches call things."""

    input_key: str = "input_ids"
    label_key: str = "labels"
    attention_key: str = "attention_mask"
    ignore_idx: int = -100
    data_id: Literal["detokenize", "hash", "index"] = "hash"


def patch_trainer(trainer_class: type[Any]) -> type[Any]:
    """``trainer_class`` with ``extract_log``, ``influence`` and ``self_influence``.

    Its first argument is a :class:`LogIXArguments`; the model stays as it is, and ``train`` still
    trains it. The three go through all samples in their order, in evaluation mode, whatever
    ``dataloader_drop_last`` says.
    """

    class LogIXTrainer(trainer_class):  # type: ignore[misc]
        def __init__(self, logix_args: LogIXArguments, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if logix_args.data_id == "detokenize" and self.processing_class is None:
                raise InputError(
                    "data_id 'detokenize' without a tokenizer; allowed: processing_class, or"
                    " 'hash' or 'index'"
                )
            self.logix_args = logix_args
            self.passes = TrainerPasses(
                self.model,
                logix_args,
                over=f"labels other than {logix_args.ignore_idx}",
                allowed="a loss that is a sum or a mean over the batch, and label_key and"
                " ignore_idx as it has them",
            )
            self.logix = self.passes.run

        def extract_log(self, dataset: Any = None) -> None:
            """Log and store ``dataset``, by default the training set."""
            self.passes.extract_log(partial(self._examples, dataset))

        def influence(self, dataset: Any = None) -> Scores:
            """Scores of what is stored for the queries in ``dataset``, by default the training
            set's place."""
            return self.passes.influence(partial(self._examples, dataset))

        def self_influence(self, dataset: Any = None) -> SelfScores:
            """Self-influence of the samples of ``dataset``, by default of the training set."""
            return self.passes.self_influence(partial(self._examples, dataset))

        def _examples(self, dataset: Any) -> Iterator[Example]:
            arguments, name = self.logix_args, _model_name(self)
            ids = _ids(arguments, self.processing_class)
            model = self.model.to(self.args.device)

            def example(inputs: dict[str, Any]) -> Example:
                def backward() -> None:
                    with self.accelerator.autocast():
                        # A copy, for label smoothing takes labels out of it.
                        loss = self.compute_loss(model, dict(inputs))
                    loss.backward()

                def part(places: Sequence[int]) -> Example | None:
                    found = take_samples(inputs, places, rows_in(inputs))
                    return None if found is None else example(found)

                labels = inputs.get(arguments.label_key)
                mask = inputs.get(arguments.attention_key)
                terms = _terms(labels, arguments.ignore_idx, name)
                return Example(
                    [""] * rows_in(inputs),
                    mask,
                    rows_in(inputs) if terms is None else terms,
                    backward,
                    part,
                )

            for batch in self._in_order(self.train_dataset if dataset is None else dataset):
                inputs = self._prepare_inputs(batch)
                yield example(inputs)._replace(ids=ids(inputs))

        def _in_order(self, dataset: Any) -> Any:
            """Batches of a process's samples, each of them and none twice."""
            before = self.accelerator.even_batches, self.args.dataloader_drop_last
            self.accelerator.even_batches = self.args.dataloader_drop_last = False
            try:
                return self.get_test_dataloader(dataset)
            finally:
                self.accelerator.even_batches, self.args.dataloader_drop_last = before

    LogIXTrainer.__name__ = f"LogIX{trainer_class.__name__}"
    return LogIXTrainer


def _model_name(trainer: Any) -> str:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return str(getattr(getattr(model, "base_model", None), "model", model)._get_name())


def _terms(labels: Tensor | None, ignored: int, model_name: str) -> int | None:
    """Labels that a mean loss is over; a causal language model predicts none from before."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if labels is None:
        return None
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    counted = labels[:, 1:] if model_name in causal else labels
    return int((counted != ignored).sum())


def _ids(arguments: LogIXArguments, tokenizer: Any) -> Callable[[dict[str, Any]], list[str]]:
    """What samples are called."""
    if arguments.data_id == "detokenize":

        def decoded(inputs: dict[str, Any]) -> list[str]:
            pieces = inputs[arguments.input_key]
            return list(tokenizer.batch_decode(pieces, skip_special_tokens=True))

        return decoded
    generator = DataIDGenerator(arguments.data_id)

    def generated(inputs: dict[str, Any]) -> list[str]:
        # Equal inputs with other labels are other samples.
        parts = [inputs[k] for k in (arguments.input_key, arguments.label_key) if k in inputs]
        return generator(*parts)

    return generated
