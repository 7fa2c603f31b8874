"""Layers that share a block are one layer used several times, between projections of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.logra import LoggingConfig, LogIX, LogIXScheduler, LoRAConfig
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.projections import Projections, random_projections
from papers.logra.gradients.watching import watched
from papers.logra.session.configs import Config, read_config

N, RANK = 7, 2
GROUPS = {"first": ["0.up", "1.up"], "second": ["0.down", "1.down"]}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))  # type: ignore[no-any-return]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block()).double()


def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, 3, 4, generator=generator, dtype=torch.float64)


def captured(
    model: nn.Module, projections: Projections, statistics: Statistics | None = None
) -> dict[str, Tensor]:
    capture = Capture(
        model, watched(model), projections, shared=projections.shared, statistics=statistics
    )
    with capture.batch() as batch:
        model(tokens()).square().sum().backward()
    return batch.gradients


def shared(apart: Projections) -> Projections:
    of = {layer: group for group, layers in GROUPS.items() for layer in layers}
    return Projections(apart, of)


@pytest.fixture
def new_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LogIX]:
    monkeypatch.chdir(tmp_path)

    def new(project: str = "project", **lora: Any) -> LogIX:
        run = LogIX(project, logging_config=LoggingConfig(log_dtype="float64"))
        run.set_lora_config(LoRAConfig(rank=RANK, **lora))
        run.watch(network())
        return run

    return new


def logged(run: LogIX, **schedule: Any) -> LogIX:
    model = run._model().model
    for _ in LogIXScheduler(run, save="grad", **schedule):
        for part in torch.arange(N).tensor_split(3):
            with run(data_id=part):
                model(tokens()[part]).square().sum().backward()
    run.finalize()
    return run


def test_the_gradient_of_a_shared_block_is_the_sum_of_those_apart() -> None:
    model = network()
    apart = random_projections(watched(model), RANK, seed=0)
    whole = captured(model, apart)
    found = captured(model, shared(apart))
    assert list(found) == ["first", "second"]
    for group, layers in GROUPS.items():
        torch.testing.assert_close(found[group], sum(whole[layer] for layer in layers))
    assert shared(apart).layout.width == 2 * RANK * RANK


def test_each_layer_keeps_its_own_matrices_so_products_stay_those_of_whole_gradients() -> None:
    """With one pair for all, the layers' gradients would add up before they are projected."""
    model, found = network(), torch.zeros(N, N)
    layers = {name: layer for name, layer in watched(model).items() if "up" in name}
    capture = Capture(model, layers)
    with capture.batch() as batch:
        model(tokens()).square().sum().backward()
    expected = batch.matrix @ batch.matrix.T
    for seed in range(400):
        apart = random_projections(layers, 4, seed, orthonormal=True)
        block = Projections(apart, dict.fromkeys(layers, "all"))
        assert not torch.equal(*(apart[name].inner for name in layers))
        capture = Capture(model, layers, block, shared=block.shared)
        with capture.batch() as batch:
            model(tokens()).square().sum().backward()
        # Of 6 rows of P_o 4 are kept; P_i turns.
        found += batch.matrix.float() @ batch.matrix.float().T * 6 / 4 / 400
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=0.05 * float(expected.max()))


def test_statistics_of_a_shared_block_are_those_of_all_its_uses() -> None:
    model = network()
    apart = random_projections(watched(model), RANK, seed=0)
    kinds = {"forward": ["covariance"], "backward": ["covariance"], "grad": ["covariance"]}
    each, both = Statistics(kinds), Statistics(kinds)
    captured(model, apart, each)
    found = captured(model, shared(apart), both)
    both.check(shared(apart).layout)
    for group, layers in GROUPS.items():
        for kind in ("forward", "backward"):
            mean = sum(each.covariance(kind)[layer] for layer in layers) / len(layers)  # type: ignore[arg-type]
            torch.testing.assert_close(both.covariance(kind)[group], mean)  # type: ignore[arg-type]
        rows = found[group].flatten(1)
        torch.testing.assert_close(both.covariance("grad")[group], rows.T @ rows / N)


