"""Moments are those of all rows, however these come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing, nn

from common.errors import InputError
from common.training.peak_memory import peak_tensor_bytes
from papers.logra.curvature.layout import Block, Layout
from papers.logra.curvature.moments import Statistics
from papers.logra.curvature.product_sums import RowMoment
from papers.logra.curvature.tensor_files import read_tensors, write_tensors
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.projections import random_projections
from papers.logra.gradients.watching import watched

MOMENTS = ["mean", "variance", "covariance"]
ALL = {"forward": MOMENTS, "backward": MOMENTS, "grad": MOMENTS}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def sequences(samples: int = 6, tokens: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(samples, tokens, 3).double(), torch.rand(samples, tokens) > 0.4


def gathered(statistics: Statistics, batch_size: int, masked: bool = True) -> Statistics:
    """Statistics of the sequences, a batch at a time."""
    net = model()
    capture = Capture(net, watched(net), bias=True, statistics=statistics)
    data, mask = sequences()
    for part, of_part in zip(data.split(batch_size), mask.split(batch_size), strict=True):
        with capture.batch(of_part if masked else None):
            net(part).pow(3).sum().backward()
    return statistics


def flatten_log(kind: str, masked: bool) -> dict[str, Tensor]:
    """{layer: (rows, width)} by autograd, without any of the package."""
    net, (data, mask) = model(), sequences()
    hidden = net[0](data)
    middle = net[1](hidden)
    out = net[2](middle)
    errors = torch.autograd.grad(out.pow(3).sum(), [hidden, out])
    one = torch.ones(*mask.shape, 1).double()
    inputs = {"0": torch.cat([data, one], 2), "2": torch.cat([middle.detach(), one], 2)}
    outputs = dict(zip(inputs, errors, strict=True))
    if kind == "grad":
        return {name: (outputs[name].mT @ inputs[name]).flatten(1) for name in inputs}
    whole = {"forward": inputs, "backward": outputs}[kind]
    return {name: rows[mask] if masked else rows.flatten(0, 1) for name, rows in whole.items()}


@settings(max_examples=6, deadline=None)
@given(batch_size=st.integers(1, 6), masked=st.booleans())
def test_moments_are_those_of_all_rows_at_any_batch_size(batch_size: int, masked: bool) -> None:
    statistics = gathered(Statistics(ALL), batch_size, masked)
    for kind in ("forward", "backward", "grad"):
        rows = flatten_log(kind, masked)
        for name, expected in rows.items():
            assert statistics.counts(kind)[name] == len(expected)
            second = expected.T @ expected / len(expected)
            torch.testing.assert_close(statistics.mean(kind)[name], expected.mean(0))
            torch.testing.assert_close(
                statistics.variance(kind)[name], expected.var(0, correction=0)
            )
            torch.testing.assert_close(statistics.covariance(kind)[name], second)


def test_reading_changes_nothing() -> None:
    statistics = gathered(Statistics(ALL), 2)
    first = statistics.covariance("forward")["0"].clone()
    statistics.all_reduce()
    statistics.covariance("forward")["0"].zero_()
    assert torch.equal(statistics.covariance("forward")["0"], first)


def test_projected_rows_are_gathered_where_gradients_are_projected() -> None:
    net, (data, mask) = model(), sequences()
    layers = watched(net)
    projections = random_projections(layers, 2, seed=0, bias=True)
    statistics = Statistics(ALL)
    with Capture(net, layers, projections, bias=True, statistics=statistics).batch(mask):
        net(data).pow(3).sum().backward()
    whole = gathered(Statistics(ALL), 6)
    for side, kind in enumerate(("forward", "backward")):
        for name, found in statistics.covariance(kind).items():
            matrix = projections[name][side].double()
            torch.testing.assert_close(found, matrix @ whole.covariance(kind)[name] @ matrix.T)


def test_tokens_that_do_not_count_may_be_nan() -> None:
    statistics = Statistics({"forward": MOMENTS})
    rows = torch.tensor([[[1.0], [float("nan")]]])
    statistics.add("forward", "it", rows, torch.tensor([[1, 0]]))
    for moment, expected in (("mean", 1.0), ("variance", 0.0), ("covariance", 1.0)):
        assert getattr(statistics, moment)("forward")["it"].item() == expected


def test_a_pass_for_statistics_forms_no_gradients() -> None:
    net, (data, mask) = model(), sequences()
    statistics = Statistics({"forward": ["covariance"], "backward": ["covariance"]})
    capture = Capture(net, watched(net), bias=True, statistics=statistics, gradients=False)
    with capture.batch(mask) as batch:
        net(data).pow(3).sum().backward()
    with pytest.raises(InputError, match="of a capture without gradients"):
        _ = batch.gradients
    whole = gathered(Statistics(ALL), 6)
    for kind in ("forward", "backward"):
        for name, found in statistics.covariance(kind).items():
            torch.testing.assert_close(found, whole.covariance(kind)[name])


def test_eigenvalues_are_corrected_by_a_second_pass() -> None:
    statistics = gathered(Statistics({"forward": ["covariance"], "backward": ["covariance"]}), 3)
    covariances = {kind: statistics.covariance(kind) for kind in ("forward", "backward")}
    statistics.collect({"grad": ["corrected_eigval"]})
    gathered(statistics, 4)
    for kind, first in covariances.items():
        for name, found in statistics.covariance(kind).items():
            assert torch.equal(found, first[name])
    for name, rows in flatten_log("grad", masked=False).items():
        forward, backward = statistics.eigenbases[name]
        values, vectors = torch.linalg.eigh(covariances["forward"][name])
        torch.testing.assert_close(forward * values @ forward.T, covariances["forward"][name])
        torch.testing.assert_close(forward, vectors)
        gradients = rows.unflatten(1, (len(backward), len(forward)))
        rotated = torch.einsum("ob,noi,if->nbf", backward, gradients, forward)
        expected = rotated.square().mean(0)
        torch.testing.assert_close(statistics.corrected_eigenvalues()[name], expected)
        # A rotation keeps the sum of squares.
        trace = rows.square().sum(1).mean()
        torch.testing.assert_close(statistics.corrected_eigenvalues()[name].sum(), trace)


FACTORS = {"forward": ["covariance"], "backward": ["covariance"]}
CORRECTED = {"grad": ["corrected_eigval"]}


def draw(
    seed: int, inner: int = 5, out: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Inputs (n, 1, inner) and output gradients (n, 1, out) of a layer of vectors."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(20, 1, inner, generator=generator, dtype=dtype)
    return inputs, torch.randn(20, 1, out, generator=generator, dtype=dtype)


def first_pass(statistics: Statistics, inputs: Tensor, errors: Tensor) -> None:
    statistics.collect(FACTORS)
    statistics.add("forward", "it", inputs)
    statistics.add("backward", "it", errors)


def second_pass(statistics: Statistics, inputs: Tensor, errors: Tensor) -> None:
    statistics.collect(CORRECTED)
    statistics.add_gradients("it", errors.mT @ inputs)


def both(*seeds: int) -> tuple[Tensor, Tensor]:
    inputs, errors = zip(*map(draw, seeds), strict=True)
    return torch.cat(inputs), torch.cat(errors)


def test_eigenvalues_are_those_along_one_set_of_eigenvectors() -> None:
    """EKFAC twice in one run: new samples turn the eigenvectors, and all are given again."""
    statistics, whole = Statistics(), Statistics()
    for new, seen in ((draw(0), draw(0)), (draw(1), both(0, 1))):
        first_pass(statistics, *new)
        before = statistics.revision
        statistics.collect(CORRECTED)
        assert not statistics.has("grad", "corrected_eigval")
        second_pass(statistics, *seen)
    assert statistics.revision == before + 2  # the old sum was forgotten, a new one begun
    first_pass(whole, *both(0, 1))
    second_pass(whole, *both(0, 1))
    assert statistics.counts("grad") == {"it": 40.0}
    torch.testing.assert_close(
        statistics.corrected_eigenvalues()["it"], whole.corrected_eigenvalues()["it"]
    )


@pytest.mark.parametrize("restored", [False, True])
def test_more_samples_add_to_eigenvalues_while_eigenvectors_stay(restored: bool) -> None:
    statistics, whole = Statistics(), Statistics()
    for each in (statistics, whole):
        first_pass(each, *both(0, 1))
    second_pass(statistics, *draw(0))
    if restored:
        statistics.restore(*statistics.state())
    second_pass(statistics, *draw(1))
    second_pass(whole, *both(0, 1))
    assert statistics.counts("grad") == {"it": 40.0}
    torch.testing.assert_close(
        statistics.corrected_eigenvalues()["it"], whole.corrected_eigenvalues()["it"]
    )


def test_eigenvectors_of_covariances_that_were_cleared_are_not_taken_for_new_ones() -> None:
    statistics, fresh = Statistics(), Statistics()
    first_pass(statistics, *draw(0))
    second_pass(statistics, *draw(0))
    statistics.clear()
    with pytest.raises(InputError, match="no forward covariance was gathered"):
        statistics.collect(CORRECTED)
    for each in (statistics, fresh):
        first_pass(each, *draw(1))
        second_pass(each, *draw(1))
    assert torch.equal(
        statistics.corrected_eigenvalues()["it"], fresh.corrected_eigenvalues()["it"]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("inner", "out"), [(2, 2), (5, 3), (64, 33)])
def test_a_second_pass_that_goes_on_from_a_file_ends_in_the_same_bits(
    tmp_path: Path, dtype: torch.dtype, inner: int, out: int
) -> None:
    """Whatever a product does with matrices in another layout."""
    whole, killed = Statistics(dtype=dtype), Statistics(dtype=dtype)
    parts = [draw(seed, inner, out, dtype) for seed in (0, 1)]
    for each in (whole, killed):
        first_pass(each, *parts[0])
        second_pass(each, *parts[0])
    write_tensors(tmp_path / "file", "statistics", *killed.state())
    resumed = Statistics(dtype=dtype)
    resumed.collect(FACTORS)
    first_pass(resumed, *parts[0])
    resumed.collect(CORRECTED)
    resumed.restore(*read_tensors(tmp_path / "file", "statistics"))
    for each in (whole, resumed):
        each.add_gradients("it", parts[1][1].mT @ parts[1][0])
    for side in (0, 1):
        mine, theirs = (each.eigenbases["it"][side] for each in (resumed, whole))
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()
    assert torch.equal(resumed.corrected_eigenvalues()["it"], whole.corrected_eigenvalues()["it"])


def test_statistics_of_a_failed_batch_are_refused() -> None:
    statistics = gathered(Statistics(ALL), 2)
    net = model()
    with (
        pytest.raises(InputError, match="no gradient arrived"),
        Capture(net, watched(net), bias=True, statistics=statistics).batch(),
    ):
        net(sequences()[0])
    with pytest.raises(InputError, match="part of a batch that failed; allowed: clear"):
        statistics.covariance("grad")
    statistics.clear()
    assert statistics.counts("forward") == {}
    again = gathered(statistics, 2).covariance("grad")
    assert torch.equal(again["0"], gathered(Statistics(ALL), 2).covariance("grad")["0"])


def test_single_precision_sums_are_close() -> None:
    exact, single = (gathered(Statistics(ALL, dtype=d), 2) for d in (torch.float64, torch.float32))
    for kind in ("forward", "backward", "grad"):
        for name, found in single.covariance(kind).items():
            assert found.dtype == torch.float32
            torch.testing.assert_close(
                found.double(), exact.covariance(kind)[name], rtol=1e-4, atol=1e-6
            )


class TestFiles:
    def saved(self, folder: Path) -> tuple[Statistics, Path]:
        statistics = gathered(Statistics(ALL), 2)
        statistics.collect({"grad": ["corrected_eigval"]})
        path = folder / "statistics.safetensors"
        gathered(statistics, 3).save(path)
        return statistics, path

    def test_hold_everything(self, tmp_path: Path) -> None:
        statistics, path = self.saved(tmp_path)
        loaded = Statistics.load(path, Layout([Block("0", 4, 4), Block("2", 2, 5)]))
        for kind in ("forward", "backward", "grad"):
            assert loaded.counts(kind) == statistics.counts(kind)
            for moment in MOMENTS:
                for name, found in getattr(loaded, moment)(kind).items():
                    assert torch.equal(found, getattr(statistics, moment)(kind)[name])
        for name, found in loaded.corrected_eigenvalues().items():
            assert torch.equal(found, statistics.corrected_eigenvalues()[name])
            for side in (0, 1):
                assert torch.equal(loaded.eigenbases[name][side], statistics.eigenbases[name][side])
        loaded.collect(ALL)
        gathered(loaded, 6)
        assert loaded.counts("forward")["0"] == 2 * statistics.counts("forward")["0"]

    def test_of_few_wide_rows_hold_these_and_go_on(self, tmp_path: Path) -> None:
        rows = torch.randn(60, 16, 16)
        few, whole = (Statistics({"grad": ["covariance"]}) for _ in range(2))
        few.add_gradients("it", rows[:50])
        few.save(tmp_path / "few")
        loaded = Statistics.load(tmp_path / "few", Layout([Block("it", 16, 16)]))
        for statistics in (few, loaded):
            moment = statistics.second_moments("grad", wide=255)["it"]
            assert isinstance(moment, RowMoment)
            assert torch.equal(moment.rows, rows[:50].flatten(1))
            assert moment.number == 50
            covariance = statistics.covariance("grad")["it"]
            assert torch.equal(statistics.second_moments("grad", wide=256)["it"], covariance)
        for part in (rows[:50], rows[50:]):
            whole.add_gradients("it", part)
        loaded.collect({"grad": ["covariance"]})
        loaded.add_gradients("it", rows[50:])
        assert torch.equal(loaded.covariance("grad")["it"], whole.covariance("grad")["it"])
        assert (tmp_path / "few").stat().st_size < 1.1 * rows[:50].nbytes

    @pytest.mark.parametrize(
        ("blocks", "message"),
        [
            ([Block("0", 4, 4)], "layer 2; allowed: 0"),
            ([Block("0", 4, 4), Block("2", 2, 9)], r"forward \w+ of layer 2 of shape"),
        ],
    )
    def test_of_another_layout_are_refused(
        self, tmp_path: Path, blocks: list[Block], message: str
    ) -> None:
        _, path = self.saved(tmp_path)
        with pytest.raises(InputError, match=f"statistics.safetensors: {message}"):
            Statistics.load(path, Layout(blocks))

    def test_that_were_altered_are_refused(self, tmp_path: Path) -> None:
        _, path = self.saved(tmp_path)
        content = bytearray(path.read_bytes())
        content[-9] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match="altered since it was saved"):
            Statistics.load(path)

    def test_that_were_cut_or_are_foreign_or_missing_are_refused(self, tmp_path: Path) -> None:
        _, path = self.saved(tmp_path)
        tensors = load_file(path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(InputError, match=r"allowed: a file of LoGra statistics"):
            Statistics.load(path)
        save_file(tensors, path)
        with pytest.raises(InputError, match="allowed: LoGra statistics, 1"):
            Statistics.load(path)
        path.unlink()
        with pytest.raises(InputError, match=r"statistics.safetensors.*allowed: a file"):
            Statistics.load(path)

    def test_appear_whole_or_not_at_all(self, tmp_path: Path) -> None:
        _, path = self.saved(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"log": ["grad"]}, "statistics of log; allowed: forward, backward, grad"),
        ({"grad": ["median"]}, r"grad statistics \['median'\]; allowed"),
        ({"grad": "covariance"}, "grad statistics 'covariance'; allowed: a list"),
        ({"forward": ["corrected_eigval"]}, "forward statistics"),
        ({"grad": ["corrected_eigval"]}, "no forward covariance was gathered; gathered: nothing"),
    ],
)
def test_unknown_moments_are_refused(what: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Statistics(what)


def test_moments_that_were_not_gathered_are_refused() -> None:
    statistics = gathered(Statistics({"forward": ["mean"]}), 6)
    for read in (statistics.covariance, statistics.variance):
        with pytest.raises(
            InputError, match=r"no forward \w+ was gathered; gathered: forward values"
        ):
            read("forward")


def test_rows_of_another_width_are_refused() -> None:
    statistics = Statistics({"forward": ["covariance"]})
    statistics.add("forward", "it", torch.ones(1, 2, 3))
    with pytest.raises(InputError, match=r"of it of shape \(4, 4\); allowed: \(3, 3\), or clear"):
        statistics.add("forward", "it", torch.ones(1, 2, 4))


def test_a_mask_of_another_shape_is_refused() -> None:
    net, (data, mask) = model(), sequences()
    statistics = Statistics(ALL)
    with (
        pytest.raises(InputError, match=r"mask of shape \(5, 6\); allowed: \(6, 5\)"),
        Capture(net, watched(net), statistics=statistics).batch(mask.T),
    ):
        net(data).sum().backward()


WIDTH = 30_000


def _sum_shares(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    statistics = Statistics({"grad": ["covariance"]})
    narrow, wide = _rows_of(rank)
    statistics.add_gradients("narrow", narrow.unsqueeze(1))
    statistics.add_gradients("wide", wide.unsqueeze(1))
    if rank:  # of another layer one process alone has data
        statistics.add_gradients("rare", wide.unsqueeze(1))
    peak = peak_tensor_bytes(statistics.all_reduce)
    statistics.all_reduce()
    narrow, wide = (torch.cat(parts) for parts in zip(_rows_of(0), _rows_of(1), strict=True))
    assert statistics.counts("grad") == {"narrow": 12.0, "wide": 12.0, "rare": 5.0}
    moments = statistics.second_moments("grad", 2048)
    for name, rows in (("wide", wide), ("rare", wide[7:])):
        found = moments[name]
        assert isinstance(found, RowMoment)
        assert torch.equal(found.rows, rows)
        assert found.number == len(rows)
    # Memory for rows is taken 64 MiB at a time; the sum of their products would take 3.6 GB.
    assert peak < 2**28
    torch.testing.assert_close(moments["narrow"], narrow.mT @ narrow / 12)
    with pytest.raises(InputError, match="are summed over processes"):
        statistics.add_gradients("wide", wide[:1].unsqueeze(1))
    distributed.destroy_process_group()


def _rows_of(rank: int) -> tuple[Tensor, Tensor]:
    draw, count = torch.Generator().manual_seed(rank), (7, 5)[rank]
    narrow = torch.randn(count, 16, generator=draw, dtype=torch.float64)
    return narrow, torch.randn(count, WIDTH, generator=draw)


@pytest.mark.slow
def test_few_rows_of_wide_layers_are_gathered_over_processes_as_rows(tmp_path: Path) -> None:
    """A sum of their products would take the width squared in each."""
    multiprocessing.spawn(_sum_shares, (tmp_path,), nprocs=2)
