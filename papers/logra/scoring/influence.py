"""Influence of logged training samples on logged queries.

A log is ``(ids, {layer: {"grad": (n, out, inner)}})``, or ``(ids, (n, width))`` with the layers
side by side. Results say which sample each axis is: ``influence`` is (queries, training samples),
positive for proponents, not divided by the number of training samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from common.errors import InputError
from papers.logra.curvature.curvatures import Damping
from papers.logra.curvature.hessians import (
    EKFAC,
    KFAC,
    WIDEST_EIGENBASIS,
    EmpiricalFisher,
    Hessian,
    IdentityHessian,
)
from papers.logra.curvature.layout import Layout
from papers.logra.curvature.moments import Statistics
from papers.logra.log_store import LogStore, Rows
from papers.logra.scoring.scores import (
    TOTAL,
    Blocks,
    Groups,
    Mode,
    check_mode,
    gather_scores,
    group_columns,
    iterate_blocks,
    scores,
    self_influences,
    share_of_rows,
    top_scores,
)

LOGGER = logging.getLogger("logra")

#: Bounds of an absolute damping over a layer's mean eigenvalue; one beyond them is told of.
USUAL_DAMPING = (1e-3, 1e2)

#: LogIX calls the empirical Fisher ``raw``.
HessianKind = Literal["auto", "none", "empirical_fisher", "kfac", "ekfac", "raw"]
Gradients = Mapping[str, Mapping[str, Tensor]] | Tensor
Log = tuple[Sequence[str], Gradients]


class Scores(TypedDict):
    """Scores of all pairs; ``influence`` is (src, tgt), by group where groups were asked for."""

    src_ids: list[str]
    tgt_ids: list[str]
    influence: Tensor | dict[str, Tensor]


class SelfScores(TypedDict):
    """Scores of each sample on itself; ``influence`` is (src,), by group where asked for."""

    src_ids: list[str]
    influence: Tensor | dict[str, Tensor]


class TopScores(TypedDict):
    """Highest scores of each query; ``influence`` and ``positions`` in the store are (src, k)."""

    src_ids: list[str]
    tgt_ids: list[list[str]]
    influence: Tensor
    positions: Tensor


def flatten_log(log: Log, layout: Layout) -> Tensor:
    """The gradients of a log, (n, width).

    Raises:
        InputError: gradients of other layers, or not one for each id.
    """
    ids, gradients = log
    if isinstance(gradients, Tensor):
        rows = gradients
    else:
        found = {}
        for block in layout.blocks:
            if "grad" not in gradients.get(block.name, {}):
                raise InputError(
                    f"a log without the gradient of layer {block.name}; allowed: all of {layout}"
                )
            found[block.name] = gradients[block.name]["grad"]
        extra = [name for name in gradients.keys() - found if "grad" in gradients[name]]
        if extra:
            raise InputError(f"a log with gradients of {extra}; allowed: {layout}")
        rows = layout.flatten(found)
    if rows.shape != (len(ids), layout.width):
        raise InputError(
            f"a log of {len(ids)} ids and gradients of shape {tuple(rows.shape)}; allowed: "
            f"{(len(ids), layout.width)}"
        )
    return rows


def merge_logs(logs: Iterable[Log]) -> Log:
    """One log of the samples of several. Raises InputError: none, or of different layers."""
    every = list(logs)
    if not every:
        raise InputError("no logs to merge; allowed: at least one")
    ids = [name for part, _ in every for name in part]
    parts = [gradients for _, gradients in every]
    if all(isinstance(part, Tensor) for part in parts):
        return ids, torch.cat([part for part in parts if isinstance(part, Tensor)])
    nested = [part for part in parts if isinstance(part, Mapping)]
    layers = {name: tuple(kinds) for name, kinds in nested[0].items()}
    for part in nested:
        if {name: tuple(kinds) for name, kinds in part.items()} != layers:
            raise InputError(f"logs of layers {list(layers)} and {list(part)}; allowed: the same")
    if len(nested) < len(parts):
        raise InputError("flattened logs among nested ones; allowed: all of one form")
    merged = {
        name: {kind: torch.cat([part[name][kind] for part in nested]) for kind in kinds}
        for name, kinds in layers.items()
    }
    return ids, merged


def build_hessian(
    statistics: Statistics,
    layout: Layout,
    kind: HessianKind = "auto",
    device: torch.device | str | None = None,
) -> Hessian:
    """H of gathered statistics.

    Args:
        statistics: of gradients of this layout.
        layout: of the gradients.
        kind: ``auto`` is ``empirical_fisher`` where gradients' covariances were gathered, else
            ``ekfac`` where corrected eigenvalues were, else ``kfac``.
        device: of factors and products; by default that of the statistics.

    Raises:
        InputError: an unknown kind, or the statistics that it needs were not gathered.
    """
    if kind not in get_args(HessianKind):
        raise InputError(f"hessian {kind!r}; allowed: {', '.join(get_args(HessianKind))}")
    if kind == "auto":
        kind = _best_kind(statistics)
    if kind == "none":
        return IdentityHessian(layout)
    if kind in ("empirical_fisher", "raw"):
        moments = statistics.second_moments("grad", WIDEST_EIGENBASIS)
        return EmpiricalFisher(layout, moments, device=device)
    if kind == "kfac":
        forward, backward = statistics.covariance("forward"), statistics.covariance("backward")
        return KFAC(layout, forward, backward, device=device)
    values = statistics.corrected_eigenvalues()
    return EKFAC(layout, statistics.eigenbases, values, device=device)


def _best_kind(statistics: Statistics) -> HessianKind:
    if statistics.has("grad", "covariance"):
        return "empirical_fisher"
    return "ekfac" if statistics.has("grad", "corrected_eigval") else "kfac"


class Influence:
    """Scores logs with the statistics gathered so far.

    Factors of H are kept until the statistics change.

    Args:
        layout: of the gradients.
        statistics: what H is made of.
        device: where rows are scored; by default where the queries are.
        identity: of the model that queries are logged with, which a store's rows must have.
    """

    def __init__(
        self,
        layout: Layout,
        statistics: Statistics,
        device: torch.device | str | None = None,
        identity: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self.layout, self.statistics, self.device = layout, statistics, device
        self._identity = identity
        self._damping_told = False
        self._saved: list[Scores] = []
        self._hessians: dict[str, Hessian] = {}
        self._revision = statistics.revision

    def hessian(self, kind: HessianKind = "auto") -> Hessian:
        """H of this kind. Raises InputError as :func:`build_hessian`."""
        if self._revision != self.statistics.revision:
            self._hessians, self._revision = {}, self.statistics.revision
        if kind not in self._hessians:
            self._hessians[kind] = build_hessian(self.statistics, self.layout, kind, self.device)
        return self._hessians[kind]

    def precondition(
        self,
        src_log: Log,
        damping: float | None = None,
        hessian: HessianKind = "auto",
        relative_damping: float | None = None,
    ) -> Log:
        """The log with (H + lambda I)^-1 g for each gradient g, layers side by side."""
        chosen = Damping.of(damping, relative_damping)
        rows, found = flatten_log(src_log, self.layout), self.hessian(hessian)
        self._tell_of_damping(chosen, found)
        return src_log[0], found.precondition(rows, chosen)

    def compute_influence(
        self,
        src_log: Log,
        tgt_log: Log,
        mode: Mode = "dot",
        precondition: bool = True,
        hessian: HessianKind = "auto",
        influence_groups: Sequence[str] | None = None,
        damping: float | None = None,
        relative_damping: float | None = None,
    ) -> Scores:
        """Influence of each target, a training sample, on each source, a query.

        Args:
            src_log: queries.
            tgt_log: training samples.
            mode: ``dot``, ``relatif`` (LogIX: ``cosine``) or ``l2``, see :data:`.scores.Mode`.
            precondition: False for products of gradients as they are.
            hessian: which H, see :func:`build_hessian`.
            influence_groups: parts of layers' names to score on their own; the result is then by
                group, with ``total`` for all layers.
            damping: lambda.
            relative_damping: lambda over the mean eigenvalue of each layer's H; 0.1 by default.

        Raises:
            InputError: logs of other layers, a group of no layer, or statistics are missing.
        """
        return self.compute_influence_all(
            src_log,
            [tgt_log],
            mode,
            precondition,
            hessian,
            influence_groups,
            damping,
            relative_damping,
        )

    def compute_influence_all(
        self,
        src_log: Log,
        loader: LogStore | Iterable[Any],
        mode: Mode = "dot",
        precondition: bool = True,
        hessian: HessianKind = "auto",
        influence_groups: Sequence[str] | None = None,
        damping: float | None = None,
        relative_damping: float | None = None,
        split_rows: bool = False,
        save: bool = False,
        rows_at_once: int | None = None,
    ) -> Scores:
        """Influence of all training samples of a store, or of the logs of a loader.

        A store, and a loader of one in its order, is read in blocks ahead of time; what ``relatif``
        and ``l2`` need of training samples is computed once and kept beside the store's rows.

        Args:
            loader: a store, a loader that a run built, or any iterable of logs.
            split_rows: in ``torch.distributed``, where all processes have the same queries: each
                scores a share of the store's rows, and all get all scores.
            save: keep the scores for :meth:`get_influence_scores`.
            rows_at_once: of a store, rows that are read and scored at once; by default those of one
                of its files, see ``flush_threshold`` of the settings.
            src_log, mode, precondition, hessian, influence_groups, damping, relative_damping: as
                of :meth:`compute_influence`.

        Raises:
            InputError: as :meth:`compute_influence`, or a store of another layout, or whose rows
                were logged with other weights than the model has.
        """
        query = self._query(src_log, precondition, hessian, damping, relative_damping, mode)
        groups = None if influence_groups is None else group_columns(self.layout, influence_groups)
        store = store_behind(loader)
        if store is not None:
            found = self._score_store(query, store, groups, split_rows, rows_at_once)
            tgt_ids, parts = store.ids, [found]
        else:
            assert not isinstance(loader, LogStore)
            tgt_ids, parts = [], []
            for log in loader:
                tgt_ids += log[0]
                parts.append(self._score_rows(query, flatten_log(log, self.layout), groups))
                del log  # before the next one, which a loader may have to compute, takes its room
        if not parts:
            raise InputError("a loader without any log; allowed: at least one")
        every = parts[0]
        if len(parts) > 1:
            every = {name: torch.cat([part[name] for part in parts], 1) for name in every}
        whole: Scores = {
            "src_ids": query.ids,
            "tgt_ids": list(tgt_ids),
            "influence": every[TOTAL] if groups is None else every,
        }
        if save:
            self._saved.append(whole)
        return whole

    def get_influence_scores(self) -> Scores:
        """Scores of all queries that were computed with ``save=True``, in one.

        Raises:
            InputError: there are none, or of different training samples or groups.
        """
        if not self._saved:
            raise InputError(
                "no scores were saved; allowed: after compute_influence_all(save=True)"
            )
        first, parts = self._saved[0], [found["influence"] for found in self._saved]
        if any(found["tgt_ids"] != first["tgt_ids"] for found in self._saved):
            raise InputError("saved scores of different training samples; allowed: of one store")
        ids = [name for found in self._saved for name in found["src_ids"]]
        whole = [part for part in parts if isinstance(part, Tensor)]
        grouped = [part for part in parts if not isinstance(part, Tensor)]
        if (whole and grouped) or any(part.keys() != grouped[0].keys() for part in grouped):
            raise InputError("saved scores of different groups; allowed: the same in each call")
        merged = (
            torch.cat(whole)
            if whole
            else {name: torch.cat([part[name] for part in grouped]) for name in grouped[0]}
        )
        return {"src_ids": ids, "tgt_ids": list(first["tgt_ids"]), "influence": merged}

    def top_influences(
        self,
        src_log: Log,
        store: LogStore | Iterable[Any],
        k: int,
        mode: Mode = "dot",
        precondition: bool = True,
        hessian: HessianKind = "auto",
        damping: float | None = None,
        relative_damping: float | None = None,
    ) -> TopScores:
        """The k most influential samples of a store for each query, the first one the most.

        Args:
            store: or a loader that a run built of one.
            k: at least 1.
            src_log, mode, precondition, hessian, damping, relative_damping: as of
                :meth:`compute_influence`.

        Raises:
            InputError: as :meth:`compute_influence_all`, or what is given is no store.
        """
        query = self._query(src_log, precondition, hessian, damping, relative_damping, mode)
        found = store_behind(store)
        if found is None:
            raise InputError(f"{type(store).__name__}; allowed: a store, or a loader of one")
        self._require_layout(found)
        own = self._self_influences(query, found, None, range(len(found)))
        top = top_scores(
            query.rows, self._blocks(query, found), k, mode=query.mode, self_influences=own
        )
        return {
            "src_ids": query.ids,
            "tgt_ids": [[found.ids[place] for place in row] for row in top.positions.tolist()],
            "influence": top.scores,
            "positions": top.positions,
        }

    def compute_self_influence(
        self,
        src_log: Log | LogStore | DataLoader[Any],
        precondition: bool = True,
        hessian: HessianKind = "auto",
        influence_groups: Sequence[str] | None = None,
        damping: float | None = None,
        relative_damping: float | None = None,
    ) -> SelfScores:
        """Influence of each sample on itself, at least 0: how unusual it is for the model.

        Args:
            src_log: the samples: a log, or a store or a run's loader of one, whose values are kept
                beside its rows.
            precondition, hessian, influence_groups, damping, relative_damping: as of
                :meth:`compute_influence`.

        Raises:
            InputError: as :meth:`compute_influence`.
        """
        chosen = Damping.of(damping, relative_damping)
        groups = None if influence_groups is None else group_columns(self.layout, influence_groups)
        found = self.hessian(hessian if precondition else "none")
        self._tell_of_damping(chosen, found)
        store = store_behind(src_log)
        if store is not None:
            self._require_layout(store)
            ids, kind = store.ids, torch.float64
            own = self._stored_self_influences(found, chosen, store, groups)
        elif isinstance(src_log, LogStore | DataLoader):
            raise InputError(
                "a loader of other rows than a store's; allowed: build_log_dataloader()"
            )
        else:
            rows = flatten_log(src_log, self.layout)
            ids, kind = list(src_log[0]), _choose_dtype(rows)
            own = self_influences(iterate_blocks(rows), len(rows), found, chosen, groups)
        every = {name: values.to(kind) for name, values in own.items()}
        return {"src_ids": list(ids), "influence": every[TOTAL] if groups is None else every}

    def _query(
        self,
        src_log: Log,
        precondition: bool,
        hessian: HessianKind,
        damping: float | None,
        relative_damping: float | None,
        mode: Mode,
    ) -> _Query:
        check_mode(mode)
        rows = flatten_log(src_log, self.layout)
        chosen = Damping.of(damping, relative_damping)
        found = self.hessian(hessian if precondition else "none")
        self._tell_of_damping(chosen, found)
        rows = rows.to(self.device or rows.device, _choose_dtype(rows))
        return _Query(list(src_log[0]), found.precondition(rows, chosen), found, chosen, mode)

    def _tell_of_damping(self, chosen: Damping, hessian: Hessian) -> None:
        """Say once that an absolute damping is far from the eigenvalues that it is added to."""
        if chosen.relative or chosen.value == 0 or self._damping_told:
            return
        for name, curvature in hessian.curvatures.items():
            mean = curvature.mean_eigenvalue
            if mean and not USUAL_DAMPING[0] <= chosen.value / mean <= USUAL_DAMPING[1]:
                self._damping_told = True
                LOGGER.warning(
                    "damping=%g is %.3g times the mean eigenvalue of layer %s's H;"
                    " relative_damping=0.1, the default, is a tenth of each layer's",
                    chosen.value,
                    chosen.value / mean,
                    name,
                )
                return

    def _score_rows(self, query: _Query, rows: Tensor, groups: Groups | None) -> dict[str, Tensor]:
        own = None
        if query.mode != "dot":
            own = self_influences(
                iterate_blocks(rows), len(rows), query.hessian, query.damping, groups
            )
        return scores(
            query.rows,
            iterate_blocks(rows),
            len(rows),
            mode=query.mode,
            self_influences=own,
            groups=groups,
        )

    def _score_store(
        self,
        query: _Query,
        store: LogStore,
        groups: Groups | None,
        split_rows: bool,
        rows_at_once: int | None,
    ) -> dict[str, Tensor]:
        self._require_layout(store)
        share = share_of_rows(len(store)) if split_rows else range(len(store))
        found = scores(
            query.rows,
            self._blocks(query, store, share, rows_at_once),
            len(share),
            mode=query.mode,
            self_influences=self._self_influences(query, store, groups, share),
            groups=groups,
        )
        if split_rows:
            found = {name: gather_scores(part, len(store)) for name, part in found.items()}
        return found

    def _self_influences(
        self, query: _Query, store: LogStore, groups: Groups | None, share: range
    ) -> dict[str, Tensor] | None:
        """Self-influences of these rows: the store's columns, computed from all rows at first."""
        if query.mode == "dot":
            return None
        found = self._stored_self_influences(
            query.hessian, query.damping, store, groups, query.rows
        )
        rows = slice(share.start, share.stop)
        return {name: values[rows] for name, values in found.items()}

    def _stored_self_influences(
        self,
        hessian: Hessian,
        damping: Damping,
        store: LogStore,
        groups: Groups | None,
        like: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """{group: (rows,)} of all rows, kept in the store's columns.

        Args:
            hessian, damping, store, groups: what they are of.
            like: where and in what type to compute; by default as stored, at least in float32.
        """
        about = {
            "hessian": hessian.digest,
            "damping": damping.value,
            "relative": damping.relative,
        }
        parts: dict[str, list[slice]] = {
            TOTAL: [],
            **{k: list(v) for k, v in (groups or {}).items()},
        }
        parameters = {
            name: {**about, "columns": [(part.start, part.stop) for part in slices]}
            for name, slices in parts.items()
        }
        found = {name: store.column("self_influence", p) for name, p in parameters.items()}
        if any(values is None for values in found.values()):
            exact = torch.float64 if store.dtype == "float64" else torch.float32
            place: dict[str, Any] = {"device": self.device, "dtype": exact}
            if like is not None:
                place = {"device": like.device, "dtype": like.dtype}
            blocks = store.blocks(**place)
            computed = self_influences(blocks, len(store), hessian, damping, groups)
            for name, values in computed.items():
                _keep(store, values, parameters[name])
            found.update(computed)
        return {name: values for name, values in found.items() if values is not None}

    def _blocks(
        self,
        query: _Query,
        store: LogStore,
        share: range | None = None,
        rows_at_once: int | None = None,
    ) -> Blocks:
        rows = range(len(store)) if share is None else share
        return store.blocks(
            rows_at_once,
            start=rows.start,
            stop=rows.stop,
            device=query.rows.device,
            dtype=query.rows.dtype,
        )

    def _require_layout(self, store: LogStore) -> None:
        if self._identity is not None:
            store.require(self._identity())
        if store.layout != self.layout:
            raise InputError(
                f"{store.folder}: rows of layers {store.layout}; allowed: {self.layout}"
            )


class _Query(NamedTuple):
    """Preconditioned queries and how."""

    ids: list[str]
    rows: Tensor
    hessian: Hessian
    damping: Damping
    mode: Mode


def store_behind(loader: object) -> LogStore | None:
    """The store that a loader reads row by row from the first to the last, None if it does not."""
    if isinstance(loader, LogStore):
        return loader
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, SequentialSampler):
        dataset = loader.dataset
        if isinstance(dataset, Rows) and not loader.drop_last:
            return dataset.store
    return None


def _keep(store: LogStore, values: Tensor, parameters: Mapping[str, Any]) -> None:
    try:
        store.put_column("self_influence", values, parameters)
    except InputError as error:
        # A store that others own may be read-only; it only takes longer next time.
        LOGGER.info("self-influences are not kept: %s", error)


def _choose_dtype(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)
