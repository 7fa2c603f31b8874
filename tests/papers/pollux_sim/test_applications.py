"""Ground truth of jobs: constants, measured timing, gradient statistics, progress, bad files."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from papers.pollux_sim.applications.applications import (
    APPLICATIONS,
    canonical_placement,
    find_constants,
)
from papers.pollux_sim.applications.traces import TraceApplication
from papers.pollux_sim.models.goodput import efficiency

Traces = dict[str, TraceApplication]

# Total progress (iterations at M0) and real iterations of a whole run at each measured batch size.
PROGRESS = {
    "imagenet": 576_526,
    "yolov3": 103_444,
    "deepspeech2": 28_536,
    "bert": 14_774,
    "cifar10": 39_063,
    "ncf": 194_174,
}
ITERATIONS = {
    "imagenet": [576525, 292995, 150231, 78453, 42123, 23972, 14461],
    "yolov3": [103444, 52905, 27430, 14577, 8075, 4809, 3143],
    "deepspeech2": [28536, 14711, 7683, 4041, 2264, 1423],
    "bert": [14774, 7427, 3732, 1885, 940, 480],
    "cifar10": [39062, 20377, 10615, 5722, 3178, 2011],
    "ncf": [194174, 97094, 48625, 24308, 12172, 6122, 3069, 1548],
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=16).map(tuple), st.integers(0, 15))
def test_canonical_placement_is_the_smallest_of_all_rotations(
    placement: tuple[int, ...], shift: int
) -> None:
    shift %= len(placement)
    canonical = canonical_placement(placement)
    rotations = [placement[i:] + placement[:i] for i in range(len(placement))]
    assert canonical in rotations
    assert all(canonical <= rotation for rotation in rotations)
    assert canonical_placement(placement[shift:] + placement[:shift]) == canonical


def test_batch_sizes_double_from_the_initial_to_the_largest() -> None:
    assert APPLICATIONS["bert"].batch_sizes == (12, 24, 48, 96, 192, 384)
    assert APPLICATIONS["ncf"].batch_sizes == tuple(256 * 2**k for k in range(8))


def test_unknown_application_is_refused_with_the_six_names() -> None:
    with pytest.raises(InputError, match=r"'resnet'.*imagenet, yolov3, deepspeech2, bert"):
        find_constants("resnet")


@pytest.mark.parametrize("name", APPLICATIONS)
def test_measured_placements_take_their_measured_time(
    name: str, traces: Traces, pollux_data: Path
) -> None:
    rows = rows_of(pollux_data / "traces" / name / "placements.csv")
    for row in rows:
        placement = tuple(map(int, row["placement"]))
        step, sync = traces[name].timing(placement, int(row["local_bsz"]))
        assert step == pytest.approx(float(row["step_time"]), rel=1e-12)
        assert sync == pytest.approx(float(row["sync_time"]), rel=1e-9, abs=1e-15)
    assert len({row["placement"] for row in rows}) == 108


def test_timing_is_linear_between_measured_batch_sizes(traces: Traces) -> None:
    (low_step, low_sync), (high_step, high_sync) = (
        traces["bert"].timing((1, 2), m) for m in (8, 11)
    )
    step, sync = traces["bert"].timing((1, 2), 9)
    assert step == pytest.approx(low_step + (high_step - low_step) / 3)
    assert sync == pytest.approx(low_sync + (high_sync - low_sync) / 3)


def test_rotated_placements_are_the_same(traces: Traces) -> None:
    times = {traces["cifar10"].timing(p, 64) for p in [(1, 2, 4), (2, 4, 1), (4, 1, 2)]}
    assert len(times) == 1
    assert traces["cifar10"].timing((1, 4, 2), 64) not in times


@pytest.mark.parametrize("name", APPLICATIONS)
def test_wide_placements_meet_the_scalability_measurements(
    name: str, traces: Traces, pollux_data: Path
) -> None:
    for row in rows_of(pollux_data / "traces" / name / "scalability.csv")[::7]:
        nodes, gpus = int(row["num_nodes"]), int(row["num_replicas"])
        placement = tuple(gpus // nodes + (node < gpus % nodes) for node in range(nodes))
        step, sync = traces[name].timing(placement, int(row["local_bsz"]))
        assert step == pytest.approx(float(row["step_time"]), rel=1e-9)
        assert sync == pytest.approx(float(row["sync_time"]), rel=1e-9)


def test_more_than_sixteen_nodes_count_as_sixteen(traces: Traces) -> None:
    spread, packed = (1,) * 16 + (2,) * 4, (1,) * 8 + (2,) * 8
    assert sum(spread) == sum(packed)
    assert traces["bert"].timing(spread, 6) == traces["bert"].timing(packed, 6)


@pytest.mark.parametrize(("placement", "local_bsz"), [((1,), 3), ((2, 2), 13), ((4,) * 6, 40)])
def test_timing_outside_the_measured_range_is_an_error(
    placement: tuple[int, ...], local_bsz: int, traces: Traces
) -> None:
    with pytest.raises(ValueError, match=r"bert: .* measured"):
        traces["bert"].timing(placement, local_bsz)


def test_statistics_are_linear_in_batch_size_between_runs(
    traces: Traces, pollux_data: Path
) -> None:
    folder = pollux_data / "traces" / "cifar10"
    low, high = (rows_of(folder / f"validation-{size}.csv")[42] for size in (256, 512))
    assert traces["cifar10"].statistics(256, 42) == (float(low["grad_sqr"]), float(low["grad_var"]))
    sqr, var = traces["cifar10"].statistics(320, 42)
    assert sqr == pytest.approx(0.75 * float(low["grad_sqr"]) + 0.25 * float(high["grad_sqr"]))
    assert var == pytest.approx(0.75 * float(low["grad_var"]) + 0.25 * float(high["grad_var"]))


@pytest.mark.parametrize("batch_size", [127, 4097])
def test_statistics_outside_the_measured_range_are_an_error(
    batch_size: int, traces: Traces
) -> None:
    with pytest.raises(ValueError, match=rf"cifar10: batch size {batch_size}; measured: 128..4096"):
        traces["cifar10"].statistics(batch_size, 0)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_efficiency_is_one_at_the_initial_batch_and_falls_with_it(
    name: str, traces: Traces
) -> None:
    application = traces[name]
    for epoch in range(application.max_epochs):
        sqr, var = application.statistics(application.init_batch_size, epoch)
        assert efficiency(sqr, var, 1.0) == pytest.approx(1.0)
        values = [efficiency(sqr, var, scale) for scale in (1.0, 2.0, 8.0, 32.0)]
        assert values == sorted(values, reverse=True)
        assert values[-1] > 0


@pytest.mark.parametrize("name", APPLICATIONS)
def test_totals_of_a_whole_run(name: str, traces: Traces) -> None:
    application = traces[name]
    targets = [application.progress_target(e) for e in range(application.max_epochs + 1)]
    assert targets[0] == 0
    assert targets == sorted(targets)
    assert targets[-1] == pytest.approx(PROGRESS[name], abs=1)
    sizes = application.constants.batch_sizes
    assert [application.iterations(b, application.max_epochs) for b in sizes] == ITERATIONS[name]
    assert application.iterations(sizes[0] * 1.5, application.max_epochs) == pytest.approx(
        sum(ITERATIONS[name][:2]) / 2
    )
    assert application.iterations(sizes[0], 0) == 0


def replace(name: str, line: int, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        lines[line - 1] = text
        (folder / name).write_text("\n".join(lines) + "\n")

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            replace("placements.csv", 3, "1,6,-0.5,0.1"),
            r"placements\.csv, line 3.*step_time.*-0\.5.*> 0",
        ),
        (replace("placements.csv", 3, "1,6,0,0.1"), r"line 3.*step_time.*'0'.*> 0"),
        (replace("placements.csv", 3, "1,6,nan,0.1"), r"line 3.*step_time.*'nan'.*> 0"),
        (replace("placements.csv", 3, "1,6,0.5,-1"), r"line 3.*sync_time.*'-1'.*>= 0"),
        (replace("placements.csv", 3, "1,6.5,0.5,0.1"), r"line 3.*local_bsz.*'6\.5'.*whole number"),
        (replace("placements.csv", 3, "15,6,0.5,0.1"), r"line 3.*placement.*'15'.*digits 1\.\.4"),
        (replace("placements.csv", 3, "1,6,0.5"), r"line 3: 3 cells; allowed: 4"),
        (
            replace("placements.csv", 3, "1,6,0.5,0.5"),
            r"line 3.*sync_time.*0\.5; allowed: less than the step_time 0\.5",
        ),
        (
            replace("validation-24.csv", 3, "7387,14774,88,1,1"),
            r"validation-24\.csv, line 3.*progress.*7387\.0; allowed: more than",
        ),
        (
            replace("placements.csv", 1, "placement,m,step_time,sync_time"),
            r"'local_bsz' is missing",
        ),
        (replace("scalability.csv", 9, "0,6,4,1,1"), r"scalability\.csv, line 9.*num_nodes.*>= 1"),
        (replace("validation-12.csv", 2, "9,9,9,inf,1"), r"validation-12\.csv, line 2.*grad_sqr"),
        (replace("validation-12.csv", 3, ""), r"validation-12\.csv: 1 epochs; allowed: at least 2"),
        (
            lambda folder: (folder / "validation-48.csv").unlink(),
            r"validation-48\.csv: no such file",
        ),
        (
            lambda folder: (folder / "scalability.csv").write_text(""),
            r"scalability\.csv, line 1.*missing",
        ),
        (
            lambda folder: (folder / "placements.csv").write_bytes(b"\xff\xfe"),
            r"cannot be read as CSV",
        ),
    ],
)
def test_malformed_traces_are_refused_in_one_line(
    spoil: Callable[[Path], None], message: str, pollux_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    for path in (pollux_data / "traces" / "bert").iterdir():
        shutil.copyfile(path, folder / path.name)
    spoil(folder)
    with pytest.raises(InputError, match=message) as refused:
        TraceApplication("bert", folder)
    assert "\n" not in str(refused.value)
