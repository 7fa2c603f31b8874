"""Batches of a model on their way into statistics and the log, and what is taken of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from common.errors import InputError
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.projections import Projections
from papers.logra.gradients.token_masks import Mask
from papers.logra.log_store.manifest import Identity
from papers.logra.scoring.influence import Log
from papers.logra.session.configs import Config, split_plugins
from papers.logra.session.data_ids import normalise_ids
from papers.logra.session.log_folder import LogFolder
from papers.logra.session.logged_batch import LoggedBatch
from papers.logra.session.progress import Progress
from papers.logra.session.watched_model import WatchedModel


class BatchLogging:
    """Logs a model's per-sample gradients batch by batch.

    Args:
        folder: of what is stored.
        config: how.
        resume: go on where the same program was killed.
    """

    def __init__(self, folder: LogFolder, config: Config, resume: bool) -> None:
        self.folder, self.config = folder, config
        seconds = config.logging.checkpoint_seconds
        self._progress = Progress(folder.path, seconds) if resume else None
        self.projections: Projections | None = None
        self.statistics = Statistics(
            dtype=getattr(torch, config.logging.statistics_dtype),
            device=config.logging.statistics_device,
        )
        self._watched: WatchedModel | None = None
        self._logged: frozenset[str] = frozenset({"grad"})
        self.saving, self._gathering = False, True
        self._begin_asked: Callable[[], None] | None = None
        self._open: LoggedBatch | None = None
        #: The last batch that ended, and its log.
        self._last: LoggedBatch | None = None
        self._log: Log | None = None

    # What is taken

    def setup(self, log_option_kwargs: Mapping[str, Sequence[str]]) -> None:
        """What to take of each batch from now on; what was gathered before stays.

        Args:
            log_option_kwargs: for ``forward``, ``backward`` and ``grad`` a list of ``log``, to
                have them in :meth:`get_log`, and of ``mean``, ``variance``, ``covariance`` and
                (of ``grad``) ``corrected_eigval``, to gather statistics.

        Raises:
            InputError: another key or value.
        """
        moments, logged = split_plugins(log_option_kwargs)
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
        self._gathering, self._log, self._last = True, None, None

    def sum_statistics(self) -> None:
        """Sum statistics over all processes; what resumes keeps this process's own."""
        if self._progress is not None:
            self._progress.write(self.statistics)
        self.statistics.all_reduce()

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
        ids = normalise_ids(data_id)
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
        mask: Mask | None = None,
        save: bool = False,
        loss_scale: float = 1.0,
    ) -> Self:
        """A batch for a ``with`` block, in which its loss is computed and differentiated.

        The loss is a sum over samples and over their tokens.

        Args:
            data_id: what each sample is called; may repeat. Numbers are taken as text, tensors
                of several numbers by their hash.
            mask: (n, t), tokens that count in forward and backward statistics, or where layers
                differ in tokens several, see :class:`.token_masks.TokenMasks`.
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
        self, data_id: Iterable[Any], mask: Mask | None = None, loss_scale: float = 1.0
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

    def get_log(self, copy: bool = False, flatten: bool = False) -> Log:
        """The last batch: its ids and ``{layer: {"grad": (n, out, inner)}}``.

        Nothing that comes later changes it.

        Args:
            copy: another copy for each call, for those who change what they get.
            flatten: its ids and gradients (n, width) instead, layers side by side.

        Raises:
            InputError: no batch was logged, or to flatten, none with gradients.
        """
        if self._log is None or self._last is None:
            raise InputError("no log; allowed: after a batch has ended")
        found = (self._log[0], self._last.matrix) if flatten else self._log
        return deepcopy(found) if copy else found

    def watch_activation(self, tensor_dict: Mapping[str, Tensor]) -> None:
        """Log tensors of the forward pass too, within a batch: what ``setup`` logs of layers.

        Raises:
            InputError: no batch is open.
        """
        if self._open is None:
            raise InputError("watch_activation outside of a batch; allowed: in its with block")
        for name, tensor in tensor_dict.items():
            self._open.activations.of_tensor(name, tensor)

    # How

    def _takes_gradients(self, save: bool) -> bool:
        """Whether a batch's gradients are needed: moments of a layer's two sides are cheaper."""
        wants = "grad" in self._logged or self.statistics.wants("grad")
        return save or self.saving or not self._gathering or wants

    def _begin(
        self, data_id: Iterable[Any], mask: Mask | None, loss_scale: float, save: bool = False
    ) -> None:
        if self._open is not None:
            raise InputError("a batch within a batch; allowed: one after the other")
        statistics = self.statistics if self._gathering else None
        gradients = self._takes_gradients(save)
        # Rows rotated into eigenvectors are all that a pass needs which corrects eigenvalues alone.
        asked = save or self.saving or "grad" in self._logged or not self._gathering
        rotated = not asked and self.statistics.wants_rotated
        if self._progress is not None and (statistics is not None or save or self.saving):
            statistics = None if self._begin_pass().is_counted else statistics
        capture = self._model().capture(
            statistics, gradients, self.config.logging, rotated=rotated and statistics is not None
        )
        self._log = self._last = None
        self._open = LoggedBatch(
            capture,
            normalise_ids(data_id),
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
        self._last, self._log = batch, batch.log()
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
                    **self._identity(),
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
            self._identity(),
            settings.stored,
            settings.flush_threshold,
            resume=self._progress is not None,
        )

    def _identity(self) -> Identity:
        """What rows and statistics depend on."""
        return self._model().identity(weights=self.config.logging.digest_weights)

    def _model(self) -> WatchedModel:
        if self._watched is None:
            raise InputError("no model is watched; allowed: watch(model) before")
        return self._watched
