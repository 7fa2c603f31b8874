"""Logs, stores and loaders of them give the same scores, whatever was scored before."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from common.errors import InputError
from papers.logra.curvature.layout import Block, Layout
from papers.logra.curvature.moments import Statistics
from papers.logra.log_store import LogStore, Rows
from papers.logra.scoring.influence import Influence, Log, flatten_log, merge_logs, store_behind

LAYOUT = Layout([Block("h.0.mlp", 2, 3), Block("h.0.att", 2, 2), Block("h.1.mlp", 1, 4)])
KINDS = ("raw", "kfac", "ekfac")


def log(n: int, seed: int, name: str) -> Log:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, LAYOUT.width, generator=generator, dtype=torch.float64)
    parts = LAYOUT.unflatten(rows)
    return [f"{name}{i}" for i in range(n)], {k: {"grad": part} for k, part in parts.items()}


TRAIN, QUERIES = log(11, 0, "train"), log(3, 1, "query")


def rows(of: Log) -> Tensor:
    return flatten_log(of, LAYOUT)


def gathered(kind: str, train: Log = TRAIN) -> Statistics:
    """Statistics of a training log; inputs and output gradients are its columns and rows."""
    kronecker = {"forward": ["covariance"], "backward": ["covariance"]}
    statistics = Statistics({"grad": ["covariance"]} if kind == "raw" else kronecker)
    add(statistics, train)
    if kind == "ekfac":
        statistics.collect({"grad": ["corrected_eigval"]})
        add(statistics, train)
    return statistics


def add(statistics: Statistics, train: Log) -> None:
    for name, part in LAYOUT.unflatten(rows(train)).items():
        if statistics.wants("forward"):
            statistics.add("forward", name, part)
            statistics.add("backward", name, part.mT)
        statistics.add_gradients(name, part)


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    with LogStore.create(
        tmp_path / "log", LAYOUT, identity={}, dtype="float64", rows_per_chunk=4
    ) as writer:
        writer.append(list(TRAIN[0]), rows(TRAIN))
    return LogStore.open(tmp_path / "log")


def test_raw_influence_is_a_dense_solve() -> None:
    train, queries = rows(TRAIN), rows(QUERIES)
    expected = torch.zeros(3, 11, dtype=torch.float64)
    for columns in LAYOUT.slices.values():
        part = train[:, columns]
        h = part.T @ part / 11
        damped = h + 0.1 * h.trace() / len(h) * torch.eye(len(h))
        expected += queries[:, columns] @ torch.linalg.solve(damped, part.T)
    found = Influence(LAYOUT, gathered("raw")).compute_influence(QUERIES, TRAIN)
    torch.testing.assert_close(found["influence"], expected)
    assert found["src_ids"] == QUERIES[0]
    assert found["tgt_ids"] == TRAIN[0]


@pytest.mark.parametrize("mode", ["dot", "cosine", "l2"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [None, ["mlp", "h.0"]])
def test_defect_14_stores_and_loaders_score_as_logs_in_memory(
    store: LogStore, mode: Any, kind: Any, groups: Any
) -> None:
    """Upstream had no cosine and l2 for flattened loaders; batch sizes must not matter either."""
    influence = Influence(LAYOUT, gathered(kind))
    options: Any = {"mode": mode, "hessian": kind, "influence_groups": groups, "damping": 0.3}
    expected = influence.compute_influence(QUERIES, TRAIN, **options)
    flat = (TRAIN[0], rows(TRAIN))
    nested = [(TRAIN[0][s:e], {n: {"grad": p["grad"][s:e]} for n, p in TRAIN[1].items()})  # type: ignore[union-attr]
              for s, e in ((0, 2), (2, 11))]  # fmt: skip
    shuffled = DataLoader(Rows(store, torch.float64), batch_size=3, sampler=range(11))
    sources = [store, [flat], nested, DataLoader(Rows(store), batch_size=5), shuffled]
    for source in sources:
        found = influence.compute_influence_all(QUERIES, source, **options)
        assert found["tgt_ids"] == TRAIN[0]
        torch.testing.assert_close(found["influence"], expected["influence"])


def test_loaders_in_the_order_of_a_store_are_read_as_the_store(store: LogStore) -> None:
    assert store_behind(store) is store
    assert store_behind(DataLoader(Rows(store), batch_size=3)) is store
    assert store_behind(DataLoader(Rows(store), shuffle=True)) is None
    assert store_behind(DataLoader(Rows(store), batch_size=3, drop_last=True)) is None
    assert store_behind([TRAIN]) is None


@pytest.mark.parametrize("mode", ["dot", "cosine", "l2"])
def test_top_influences_are_the_highest_of_all(store: LogStore, mode: Any) -> None:
    influence = Influence(LAYOUT, gathered("raw"))
    every = influence.compute_influence_all(QUERIES, store, mode=mode)["influence"]
    assert isinstance(every, Tensor)
    top = influence.top_influences(QUERIES, DataLoader(Rows(store)), 4, mode=mode)
    values, positions = every.topk(4)
    torch.testing.assert_close(top["influence"], values)
    assert torch.equal(top["positions"], positions)
    assert top["tgt_ids"] == [[f"train{i}" for i in row] for row in positions.tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_self_influence_is_the_diagonal_of_influence(kind: Any) -> None:
    influence = Influence(LAYOUT, gathered(kind))
    pairs = influence.compute_influence(TRAIN, TRAIN, influence_groups=["mlp"])["influence"]
    own = influence.compute_self_influence(TRAIN, influence_groups=["mlp"])
    assert own["src_ids"] == TRAIN[0]
    assert isinstance(pairs, dict)
    assert isinstance(own["influence"], dict)
    for name in ("total", "mlp"):
        torch.testing.assert_close(own["influence"][name], pairs[name].diagonal())
        assert (own["influence"][name] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_defects_3_and_5_the_same_call_twice_gives_the_same_scores(kind: Any) -> None:
    """Upstream's stored eigenvalues grew with each call, and its raw inverse knew one damping."""
    statistics = gathered(kind)
    influence = Influence(LAYOUT, statistics)

    def score(**options: Any) -> Tensor:
        found = influence.compute_influence(QUERIES, TRAIN, hessian=kind, **options)["influence"]
        assert isinstance(found, Tensor)
        return found

    first, weak = score(), score(damping=1e-3)
    assert not torch.allclose(weak, first)
    assert not torch.allclose(score(relative_damping=0.5), first)
    assert torch.equal(score(), first)
    assert torch.equal(score(relative_damping=0.1), first)
    assert torch.equal(score(damping=1e-3), weak)
    statistics.clear()
    with pytest.raises(InputError, match="was gathered; gathered: nothing"):
        score()


