"""A run: what a program logs of its model, where it is kept, and what it is asked for.

Answers to the calls of LogIX 0.1.1 (Choe et al. 2024), so that a program changes its import alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.errors import InputError
from papers.logra.configs import (
    Config,
    LoggingConfig,
    LoRAConfig,
    plugins_of,
    read_config,
)
from papers.logra.data_ids import ids_of
from papers.logra.influence import Influence, Log, Scores, SelfScores
from papers.logra.layout import Layout
from papers.logra.log_folder import LogFolder, NestedRows, in_any_process
from papers.logra.log_store import Rows
from papers.logra.logged_batch import LoggedBatch
from papers.logra.moments import Statistics
from papers.logra.progress import Progress
from papers.logra.projections import Projections
from papers.logra.watched_model import Filters, Names, Types, WatchedModel, new_projections


class LogIX:
    """Logs a model's per-sample gradients batch by batch, and scores samples by their influence.

    Args:
        project: name of the folder, in the configuration's ``root_dir``.
        config: a YAML file; by default all settings have their defaults.
        logging_config: instead of the file's.
        resume: go on where the same program was killed, if it was: it gives all batches again, in
            the same order, and what is there already is left out. See :meth:`has_logged`. One
            process alone. What it takes in the folder, ``resume/``, may be removed when all is
            done.

    Raises:
        InputError: a file that is missing, or a key or value that is not allowed.
    """

    def __init__(
        self,
        project: str,
        config: Path | str | None = None,
        logging_config: LoggingConfig | None = None,
        resume: bool = False,
    ) -> None:
        self.project = project
        self.config = Config() if config is None else read_config(config)
        if logging_config is not None:
            self.config = self.config.model_copy(update={"logging": logging_config})
        self.folder = LogFolder(self.config.root_dir / project)
        seconds = self.config.logging.checkpoint_seconds
        self._progress = Progress(self.folder.path / "resume", seconds) if resume else None
        self.projections: Projections | None = None
        self.statistics = Statistics(device=self.config.logging.statistics_device)
        self._filters = Filters()
        self._watched: WatchedModel | None = None
        self._logged: frozenset[str] = frozenset({"grad"})
        self.saving, self._gathering = False, True
        self._influence: Influence | None = None
        self._begin_asked: Callable[[], None] | None = None
        self._open: LoggedBatch | None = None
        self._log: Log | None = None

    # What is watched

    def watch(
        self,
        model: nn.Module,
        type_filter: Types | None = None,
        name_filter: Names | None = None,
    ) -> None:
        """Watch layers of a model, as :func:`papers.logra.watching.watched` finds them.

        Filters hold until others are given. After :meth:`add_lora` only layers with a projection
        are watched. The model is not changed, but no parameter gets a gradient in a logged batch.

        Raises:
            InputError: no layer passes the filters.
        """
        self._filters.update(type_filter, name_filter)
        self._watched = WatchedModel(model, self._filters.layers(model), self.projections)
        self._influence = None

    def add_lora(
        self,
        watch: bool = True,
        clear: bool = True,
        type_filter: Types | None = None,
        name_filter: Names | None = None,
        lora_path: Path | str | None = None,
        lora_config: LoRAConfig | None = None,
    ) -> None:
        """Project gradients of the watched layers by P_i and P_o from now on.

        Args:
            watch: False to begin at the next :meth:`watch` instead.
            clear: forget statistics; always if ``watch``, for they are of whole gradients.
            type_filter, name_filter: of the layers to project and watch, as :meth:`watch`.
            lora_path: a run's folder whose projections to take instead of new ones.
            lora_config: instead of the configuration's.

        Raises:
            InputError: no model is watched, or PCA without covariances of inputs and output
                gradients.
        """
        if lora_config is not None:
            self.set_lora_config(lora_config)
        model = self._model().model
        self._filters.update(type_filter, name_filter)
        if lora_path is not None:
            self.projections = LogFolder(Path(lora_path)).read_projections()
        else:
            self.statistics.all_reduce()
            layers = self._filters.layers(model)
            self.projections = new_projections(layers, self.config.lora, self.statistics)
        if watch or clear:
            self.clear()
        if watch:
            self.watch(model)

    def watch_activation(self, tensor_dict: Mapping[str, Tensor]) -> None:
        """Log tensors of the forward pass too, within a batch: what ``setup`` logs of layers.

        Raises:
            InputError: no batch is open.
        """
        if self._open is None:
            raise InputError("watch_activation outside of a batch; allowed: in its with block")
        for name, tensor in tensor_dict.items():
            self._open.activations.of_tensor(name, tensor)

    def setup(self, log_option_kwargs: Mapping[str, Sequence[str]]) -> None:
        """What to take of each batch from now on; what was gathered before stays.

        Args:
            log_option_kwargs: for ``forward``, ``backward`` and ``grad`` a list of ``log``, to
                have them in :meth:`get_log`, and of ``mean``, ``variance``, ``covariance`` and
                (of ``grad``) ``corrected_eigval``, to gather statistics.

        Raises:
            InputError: another key or value.
        """
        moments, logged = plugins_of(log_option_kwargs)
        self._end_pass()
        self.statistics.collect(moments)  # which refuses unknown ones before anything changes
        self._logged = logged
        self._gathering = True

    def save(self, enable: bool = True) -> None:
        """Store gradients of the batches to come, or stop it."""
        self.saving = enable
        self._gathering |= enable

    def eval(self) -> None:
        """Only look from now on: batches are neither stored nor added to statistics."""
        self.saving = self._gathering = False

    def clear(self) -> None:
        """Forget all statistics, the last log and a batch that is open; what is stored stays."""
        batch, self._open = self._open, None
        if batch is not None:
            batch.close(InputError, InputError("the batch was abandoned"))
        self._end_pass()
        self.statistics.clear()
        self._gathering, self._log = True, None

    # Batches

    def has_logged(self, data_id: Iterable[Any], save: bool = False) -> bool:
        """Whether the next batch needs no computing, for it was logged before a kill.

        ::

            run = LogIX("project", resume=True)
            ...
            for ids, inputs, targets in loader:
                if run.has_logged(ids):
                    continue
                with run(data_id=ids):
                    loss(model(inputs), targets).backward()

        Without this question the batch is computed again and nothing of it is logged twice.

        Args:
            data_id, save: as of the call.

        Raises:
            InputError: batches are not those of before, or of another model or other settings.
        """
        saves = save or self.saving
        if self._progress is None or not (self._gathering or saves):
            return False
        ids = ids_of(data_id)
        progress = self._begin_pass()
        if not progress.is_counted:
            return False
        rows = len(ids) if saves and not progress.is_failed else 0
        if rows:
            if not self.folder.is_writing:
                self._begin_log()
            if progress.rows + rows > self.folder.rows:
                return False
        progress.count(ids, rows, failed=progress.is_failed)
        return True

    def __call__(
        self,
        data_id: Iterable[Any],
        mask: Tensor | None = None,
        save: bool = False,
        loss_scale: float = 1.0,
    ) -> Self:
        """A batch for a ``with`` block, in which its loss is computed and differentiated.

        The loss is a sum over samples and over their tokens.

        Args:
            data_id: what each sample is called; may repeat. Numbers are taken as text, tensors
                of several numbers by their hash.
            mask: (n, t), tokens that count in forward and backward statistics.
            save: store this batch's gradients whatever :meth:`save` said.
            loss_scale: what the loss was multiplied by: a GradScaler's scale, or 1 / n of a loss
                that is a mean over n samples.
        """
        self._begin_asked = partial(self._begin, data_id, mask, loss_scale, save)
        return self

    def __enter__(self) -> Self:
        begin, self._begin_asked = self._begin_asked, None
        if begin is None:
            raise InputError("a batch without data_id; allowed: with run(data_id=...)")
        begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        batch, self._open = self._open, None
        if batch is not None:  # not ended by hand within the block
            self._close(batch, kind, error, trace)

    def start(
        self, data_id: Iterable[Any], mask: Tensor | None = None, loss_scale: float = 1.0
    ) -> None:
        """Begin a batch where a ``with`` block does not fit; arguments as of the call.

        Raises:
            InputError: a batch is open, or no model is watched.
        """
        self._begin(data_id, mask, loss_scale)

    def end(self, save: bool = False) -> None:
        """End the batch that :meth:`start` began; ``save`` as of the call.

        Raises:
            InputError: no batch is open, or it was not as a batch must be.
        """
        batch, self._open = self._open, None
        if batch is None:
            raise InputError("end without start; allowed: start before")
        batch.saves |= save
        self._close(batch)

    def get_log(self, copy: bool = False) -> Log:
        """The last batch: its ids and ``{layer: {"grad": (n, out, inner)}}``.

        Nothing that comes later changes it.

        Args:
            copy: another copy for each call, for those who change what they get.

        Raises:
            InputError: no batch was logged.
        """
        if self._log is None:
            raise InputError("no log; allowed: after a batch has ended")
        return deepcopy(self._log) if copy else self._log

    # What is kept

    def finalize(self) -> None:
        """End the logging: sum statistics over processes, write all to the run's folder.

        Batches that follow are looked at only, as after :meth:`eval`, until :meth:`setup` or
        :meth:`save` begin a new pass. To call it again changes nothing.

        Raises:
            InputError: what was saved could not be written, or a run that resumes was not given
                all batches of before.
        """
        self.statistics.all_reduce()
        if self._progress is not None:
            self._progress.check_complete(self.folder.rows if self.folder.is_writing else None)
        if in_any_process(self.folder.has_written) and not self.folder.has_written:
            self._begin_log()  # a part without rows, for a store knows of all processes
        self.folder.close()
        self.folder.write(self.statistics, self.projections, self.config)
        if self._progress is not None:
            self._progress.write(self.statistics)
        self.eval()

    def initialize_from_log(
        self, state_path: Path | str | None = None, lora_path: Path | str | None = None
    ) -> None:
        """Take up statistics and projections of an earlier run that was finalised.

        Args:
            state_path, lora_path: folders of other runs to take either from.

        Raises:
            InputError: they are missing, altered, or of other layers than are watched.
        """
        self._end_pass()
        lora = LogFolder(Path(lora_path)) if lora_path is not None else self.folder
        self.projections = lora.read_projections() if lora.has_projections else None
        if self._watched is not None:
            self.watch(self._watched.model)
        state = LogFolder(Path(state_path)) if state_path is not None else self.folder
        layout = None if self._watched is None else self._watched.layout
        self.statistics = state.read_statistics(layout)
        self._influence = None
        self.eval()

    def build_log_dataset(self, flatten: bool = False) -> Rows:
        """The stored rows: (id, ``{layer: {"grad": (out, inner)}}``), or flattened (id, (width,)).

        Raises:
            InputError: nothing is stored, it is not finalised, or it is of another model.
        """
        store = self.folder.open()
        if self._watched is not None:
            store.require(self._watched.identity())
        return Rows(store) if flatten else NestedRows(store)

    def build_log_dataloader(
        self,
        batch_size: int = 16,
        num_workers: int = 0,
        pin_memory: bool = False,
        flatten: bool = False,
    ) -> DataLoader[Any]:
        """Batches of :meth:`build_log_dataset`, in the order of the store."""
        rows = self.build_log_dataset(flatten)
        return DataLoader(rows, batch_size, num_workers=num_workers, pin_memory=pin_memory)

    # Influence

    @property
    def layout(self) -> Layout:
        """Of the gradients: those of the watched model, else those of the store."""
        return self.folder.open().layout if self._watched is None else self._watched.layout

    @property
    def influence(self) -> Influence:
        """Scores logs with the statistics gathered so far."""
        if self._influence is None:
            self._influence = Influence(self.layout, self.statistics)
        return self._influence

    def compute_influence(self, src_log: Log, tgt_log: Log, *args: Any, **options: Any) -> Scores:
        """:meth:`papers.logra.influence.Influence.compute_influence`."""
        return self.influence.compute_influence(src_log, tgt_log, *args, **options)

    def compute_influence_all(
        self,
        src_log: Log | None = None,
        loader: Iterable[Any] | None = None,
        *args: Any,
        **options: Any,
    ) -> Scores:
        """:meth:`papers.logra.influence.Influence.compute_influence_all`.

        By default of the last batch on all that is stored.
        """
        src_log = self.get_log() if src_log is None else src_log
        loader = self.build_log_dataloader() if loader is None else loader
        return self.influence.compute_influence_all(src_log, loader, *args, **options)

    def compute_self_influence(
        self, src_log: Log | None = None, *args: Any, **options: Any
    ) -> SelfScores:
        """:meth:`papers.logra.influence.Influence.compute_self_influence`.

        By default of the last batch.
        """
        src_log = self.get_log() if src_log is None else src_log
        return self.influence.compute_self_influence(src_log, *args, **options)

    # Settings

    def set_logging_config(self, logging_config: LoggingConfig) -> None:
        """Use these settings from now on."""
        self.config = self.config.model_copy(update={"logging": logging_config})
        self.statistics.device = logging_config.statistics_device

    def set_lora_config(self, lora_config: LoRAConfig) -> None:
        """Use these settings from now on."""
        self.config = self.config.model_copy(update={"lora": lora_config})

    def get_logging_config(self) -> LoggingConfig:
        """Settings of writing."""
        return self.config.logging

    def get_lora_config(self) -> LoRAConfig:
        """Settings of projections."""
        return self.config.lora

    # How

    def _begin(
        self, data_id: Iterable[Any], mask: Tensor | None, loss_scale: float, save: bool = False
    ) -> None:
        if self._open is not None:
            raise InputError("a batch within a batch; allowed: one after the other")
        # A pass that gathers moments of inputs and output gradients alone is cheaper.
        looks, wants = not self._gathering, "grad" in self._logged or self.statistics.wants("grad")
        gradients = save or self.saving or looks or wants
        statistics = self.statistics if self._gathering else None
        if self._progress is not None and (statistics is not None or save or self.saving):
            statistics = None if self._begin_pass().is_counted else statistics
        capture = self._model().capture(statistics, gradients, self.config.logging)
        self._log = None
        self._open = LoggedBatch(
            capture,
            ids_of(data_id),
            mask=mask,
            loss_scale=loss_scale,
            activations=self._logged - {"grad"},
            saves=save or self.saving,
        )

    def _close(
        self,
        batch: LoggedBatch,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """End a batch; unless it failed, log it and store it."""
        progress, done = self._progress, False
        counts = progress is not None and (self._gathering or batch.saves)
        try:
            batch.close(kind, error, trace)
            done = error is None
        finally:
            if progress is not None and counts:
                rows = len(batch.ids) if batch.saves and done else 0
                self._begin_pass().count(batch.ids, rows, failed=not done)
        if not done:
            return
        if batch.saves:
            if not self.folder.is_writing:
                self._begin_log()
            position = None if progress is None else progress.rows - len(batch.ids)
            self.folder.append(batch.ids, batch.matrix, position)
        self._log = batch.log()
        if progress is not None and counts:
            progress.write_now_and_then(self.statistics)

    def _begin_pass(self) -> Progress:
        """How far the pass has come, and with its first batch the statistics of before."""
        assert self._progress is not None
        if not self._progress.has_begun:
            model = self._model()
            self._progress.begin(
                self.statistics,
                {
                    **model.identity(),
                    "layout": model.layout.digest,
                    "gathered": self.statistics.gathered,
                },
            )
        return self._progress

    def _end_pass(self) -> None:
        if self._progress is not None:
            self._progress.end_pass(self.statistics)

    def _begin_log(self) -> None:
        model, settings = self._model(), self.config.logging
        self.folder.begin(
            model.layout,
            model.identity(),
            settings.stored,
            settings.flush_threshold,
            resume=self._progress is not None,
        )

    def _model(self) -> WatchedModel:
        if self._watched is None:
            raise InputError("no model is watched; allowed: watch(model) before")
        return self._watched