@pytest.mark.parametrize("hessian", ["raw", "ekfac"])
@pytest.mark.parametrize("lora", ["random", "pca"])
def test_a_group_of_one_layer_changes_no_score(
    new_run: Callable[..., LogIX], lora: str, hessian: str
) -> None:
    names = list(watched(network()))
    scores = []
    for project, options in (
        ("apart", {}),
        ("shared", {"parameter_sharing": True, "parameter_sharing_groups": names}),
    ):
        run = logged(new_run(project, **options), lora=lora, hessian=hessian)
        _, row = run.build_log_dataset(flatten=True)[0]
        assert isinstance(row, Tensor)
        found = run.compute_influence_all((["q"], row.unsqueeze(0)))["influence"]
        assert isinstance(found, Tensor)
        scores.append(found)
    assert torch.equal(*scores)


@pytest.mark.parametrize("hessian", ["raw", "ekfac"])
def test_scores_with_shared_blocks_are_a_dense_solve(
    new_run: Callable[..., LogIX], hessian: str
) -> None:
    options = {"parameter_sharing": True, "parameter_sharing_groups": ["up", "down"]}
    run = logged(new_run(**options), lora="random", hessian=hessian)
    assert [block.name for block in run.layout.blocks] == ["up", "down"]
    rows = run.folder.open().rows(0, N, dtype=torch.float64)
    found = run.compute_influence_all((["q"], rows[:1]))["influence"]
    expected = torch.zeros(1, N).double()
    for name, part in run.layout.slices.items():
        g = rows[:, part]
        h = g.T @ g / N
        if hessian == "ekfac":
            basis = run.statistics.eigenbases[name]
            q = torch.kron(basis.backward.contiguous(), basis.forward.contiguous())
            h = q @ ((g @ q).square().mean(0).diag()) @ q.T
        h += 0.1 * h.trace() / len(h) * torch.eye(len(h))
        expected += rows[:1, part] @ torch.linalg.solve(h, g.T)
    torch.testing.assert_close(found, expected)


def test_without_groups_all_layers_share_one_block(new_run: Callable[..., LogIX]) -> None:
    run = new_run(parameter_sharing=True)
    run.add_lora()
    assert [tuple(block) for block in run.layout.blocks] == [("shared", RANK, RANK)]


def test_another_run_takes_up_who_shares(new_run: Callable[..., LogIX]) -> None:
    options = {"parameter_sharing": True, "parameter_sharing_groups": ["up", "down"]}
    first = logged(new_run(**options), lora="random", hessian="raw")
    later = new_run()
    later.initialize_from_log()
    assert later.layout == first.layout
    assert later.projections is not None
    assert later.projections.shared == {
        f"{i}.{part}": part for i in (0, 1) for part in ("up", "down")
    }
    later.build_log_dataset()
    apart = new_run("apart")
    apart.add_lora()
    assert apart.projections is not None
    assert apart.projections.digest != later.projections.digest


def test_groups_that_do_not_part_the_layers_are_refused(new_run: Callable[..., LogIX]) -> None:
    for groups, message in (
        (["up"], r"layer 0.down is in parameter_sharing_groups \[\]; allowed: one of \['up'\]"),
        (["up", "down", "0"], r"layer 0.up is in parameter_sharing_groups \['up', '0'\]; allowed"),
    ):
        run = new_run(parameter_sharing=True, parameter_sharing_groups=groups)
        with pytest.raises(InputError, match=message):
            run.add_lora()
    run = new_run(parameter_sharing=True, parameter_sharing_groups=["up", "down"])
    run.add_lora()
    with pytest.raises(InputError, match=r"block up without its layer 1.up; allowed: all or none"):
        run.watch(run._model().model, name_filter=["0.up", "down"])
    run.watch(run._model().model, name_filter=["up"])
    assert [block.name for block in run.layout.blocks] == ["up"]


def test_layers_of_two_shapes_do_not_share(new_run: Callable[..., LogIX]) -> None:
    run = new_run(parameter_sharing=True)
    run.watch(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 1)))
    message = "layer 1, 1x2, shares block shared, 2x2; allowed: one shape"
    with pytest.raises(InputError, match=message):
        run.add_lora()


def test_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("lora: {parameter_sharing: true, parameter_sharing_groups: [up, down]}")
    expected = LoRAConfig(parameter_sharing=True, parameter_sharing_groups=["up", "down"])
    assert read_config(path) == Config(lora=expected)
    for text, message in (
        ("lora: {parameter_sharing_groups: [up]}", "without sharing; allowed: sharing true"),
        ("lora: {parameter_sharing: true, parameter_sharing_groups: []}", "at least 1 item"),
        ("lora: {parameter_sharing: true, parameter_sharing_groups: up}", "valid list"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_config(path)