def test_new_statistics_give_new_scores() -> None:
    statistics = gathered("raw")
    influence = Influence(LAYOUT, statistics)
    influence.compute_influence(QUERIES, TRAIN)
    statistics.clear()
    other = log(11, 5, "other")
    add(statistics, other)
    found = influence.compute_influence(QUERIES, TRAIN)["influence"]
    fresh = Influence(LAYOUT, gathered("raw", other)).compute_influence(QUERIES, TRAIN)
    torch.testing.assert_close(found, fresh["influence"])


def test_defect_17_missing_statistics_are_errors() -> None:
    """Upstream warned and returned scores without any Hessian."""
    influence = Influence(LAYOUT, gathered("kfac"))
    for kind, missing in (("raw", "no grad covariance"), ("ekfac", "no grad corrected_eigval")):
        with pytest.raises(InputError, match=f"{missing} was gathered; gathered: backward"):
            influence.compute_influence(QUERIES, TRAIN, hessian=kind)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no forward covariance was gathered; gathered: nothing"):
        Influence(LAYOUT, Statistics()).compute_influence(QUERIES, TRAIN)
    statistics = Statistics({"grad": ["covariance"]})
    statistics.add_gradients("h.0.mlp", LAYOUT.unflatten(rows(TRAIN))["h.0.mlp"])
    with pytest.raises(InputError, match=r"layer h.0.att: no gradients' second moment"):
        Influence(LAYOUT, statistics).compute_influence(QUERIES, TRAIN)


