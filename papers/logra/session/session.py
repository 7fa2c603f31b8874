"""A run: what a program logs of its model, where it is kept, and what it is asked for.

Answers to the calls of LogIX 0.1.1 (Choe et al. 2024), so that a program changes its import alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle

from common.errors import InputError
from papers.logra.checks.check_report import CheckReport
from papers.logra.checks.gradient_check import check_gradients
from papers.logra.curvature.layout import Layout
from papers.logra.gradients.parameter_coverage import Coverage, measure_coverage
from papers.logra.gradients.token_masks import Mask
from papers.logra.log_store import LogStore, Rows
from papers.logra.processes import in_any_process, rank
from papers.logra.scoring.influence import Influence, Log, Scores, SelfScores, TopScores
from papers.logra.session.batch_checks import BatchChecks
from papers.logra.session.batch_logging import BatchLogging
from papers.logra.session.configs import Config, LoggingConfig, LoRAConfig, read_config
from papers.logra.session.data_ids import normalise_ids
from papers.logra.session.log_folder import LogFolder, NestedRows
from papers.logra.session.watched_model import Filters, Names, Types, WatchedModel, new_projections

LOGGER = logging.getLogger("logra")


class LogIX(BatchLogging):
    """Logs a model's per-sample gradients batch by batch, and scores samples by their influence.

    Args:
        project: name of the folder, in the configuration's ``root_dir``.
        config: settings, or a YAML file of them; by default all have their defaults.
        logging_config: instead of the file's.
        resume: go on where the same program was killed, if it was: it gives all batches again, in
            the same order, and what is there already is left out. See :meth:`has_logged`. Several
            processes must be as many as before. What it takes in the folder, ``resume/``, may be
            removed when all is done.

    Raises:
        InputError: a file that is missing, or a key or value that is not allowed.
    """

    def __init__(
        self,
        project: str,
        config: Config | Path | str | None = None,
        logging_config: LoggingConfig | None = None,
        resume: bool = False,
    ) -> None:
        self.project = project
        settings = Config() if config is None else config
        if not isinstance(settings, Config):
            settings = read_config(settings)
        if logging_config is not None:
            settings = settings.model_copy(update={"logging": logging_config})
        super().__init__(LogFolder(settings.root_dir / project), settings, resume)
        self._filters = Filters(settings.bias)
        #: What was said of coverage.
        self._said: set[str] = set()
        self._influence: Influence | None = None
        self._checks = BatchChecks()
        #: Set while a block goes on whose batch :meth:`get_log` has ended.
        self._ended_early: RemovableHandle | None = None

    # What is watched

    def watch(
        self,
        model: nn.Module,
        type_filter: Types | None = None,
        name_filter: Names | None = None,
        bias: bool | None = None,
    ) -> None:
        """Watch layers of a model, as :func:`papers.logra.gradients.watching.watched` finds them.

        Filters hold until others are given. After :meth:`add_lora` only layers with a projection
        are watched. The model is not changed, but no parameter gets a gradient in a logged batch.
        What share of the trained parameters is watched is said once, if not all are; see
        :meth:`coverage`.

        Args:
            model: whose layers to watch.
            type_filter, name_filter: of the layers.
            bias: whether biases count, as the last column of a layer's gradient (n, out, in + 1);
                by default as configured. LogIX knows weights alone, kronfluence counts both.

        Raises:
            InputError: no layer passes the filters.
        """
        self._filters.update(type_filter, name_filter, bias)
        self._watched = WatchedModel(
            model, self._filters.layers(model), self.projections, self._filters.bias
        )
        self._influence = None
        self._say_coverage()

    def coverage(self) -> Coverage:
        """Which of the model's trained parameters are watched, and why others are not.

        Raises:
            InputError: no model is watched.
        """
        found = self._model()
        return measure_coverage(found.model, found.layers, bias=found.bias)

    def _say_coverage(self) -> None:
        found = self.coverage()
        text = str(found)
        if (found.share < 1 or found.frozen) and text not in self._said and rank() == 0:
            LOGGER.warning(text)
        self._said.add(text)

    def check(
        self,
        batch: Any,
        loss: Callable[[Any], Tensor] | None = None,
        *,
        mask: Tensor | None = None,
        loss_scale: float | Callable[[Any], float] = 1.0,
        samples: int = 4,
        tolerance: float | None = None,
    ) -> CheckReport:
        """Compare a few samples' logged gradients with autograd's, one sample at a time.

        ::

            report = run.check((inputs, targets), lambda batch: loss(model(batch[0]), batch[1]))
            print(report)

        Nothing is logged, stored or added to statistics, and the model stays as it is.

        Args:
            batch: tensors with the samples first, in tuples, lists and mappings.
            loss: of a batch of this form: what the program differentiates in a ``with`` block;
                by default of a mapping ``model(**batch).loss``.
            mask, loss_scale: as of the call; a scale that hangs on the batch, such as 1 / tokens,
                as a function of it.
            samples: how many to compare, the first ones.
            tolerance: largest relative error of a layer's gradient; by default what rounding in the
                model's type may do.

        Returns:
            Errors by layer, and the probable causes of those above the tolerance.

        Raises:
            InputError: no model is watched, a batch is open, or there is no loss.
        """
        if self._open is not None:
            raise InputError("check within a batch; allowed: before or after it")
        capture = self._model().capture(None, True, self.config.logging)
        return check_gradients(
            capture,
            batch,
            loss,
            mask=mask,
            loss_scale=loss_scale,
            samples=samples,
            tolerance=tolerance,
        )

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
            self.sum_statistics()
            layers = self._filters.layers(model)
            self.projections = new_projections(
                layers, self.config.lora, self.statistics, self._filters.bias
            )
        if watch or clear:
            self.clear()
        if watch:
            self.watch(model)

    # Batches

    def setup(self, log_option_kwargs: Mapping[str, Sequence[str]]) -> None:
        """:meth:`papers.logra.session.batch_logging.BatchLogging.setup`; a new pass begins."""
        super().setup(log_option_kwargs)
        self.folder.close()  # so that samples of the pass before are not stored again

    def _begin(
        self, data_id: Iterable[Any], mask: Mask | None, loss_scale: float, save: bool = False
    ) -> None:
        """Begin a batch, unless it can be said before that it must fail."""
        ids, saves = normalise_ids(data_id), save or self.saving
        if self._open is None:
            if saves and self.folder.has_written and not self.folder.is_writing:
                self._begin_log()
            if saves:
                self.folder.refuse_repeated(ids)
            gradients = self._takes_gradients(save)
            keeps = gradients and self._gathering and self.statistics.wants("grad")
            samples = len(ids) if gradients else 0
            self._checks.check_batch(self._model(), samples, self.config.logging, keeps)
        super()._begin(ids, mask, loss_scale, save)

    def _begin_log(self) -> None:
        again = self.folder.has_written
        super()._begin_log()
        if again:
            self.folder.begin_pass(None if self._progress is None else self._progress.rows)

    def get_log(self, copy: bool = False, flatten: bool = False) -> Log:
        """:meth:`papers.logra.session.batch_logging.BatchLogging.get_log`.

        Within a batch, after its backward pass, it ends the batch: a layer that is watched may not
        run again before the block, or :meth:`end`, is over.
        """
        if self._open is not None and self._open.has_gradients:
            layer = next(iter(self._model().layers.values()))
            super().end()
            self._ended_early = layer.register_forward_pre_hook(_refuse_after_get_log)
        return super().get_log(copy, flatten)

    def end(self, save: bool = False) -> None:
        """:meth:`papers.logra.session.batch_logging.BatchLogging.end`."""
        if self._go_on():
            if save and not self.saving:
                raise InputError("end(save=True) after get_log; allowed: get_log after end")
            return
        super().end(save)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._go_on()
        super().__exit__(kind, error, trace)

    def clear(self) -> None:
        """:meth:`papers.logra.session.batch_logging.BatchLogging.clear`."""
        self._go_on()
        super().clear()

    def _go_on(self) -> bool:
        """The block of a batch that :meth:`get_log` has ended is over; whether there was one."""
        handle, self._ended_early = self._ended_early, None
        if handle is not None:
            handle.remove()
        return handle is not None

    # What is kept

    def finalize(self) -> None:
        """End the logging: sum statistics over processes, write all to the run's folder.

        Batches that follow are looked at only, as after :meth:`eval`, until :meth:`setup` or
        :meth:`save` begin a new pass. To call it again changes nothing.

        Raises:
            InputError: what was saved could not be written, or a run that resumes was not given
                all batches of before.
        """
        if self._progress is not None:
            self._progress.check_complete(self.folder.rows if self.folder.is_writing else None)
        if in_any_process(self.folder.has_written) and not self.folder.has_written:
            self._begin_log()  # a part without rows, for a store knows of all processes
        self.folder.close()
        # Before the sums are finished below: what resumes shall not tell when it was last written.
        self.sum_statistics()
        identity = None if self._watched is None else self._identity()
        self.folder.write(self.statistics, self.projections, self.config, identity)
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
        if self._watched is not None and not state.belongs_to(self._identity()):
            LOGGER.warning(
                "%s: statistics were gathered with other weights or projections than the model has",
                state.path,
            )
        self._influence = None
        self.eval()

    def build_log_dataset(self, flatten: bool = False) -> Rows:
        """The stored rows: (id, ``{layer: {"grad": (out, inner)}}``), or flattened (id, (width,)).

        Raises:
            InputError: nothing is stored, it is not finalised, or it is of another model.
        """
        store = self.folder.open()
        if self._watched is not None:
            store.require(self._identity())
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
        """The layout of the watched model's gradients, else of the store's."""
        return self.folder.open().layout if self._watched is None else self._watched.layout

    @property
    def influence(self) -> Influence:
        """Scores logs with the statistics gathered so far."""
        if self._influence is None:
            identity = None if self._watched is None else self._identity
            self._influence = Influence(self.layout, self.statistics, identity=identity)
        return self._influence

    def compute_influence(self, src_log: Log, tgt_log: Log, *args: Any, **options: Any) -> Scores:
        """:meth:`papers.logra.scoring.influence.Influence.compute_influence`."""
        return self.influence.compute_influence(src_log, tgt_log, *args, **options)

    def compute_influence_all(
        self,
        src_log: Log | None = None,
        loader: Iterable[Any] | None = None,
        *args: Any,
        **options: Any,
    ) -> Scores:
        """:meth:`papers.logra.scoring.influence.Influence.compute_influence_all`.

        By default of the last batch on all that is stored.
        """
        src_log = self.get_log() if src_log is None else src_log
        where = self.folder.open() if loader is None else loader
        return self.influence.compute_influence_all(src_log, where, *args, **options)

    def top_influences(
        self,
        src_log: Log | None = None,
        loader: LogStore | Iterable[Any] | None = None,
        k: int = 10,
        *args: Any,
        **options: Any,
    ) -> TopScores:
        """:meth:`papers.logra.scoring.influence.Influence.top_influences`.

        By default the ten of all that is stored for each sample of the last batch.
        """
        src_log = self.get_log() if src_log is None else src_log
        where = self.folder.open() if loader is None else loader
        return self.influence.top_influences(src_log, where, k, *args, **options)

    def compute_self_influence(
        self, src_log: Log | LogStore | DataLoader[Any] | None = None, *args: Any, **options: Any
    ) -> SelfScores:
        """:meth:`papers.logra.scoring.influence.Influence.compute_self_influence`.

        By default of the last batch.
        """
        src_log = self.get_log() if src_log is None else src_log
        return self.influence.compute_self_influence(src_log, *args, **options)

    # Settings

    def set_logging_config(self, logging_config: LoggingConfig) -> None:
        """Use these settings from now on."""
        self.config = self.config.model_copy(update={"logging": logging_config})
        self.statistics.device = logging_config.statistics_device
        if self._progress is not None:
            self._progress.seconds = logging_config.checkpoint_seconds

    def set_lora_config(self, lora_config: LoRAConfig) -> None:
        """Use these settings from now on."""
        self.config = self.config.model_copy(update={"lora": lora_config})

    def get_logging_config(self) -> LoggingConfig:
        """Settings of writing."""
        return self.config.logging

    def get_lora_config(self) -> LoRAConfig:
        """Settings of projections."""
        return self.config.lora


def _refuse_after_get_log(module: nn.Module, _inputs: Any) -> None:
    raise InputError(
        "the model runs in a batch that get_log() has ended; allowed: get_log() last in its block"
    )
