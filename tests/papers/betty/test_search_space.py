"""Facts of DARTS' search space: operations, cells, networks, and what a search derives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from common.tasks.augmentation import crop_and_flip, cutout
from papers.betty.tasks.cell_network import CellNetwork, MixedOperation, dropped, reductions
from papers.betty.tasks.cell_training import parameters
from papers.betty.tasks.search_space import (
    CONNECTIONS,
    OPERATIONS,
    Cells,
    Edge,
    Wiring,
    all_candidates,
    derived,
    drawn,
    edge_count,
)


def wired(*nodes: str) -> Wiring:
    """Nodes as ``"0 sep_conv_3x3, 1 skip_connect"``."""
    pairs = [[edge.split() for edge in node.split(", ")] for node in nodes]
    return tuple(tuple(Edge(int(source), (name,)) for source, name in node) for node in pairs)


#: The cells that DARTS' second-order search found. Liu et al. 2019, Fig. 4 and 5.
PUBLISHED = Cells(
    wired(
        "0 sep_conv_3x3, 1 sep_conv_3x3",
        "0 sep_conv_3x3, 1 sep_conv_3x3",
        "0 skip_connect, 1 sep_conv_3x3",
        "0 skip_connect, 2 dil_conv_3x3",
    ),
    wired(
        "0 max_pool_3x3, 1 max_pool_3x3",
        "1 max_pool_3x3, 2 skip_connect",
        "0 max_pool_3x3, 2 skip_connect",
        "1 max_pool_3x3, 2 skip_connect",
    ),
)
ONE_NODE = Cells(wired("0 sep_conv_3x3, 1 skip_connect"), wired("0 max_pool_3x3, 1 dil_conv_5x5"))


def test_networks_at_the_published_settings_have_the_published_sizes() -> None:
    """1.93 M while searching; the published cells in a 20-cell network 3.3 M."""
    with torch.device("meta"):
        searched = CellNetwork(all_candidates(4), 8, 16, 3, affine=False)
        final = CellNetwork(PUBLISHED, 20, 36, 3, affine=True, auxiliary=True)
    assert parameters(searched) == 1_930_618
    assert parameters(final) == 3_349_342
    assert sum(p.numel() for p in final.parameters()) > 3_349_342


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_the_channels_and_divides_the_resolution(
    name: str, stride: int, affine: bool
) -> None:
    operation = OPERATIONS[name](6, stride, affine)
    assert operation(torch.randn(2, 6, 8, 8)).shape == (2, 6, 8 // stride, 8 // stride)
    norms = [part for part in operation.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(norm.affine == affine for norm in norms)
    plain = (
        name == "none" or (name == "skip_connect" and stride == 1) or ("pool" in name and affine)
    )
    assert bool(norms) != plain


@pytest.mark.parametrize(
    ("name", "reach"),
    [("sep_conv_3x3", 2), ("sep_conv_5x5", 4), ("dil_conv_3x3", 2), ("dil_conv_5x5", 4)],
)
def test_convolutions_see_as_far_as_their_kernels_reach(name: str, reach: int) -> None:
    """Twice a 3x3 kernel reaches 2 pixels, and so does one of dilation 2."""
    operation = OPERATIONS[name](1, 1, False).eval()
    for weight in operation.parameters():
        nn.init.ones_(weight)
    x = torch.ones(1, 1, 17, 17, requires_grad=True)
    operation(x)[0, 0, 8, 8].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero()
    assert (int(seen.min()), int(seen.max())) == (8 - reach, 8 + reach)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("place", range(len(OPERATIONS)))
def test_a_mixture_of_one_candidate_is_that_operation(place: int, stride: int) -> None:
    torch.manual_seed(0)
    edge = MixedOperation(Edge(0, tuple(OPERATIONS)), 4, stride, affine=False)
    x = torch.randn(3, 4, 8, 8)
    assert_close(edge(x, torch.eye(8)[place]), edge.candidates[place](x))


def test_reduction_cells_stand_at_one_and_two_thirds() -> None:
    assert [sorted(reductions(depth)) for depth in (3, 8, 20)] == [[1, 2], [2, 5], [6, 13]]
    torch.manual_seed(0)
    network = CellNetwork(ONE_NODE, 8, 4, 1, affine=True)
    shapes: list[Any] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _cell, _given, out: shapes.append(tuple(out.shape[1:])))
    assert network(torch.randn(2, 1, 8, 8)).main.shape == (2, 10)
    assert shapes == [*[(4, 8, 8)] * 2, *[(8, 4, 4)] * 3, *[(16, 2, 2)] * 3]


def test_the_second_head_is_there_in_training_alone() -> None:
    network = CellNetwork(PUBLISHED, 3, 2, 3, affine=True, auxiliary=True)
    images = torch.randn(2, 3, 32, 32)
    main, auxiliary = network(images)
    assert main.shape == (2, 10)
    assert auxiliary is not None
    assert auxiliary.shape == (2, 10)
    assert network.eval()(images).auxiliary is None


def test_derived_cells_keep_the_two_strongest_edges_of_a_node() -> None:
    """By their largest weight but for ``none``, which is the largest everywhere here."""
    weights = torch.zeros(2, edge_count(2), len(OPERATIONS))
    weights[:, :, 0] = 0.6
    operation = {name: place for place, name in enumerate(OPERATIONS)}
    normal, reduction = weights
    normal[0, operation["skip_connect"]] = 0.1
    normal[1, operation["sep_conv_5x5"]] = 0.2
    normal[2, operation["max_pool_3x3"]] = 0.3
    normal[3, operation["dil_conv_3x3"]] = 0.1
    normal[3, operation["avg_pool_3x3"]] = 0.05
    normal[4, operation["dil_conv_5x5"]] = 0.4
    reduction[:, operation["sep_conv_3x3"]] = torch.tensor([0.1, 0.2, 0.1, 0.3, 0.2])
    assert derived(weights) == Cells(
        wired("0 skip_connect, 1 sep_conv_5x5", "0 max_pool_3x3, 2 dil_conv_5x5"),
        wired("0 sep_conv_3x3, 1 sep_conv_3x3", "1 sep_conv_3x3, 2 sep_conv_3x3"),
    )


def test_the_largest_weights_of_a_cell_derive_it() -> None:
    """The mixture that is one on a cell's own edges gives that cell back."""
    for seed in range(5):
        cells = drawn(4, np.random.default_rng(seed))
        mixture = torch.zeros(2, edge_count(4), len(OPERATIONS))
        for weights, wiring in zip(mixture, cells, strict=True):
            for node, edges in enumerate(wiring):
                for source, (name,) in edges:
                    weights[edge_count(node) + source, list(OPERATIONS).index(name)] = 1.0
        assert derived(mixture) == cells