def test_without_a_hessian_influence_is_the_product_of_gradients() -> None:
    influence = Influence(LAYOUT, Statistics())
    for options in ({"precondition": False}, {"hessian": "none"}):
        found = influence.compute_influence(QUERIES, TRAIN, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(found["influence"], rows(QUERIES) @ rows(TRAIN).T)


def test_auto_is_raw_then_ekfac_then_kfac() -> None:
    both = gathered("ekfac")
    both.collect({"grad": ["covariance"]})
    add(both, TRAIN)
    for statistics, kind in (
        (both, "raw"),
        (gathered("ekfac"), "ekfac"),
        (gathered("kfac"), "kfac"),
    ):
        influence = Influence(LAYOUT, statistics)
        found, named = (
            influence.compute_influence(QUERIES, TRAIN, hessian=h)
            for h in ("auto", kind)  # type: ignore[arg-type]
        )
        torch.testing.assert_close(found["influence"], named["influence"], rtol=0, atol=0)


def test_defect_21_self_influences_of_a_store_are_computed_once(
    store: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream computed them for every batch of queries."""
    calls = []
    blocks = store.blocks

    def counted(*args: Any, **options: Any) -> Iterator[tuple[int, Tensor]]:
        calls.append(options)
        return blocks(*args, **options)

    monkeypatch.setattr(store, "blocks", counted)

    def passes(**options: Any) -> int:
        calls.clear()
        # Another object, as in another process.
        Influence(LAYOUT, gathered("raw")).compute_influence_all(QUERIES, store, **options)
        return len(calls)

    assert passes() == 1
    assert passes(mode="cosine") == 2
    assert passes(mode="cosine") == passes(mode="l2") == 1
    for other in (
        {"damping": 0.3},
        {"damping": 0.4},
        {"relative_damping": 0.4},
        {"hessian": "none"},
    ):
        assert passes(mode="cosine", **other) == 2
        assert passes(mode="cosine", **other) == 1
    assert passes(mode="cosine", influence_groups=["mlp"]) == 2
    assert passes(mode="l2", influence_groups=["mlp"]) == 1


def test_a_store_that_cannot_be_written_gives_the_same_scores(
    store: LogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    influence = Influence(LAYOUT, gathered("raw"))

    def refuse(*_: object) -> None:
        raise InputError("read-only")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_column", refuse)
        found = influence.compute_influence_all(QUERIES, store, mode="l2")["influence"]
    assert not list(store.folder.glob("columns/*"))
    expected = influence.compute_influence_all(QUERIES, store, mode="l2")["influence"]
    assert isinstance(found, Tensor)
    assert isinstance(expected, Tensor)
    assert torch.equal(found, expected)


def test_layers_of_a_log_may_come_in_any_order_but_must_be_all() -> None:
    assert isinstance(TRAIN[1], dict)
    backwards = {name: TRAIN[1][name] for name in reversed(TRAIN[1])}
    assert torch.equal(flatten_log((TRAIN[0], backwards), LAYOUT), rows(TRAIN))
    with pytest.raises(InputError, match=r"a log without the gradient of layer h.0.att"):
        flatten_log((TRAIN[0], {k: v for k, v in TRAIN[1].items() if k != "h.0.att"}), LAYOUT)
    with pytest.raises(InputError, match=r"a log with gradients of \['x'\]"):
        flatten_log((TRAIN[0], {**TRAIN[1], "x": TRAIN[1]["h.0.att"]}), LAYOUT)
    with pytest.raises(InputError, match=r"shape \(11, 3\); allowed: \(11, 14\)"):
        flatten_log((TRAIN[0], rows(TRAIN)[:, :3]), LAYOUT)


def test_merged_logs_are_scored_as_one() -> None:
    influence = Influence(LAYOUT, gathered("raw"))
    ids, parts = merge_logs([QUERIES, TRAIN])
    assert ids == [*QUERIES[0], *TRAIN[0]]
    assert torch.equal(flatten_log((ids, parts), LAYOUT), torch.cat([rows(QUERIES), rows(TRAIN)]))
    flat = merge_logs([(QUERIES[0], rows(QUERIES)), (TRAIN[0], rows(TRAIN))])
    assert influence.compute_self_influence(flat)["influence"].shape == (14,)  # type: ignore[union-attr]
    for bad in ([], [QUERIES, (TRAIN[0], rows(TRAIN))], [QUERIES, (["x"], {"h.0.mlp": {}})]):
        with pytest.raises(InputError, match="allowed"):
            merge_logs(bad)


def test_unusable_input_says_what_is_allowed(store: LogStore, tmp_path: Path) -> None:
    influence = Influence(LAYOUT, gathered("raw"))
    with pytest.raises(
        InputError, match="hessian 'row'; allowed: auto, none, empirical_fisher, kfac"
    ):
        influence.compute_influence(QUERIES, TRAIN, hessian="row")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mode 'max'; allowed"):
        influence.compute_influence(QUERIES, TRAIN, mode="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"damping=0.1 and relative_damping=0.1; allowed: one"):
        influence.compute_influence(QUERIES, TRAIN, damping=0.1, relative_damping=0.1)
    with pytest.raises(InputError, match=r"a log of 2 ids and .* \(3, 14\); allowed: \(2, 14\)"):
        influence.compute_influence((QUERIES[0][:2], QUERIES[1]), TRAIN)
    with pytest.raises(InputError, match="a loader without any log"):
        influence.compute_influence_all(QUERIES, [])
    with pytest.raises(InputError, match="list; allowed: a store, or a loader of one"):
        influence.top_influences(QUERIES, [TRAIN], 2)
    other = Layout([Block("h.0.mlp", 2, 3)])
    with pytest.raises(InputError, match=r"rows of layers h.0.mlp 2x3, .*; allowed: h.0.mlp 2x3$"):
        Influence(other, Statistics()).compute_influence_all(
            (["q"], torch.ones(1, 6)), store, precondition=False
        )


@pytest.mark.parametrize("hessian", KINDS)
def test_an_absolute_damping_far_from_the_eigenvalues_is_told_of_once(
    hessian: str, caplog: pytest.LogCaptureFixture
) -> None:
    influence = Influence(LAYOUT, gathered(hessian))
    means = [c.mean_eigenvalue for c in influence.hessian().curvatures.values()]
    assert 0.1 < min(means) < max(means) < 10
    with caplog.at_level(logging.WARNING):
        for options in ({}, {"relative_damping": 1e4}, {"damping": 0.1}, {"damping": 20.0}):
            influence.compute_influence(QUERIES, TRAIN, **options)  # type: ignore[arg-type]
        influence.compute_self_influence(QUERIES)
        assert not caplog.records
        influence.compute_self_influence(QUERIES, damping=1e-5)
        influence.compute_influence(QUERIES, TRAIN, damping=1e4)
    (record,) = caplog.records
    told = f"damping=1e-05 is {1e-5 / means[0]:.3g} times the mean eigenvalue of layer h.0.mlp's H"
    assert record.message.startswith(told)
