"""Scores of each method are what their definitions say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.logra.methods.attribution import AttributionSettings, LoggedTrainingSet, attribute
from papers.logra.methods.trak import CHUNK, projected, trak_scores
from papers.logra.tasks.networks import Mlp
from papers.logra.tasks.samples import Samples, losses, margins


@pytest.fixture(autouse=True)
def exactly() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def model() -> Mlp:
    torch.manual_seed(1)
    return Mlp((5, 4, 3)).eval()


def samples(count: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return Samples(x, torch.randint(3, (count,), generator=generator))


TRAIN, QUERIES = samples(40, 0), samples(7, 1)


def gradients(model: nn.Module, data: Samples, of: Any, bias: bool) -> dict[str, Tensor]:
    """{layer: (n, width)} by autograd, one sample after the other."""
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    rows: dict[str, list[Tensor]] = {name: [] for name in layers}
    for x, y in zip(*data, strict=True):
        model.zero_grad()
        of(model(x[None]), y[None]).sum().backward()
        for name, layer in layers.items():
            parts = [layer.weight.grad, layer.bias.grad[:, None]] if bias else [layer.weight.grad]
            rows[name].append(torch.cat(parts, 1).flatten())
    return {name: torch.stack(found) for name, found in rows.items()}


def test_gradient_dot_is_the_product_of_gradients(model: Mlp, tmp_path: Path) -> None:
    settings = AttributionSettings(projection="none", hessian="none", batch_size=16)
    of_train, of_queries = (gradients(model, d, losses, False) for d in (TRAIN, QUERIES))
    expected = sum(of_queries[name] @ of_train[name].T for name in of_train)
    assert attribute(settings, model, TRAIN, QUERIES, 0, tmp_path / "log") == pytest.approx(
        expected, abs=1e-10
    )


def test_influence_is_the_damped_solve_in_each_layer(model: Mlp, tmp_path: Path) -> None:
    settings = AttributionSettings(
        projection="none", hessian="empirical_fisher", relative_damping=0.3
    )
    of_train, of_queries = (gradients(model, d, losses, False) for d in (TRAIN, QUERIES))
    expected = torch.zeros(7, 40)
    for name, rows in of_train.items():
        h = rows.T @ rows / len(rows)
        damped = h + 0.3 * h.diagonal().mean() * torch.eye(len(h))
        expected += of_queries[name] @ torch.linalg.solve(damped, rows.T)
    found = attribute(settings, model, TRAIN, QUERIES, 0, tmp_path / "log")
    assert found == pytest.approx(expected, abs=1e-8)


def test_a_projection_that_turns_space_changes_no_score(model: Mlp, tmp_path: Path) -> None:
    whole = AttributionSettings(projection="none")
    for kind in ("orthonormal", "pca"):
        turned = AttributionSettings(projection=kind, rank=100)
        scores = [attribute(s, model, TRAIN, QUERIES, 0, tmp_path / "log") for s in (whole, turned)]
        # Projections are float32.
        assert scores[0] == pytest.approx(scores[1], rel=1e-4, abs=1e-4)


def test_scores_do_not_depend_on_batches(model: Mlp, tmp_path: Path) -> None:
    found = [
        attribute(
            AttributionSettings(rank=2, batch_size=size, queries_at_once=queries),
            model,
            TRAIN,
            QUERIES,
            5,
            tmp_path / "log",
        )
        for size, queries in ((1, 2), (17, 3), (256, 100))
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-10)
    assert found[0] == pytest.approx(found[2], abs=1e-10)


def test_relatif_divides_by_the_root_of_self_influence(model: Mlp, tmp_path: Path) -> None:
    logged = LoggedTrainingSet(AttributionSettings(rank=2), model, TRAIN, 0, tmp_path / "log")
    own = LoggedTrainingSet(
        AttributionSettings(rank=2, mode="relatif"), model, TRAIN, 0, tmp_path / "own"
    )
    expected = logged.scores(QUERIES) / logged.self_influences().sqrt()
    assert own.scores(QUERIES) == pytest.approx(expected)
    assert logged.self_influences() == pytest.approx(logged.scores(TRAIN).diagonal())


@pytest.mark.parametrize("has_scored", [False, True])
def test_a_training_set_whose_folder_another_one_took_refuses_to_score(
    model: Mlp, tmp_path: Path, has_scored: bool
) -> None:
    settings, folder = AttributionSettings(rank=2, mode="relatif"), tmp_path / "log"
    older = LoggedTrainingSet(settings, model, TRAIN, 0, folder)
    if has_scored:
        older.scores(QUERIES)
    newer = LoggedTrainingSet(settings, model, samples(40, 2), 0, folder)
    for ask in (lambda: older.scores(QUERIES), older.self_influences):
        with pytest.raises(InputError, match=r"log: rows of another run.* token '\w{32}' in the"):
            ask()
    apart = LoggedTrainingSet(settings, model, samples(40, 2), 0, tmp_path / "apart")
    assert torch.equal(newer.scores(QUERIES), apart.scores(QUERIES))


def test_damping_grows_and_scores_shrink(model: Mlp, tmp_path: Path) -> None:
    logged = LoggedTrainingSet(
        AttributionSettings(projection="none"), model, TRAIN, 0, tmp_path / "log"
    )
    sizes = [float(logged.scores(QUERIES, d).norm()) for d in (0.01, 0.1, 1.0, 10.0)]
    assert sizes == sorted(sizes, reverse=True)


def test_trak_is_its_formula_with_all_parameters(model: Mlp, tmp_path: Path) -> None:
    of_train, of_queries = (
        torch.cat(list(gradients(model, d, margins, True).values()), 1) for d in (TRAIN, QUERIES)
    )
    width = of_train.shape[1]
    phi, asked = (projected(rows, 12, 3) for rows in (of_train, of_queries))
    p = model(TRAIN.x).softmax(1)[torch.arange(40), TRAIN.y]
    expected = asked @ torch.linalg.inv(phi.T @ phi) @ phi.T * (1 - p)
    assert width == 4 * 6 + 3 * 5
    found = trak_scores(model, TRAIN, QUERIES, 12, 3, batch_size=9)
    assert found == pytest.approx(expected.detach().float(), rel=1e-3, abs=1e-5)


def test_traks_projection_keeps_inner_products() -> None:
    rows = torch.randn(4, CHUNK + 1000)  # drawn in two pieces
    small = projected(rows, 1024, seed=0)
    exact, kept = rows @ rows.T, small @ small.T
    scale = rows.norm(dim=1)[:, None] * rows.norm(dim=1)[None, :]
    assert float(((kept - exact) / scale).abs().max()) < 5 / 1024**0.5
    assert projected(rows, 16, 0).equal(projected(rows, 16, 0))
    assert not projected(rows, 16, 0).equal(projected(rows, 16, 1))


def test_representations_are_what_the_head_sees(model: Mlp, tmp_path: Path) -> None:
    hidden = [model.hidden[0](data.x).relu() for data in (QUERIES, TRAIN)]
    product = attribute(
        AttributionSettings(method="representation", similarity="dot"),
        model,
        TRAIN,
        QUERIES,
        0,
        tmp_path / "log",
    )
    assert product == pytest.approx((hidden[0] @ hidden[1].T).detach())
    cosine = attribute(
        AttributionSettings(method="representation"), model, TRAIN, TRAIN, 0, tmp_path / "log"
    )
    assert cosine.diagonal() == pytest.approx(torch.ones(40))


def test_gradient_norms_are_lengths(model: Mlp, tmp_path: Path) -> None:
    settings = AttributionSettings(projection="none", hessian="none")
    rows = torch.cat(list(gradients(model, TRAIN, losses, False).values()), 1)
    found = LoggedTrainingSet(settings, model, TRAIN, 0, tmp_path / "log").gradient_norms()
    assert found == pytest.approx(rows.norm(dim=1))


def test_self_influences_of_whole_gradients_are_those_of_stored_ones(
    model: Mlp, tmp_path: Path
) -> None:
    turned = AttributionSettings(projection="orthonormal", rank=100)
    found = [
        LoggedTrainingSet(settings, model, TRAIN, 0, tmp_path / "log").self_influences()
        for settings in (AttributionSettings(projection="none", batch_size=7), turned)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_method_without_h_refuses_settings_of_h() -> None:
    with pytest.raises(ValueError, match="takes no settings of influence functions"):
        AttributionSettings(method="trak", rank=4)