def test_random_cells_read_two_different_states() -> None:
    rng = np.random.default_rng(0)
    cells = [drawn(4, rng) for _ in range(50)]
    sources = [
        [source for source, _ in node] for cell in cells for node in (*cell.normal, *cell.reduction)
    ]
    assert all(len(set(pair)) == 2 for pair in sources)
    for node in range(4):
        assert {place for pair in sources[node::4] for place in pair} == set(range(2 + node))
    names = {edge.candidates for cell in cells for node in cell.normal for edge in node}
    assert names == {(name,) for name in CONNECTIONS}


def test_drop_path_keeps_the_expectation_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    x = torch.rand(20_000, 2, 1, 1) + 1
    out = dropped(x, 0.2)
    kept = out[:, 0, 0, 0] != 0
    assert torch.equal(kept, out[:, 1, 0, 0] != 0)
    assert_close(out[kept], x[kept] / 0.8)
    assert float(out.mean()) == pytest.approx(float(x.mean()), rel=0.02)
    assert dropped(x, 0.0) is x


def test_paths_are_dropped_while_training_but_for_identities() -> None:
    torch.manual_seed(0)
    pools = wired("0 max_pool_3x3, 1 max_pool_3x3")
    network = CellNetwork(Cells(pools, pools), 3, 2, 1, affine=True)
    network.drop_path = 0.5
    x = torch.randn(8, 1, 8, 8)
    first, second = network(x).main, network(x).main
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(network(x).main, network(x).main)
    cell = CellNetwork(
        Cells(wired("0 skip_connect, 1 skip_connect"), pools), 3, 2, 1, affine=True
    ).cells[0]
    y = torch.randn(8, 6, 8, 8)
    assert torch.equal(cell(y, y, None, 0.5), cell(y, y, None, 0.5))


def pixels(count: int) -> Tensor:
    """(count, 3, 8, 8) images of different, nonzero values."""
    return torch.arange(1.0, 1 + count * 192).reshape(count, 3, 8, 8)


@pytest.mark.parametrize("padding", ["constant", "reflect"])
def test_a_crop_is_a_shifted_image_flipped_or_not(padding: Any) -> None:
    torch.manual_seed(0)
    images = pixels(64)
    changed = crop_and_flip(images, margin=1, padding=padding)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode=padding)
    shifts = [padded[:, :, a : a + 8, b : b + 8] for a in range(3) for b in range(3)]
    options = torch.stack([*shifts, *(shift.flip(3) for shift in shifts)])
    same = (options == changed).flatten(2).all(2)
    assert same.any(0).all()
    assert same.any(1).sum() > 9


def test_a_cutout_is_one_square_of_each_image() -> None:
    torch.manual_seed(0)
    gone = cutout(pixels(200), 4) == 0
    assert torch.equal(gone[:, 0], gone[:, 2])
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(gone[:, 0].sum((1, 2)), rows * columns)
    assert rows.min() >= 2
    assert rows.max() == columns.max() == 4
    assert len(torch.unique(gone[:, 0].flatten(1), dim=0)) > 30
