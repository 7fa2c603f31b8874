"""Random projections are the published ones, principal ones keep the most."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from common.errors import InputError
from papers.logra.curvature.moments import Statistics
from papers.logra.gradients.projections import Projections, pca_projections, random_projections


def layers() -> dict[str, nn.Module]:
    return {
        "wide": nn.Linear(300, 200),
        "image": nn.Conv2d(3, 16, 5),
        "head": nn.Linear(8, 10, bias=False),
        "table": nn.Embedding(50, 12),
    }


@settings(max_examples=15, deadline=None)
@given(rank=st.integers(1, 400), bias=st.booleans())
def test_ranks_stop_at_the_width_of_a_layer(rank: int, bias: bool) -> None:
    found = random_projections(layers(), rank, seed=0, bias=bias)
    # Both sides have their own width: 75 inputs of a patch of 3 channels, not 3.
    widths = {
        "wide": (300 + bias, 200),
        "image": (75 + bias, 16),
        "head": (8, 10),
        "table": (50, 12),
    }
    assert list(found) == list(widths)
    for name, (inner, out) in widths.items():
        assert found[name].inner.shape == (min(rank, inner), inner)
        assert found[name].out.shape == (min(rank, out), out)
    assert [(b.out, b.inner) for b in found.layout.blocks] == [
        (min(rank, out), min(rank, inner)) for inner, out in widths.values()
    ]


def test_entries_are_uniform_as_published() -> None:
    p_i, p_o = random_projections(layers(), 64, seed=0)["wide"]
    for matrix, fan_in in ((p_i, 300), (p_o, 64)):
        assert matrix.abs().max() <= fan_in**-0.5
        assert matrix.abs().max() > 0.99 * fan_in**-0.5
        assert matrix.var().item() == pytest.approx(1 / (3 * fan_in), rel=0.03)
        assert matrix.mean().item() == pytest.approx(0, abs=0.01 * fan_in**-0.5)


def test_a_seed_and_a_name_give_the_numbers() -> None:
    one = random_projections(layers(), 4, seed=0)
    torch.rand(3)
    alone = random_projections({"head": layers()["head"]}, 4, seed=0)
    assert torch.equal(one["head"].inner, alone["head"].inner)
    assert torch.equal(one["head"].out, alone["head"].out)
    twins = random_projections({"a": nn.Linear(5, 5), "b": nn.Linear(5, 5)}, 4, seed=0)
    assert not torch.equal(twins["a"].inner, twins["b"].inner)
    assert one.digest == random_projections(layers(), 4, seed=0).digest
    assert one.digest != random_projections(layers(), 4, seed=1).digest


def test_orthonormal_rows() -> None:
    found = random_projections(layers(), 64, seed=0, bias=True, orthonormal=True)
    for pair in found.values():
        for matrix in pair:
            torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0)


def test_principal_rows_keep_the_most() -> None:
    torch.manual_seed(0)
    statistics = Statistics({"forward": ["covariance"], "backward": ["covariance"]})
    rows = {"forward": torch.randn(1, 100, 9), "backward": torch.randn(1, 100, 4) + 1}
    for kind, values in rows.items():
        statistics.add(kind, "it", values * torch.arange(1, values.shape[2] + 1))
    found = pca_projections(statistics, 5)["it"]
    for matrix, kind in zip(found, rows, strict=True):
        covariance = statistics.covariance(kind)["it"].float()
        rank = min(5, len(covariance))
        assert matrix.shape == (rank, len(covariance))
        values = torch.linalg.eigvalsh(covariance).flip(0)[:rank]
        projected = matrix @ covariance @ matrix.T
        torch.testing.assert_close(projected, values.diag(), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(rank))


def test_principal_rows_need_both_covariances() -> None:
    statistics = Statistics({"forward": ["covariance"], "backward": ["covariance"]})
    with pytest.raises(InputError, match="no forward covariance was gathered"):
        pca_projections(statistics, 2)
    statistics.add("forward", "it", torch.ones(1, 2, 3))
    with pytest.raises(InputError, match="no backward covariance was gathered"):
        pca_projections(statistics, 2)
    statistics.add("backward", "other", torch.ones(1, 2, 3))
    with pytest.raises(InputError, match=r"layers \['it', 'other'\] have one covariance of two"):
        pca_projections(statistics, 2)


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="rank 0; allowed: at least 1"):
        random_projections(layers(), 0, seed=0)


class TestFiles:
    def test_hold_everything(self, tmp_path: Path) -> None:
        found = random_projections(layers(), 4, seed=0)
        found.save(tmp_path / "projections.safetensors")
        loaded = Projections.load(tmp_path / "projections.safetensors")
        assert list(loaded) == list(found)
        assert loaded.digest == found.digest
        assert torch.equal(loaded["image"].inner, found["image"].inner)

    def test_may_share_memory(self, tmp_path: Path) -> None:
        matrix = torch.eye(3)
        Projections({"it": (matrix, matrix)}).save(tmp_path / "p")
        assert torch.equal(Projections.load(tmp_path / "p")["it"].out, matrix)

    def test_that_were_altered_or_are_of_another_kind_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "projections.safetensors"
        random_projections(layers(), 4, seed=0).save(path)
        content = bytearray(path.read_bytes())
        assert len(load_file(path)) == 8
        content[-5] ^= 4
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"projections.safetensors: altered since"):
            Projections.load(path)
        Statistics().save(path)
        with pytest.raises(InputError, match="LoGra statistics, version 1; allowed: LoGra proj"):
            Projections.load(path)
