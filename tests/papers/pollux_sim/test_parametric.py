"""Fitted formulas: closed forms, limits, agreement with the traces and with an independent fit."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from papers.pollux_sim.applications.applications import APPLICATIONS, Application
from papers.pollux_sim.applications.parametric import (
    FITTED,
    Fit,
    ParametricApplication,
    load_fits,
    load_parametric,
)
from papers.pollux_sim.applications.traces import TimingRows, TraceApplication
from papers.pollux_sim.models.goodput import Theta, efficiency, gain, iteration_time
from papers.pollux_sim.tasks.fit_applications import (
    efficiency_error,
    fit_application,
    fit_theta,
    measured_phi,
    timing_error,
)

Traces = dict[str, TraceApplication]


@pytest.fixture(scope="module")
def fits() -> dict[str, Fit]:
    return load_fits()


@pytest.fixture(scope="module")
def fitted() -> dict[str, Application]:
    return load_parametric()


def published_rows(path: Path, name: str) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["application"] == name]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_timing_is_the_gamma_norm_of_compute_and_synchronisation(
    name: str, fits: dict[str, Fit], fitted: dict[str, Application]
) -> None:
    theta = fits[name].theta
    m = APPLICATIONS[name].min_local_bsz
    compute = theta["a_grad"] + theta["b_grad"] * m
    assert fitted[name].timing((1,), m) == (pytest.approx(compute), pytest.approx(0.0))
    for placement, kind in (((3,), "local"), ((1, 2), "node"), ((4, 4, 1), "node")):
        sync = theta[f"a_{kind}"] + theta[f"b_{kind}"] * (sum(placement) - 2)
        gamma = theta["gamma"]
        step, waiting = fitted[name].timing(placement, m)
        assert step == pytest.approx((compute**gamma + sync**gamma) ** (1 / gamma))
        assert waiting == pytest.approx(step - compute)
        assert max(compute, sync) <= step <= compute + sync + 1e-12


@pytest.mark.parametrize("name", APPLICATIONS)
def test_statistics_give_the_tabulated_noise_scale_at_knots(
    name: str, fits: dict[str, Fit], fitted: dict[str, Application]
) -> None:
    table, application = fits[name].noise_scale, fitted[name]
    for row, size in enumerate(table.batch_sizes):
        for column, progress in enumerate(table.progress):
            epoch = round(progress * application.max_epochs - 0.5)
            sqr, var = application.statistics(size, epoch)
            phi = application.init_batch_size * var / sqr
            assert phi == pytest.approx(table.phi[row][column], rel=0.01)


def test_noise_scale_is_log_linear_between_and_clamped_outside(
    fits: dict[str, Fit], fitted: dict[str, Application]
) -> None:
    (low, high), bert = (row[:2] for row in fits["bert"].noise_scale.phi[:2]), fitted["bert"]

    def phi(batch_size: float, epoch: int) -> float:
        sqr, var = bert.statistics(batch_size, epoch)
        return 12 * var / sqr

    middle = math.sqrt(12 * 96)  # halfway in log M
    assert phi(middle, 0) == pytest.approx(math.sqrt(low[0] * high[0]))
    assert phi(6, 1) == phi(12, 1)
    assert phi(800, 1) == phi(384, 1)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_progress_of_the_iterations_is_that_of_the_epochs(
    name: str, fitted: dict[str, Application]
) -> None:
    application = fitted[name]
    size = application.max_batch_size
    scale = size / application.init_batch_size
    for epoch in range(application.max_epochs):
        steps = application.iterations(size, epoch + 1) - application.iterations(size, epoch)
        needed = application.progress_target(epoch + 1) - application.progress_target(epoch)
        assert steps * gain(*application.statistics(size, epoch), scale) == pytest.approx(needed)
        assert efficiency(*application.statistics(size, epoch), 1.0) == pytest.approx(1.0)
    assert application.iterations(
        application.init_batch_size, application.max_epochs
    ) == pytest.approx(application.progress_target(application.max_epochs))


@pytest.mark.parametrize("name", APPLICATIONS)
def test_throughput_model_is_ten_percent_off_at_most_on_average(
    name: str, fits: dict[str, Fit], traces: Traces
) -> None:
    rows = traces[name].timing_rows(APPLICATIONS[name].max_local_bsz)
    measured = timing_error(Theta(**fits[name].theta), rows)
    stated = fits[name].timing_error
    assert measured.rows == stated.rows
    assert measured.mean_abs_error == pytest.approx(stated.mean_abs_error, abs=1e-3)
    assert measured.mean_abs_error <= 0.10


@pytest.mark.parametrize("name", APPLICATIONS)
def test_timing_fit_agrees_with_an_independent_one(
    name: str, fits: dict[str, Fit], pollux_data: Path
) -> None:
    other = next(
        row
        for row in published_rows(pollux_data / "fitted_theta.csv", name)
        if row["regularised"] == "1"
    )
    ours = fits[name].timing_error
    assert ours.rows == int(other["n_points"])
    for value, column in (
        (ours.rmsle_step, "rmsle_step"),
        (ours.rmsle_grad, "rmsle_grad"),
        (ours.mean_abs_error, "mean_abs_pct_err"),
        (ours.p95_abs_error, "p95_abs_pct_err"),
    ):
        assert value == pytest.approx(float(other[column]), abs=6e-4), column
    for ours_name, column in (
        ("a_grad", "alpha_grad_s"),
        ("b_grad", "beta_grad_s_per_sample"),
        ("a_node", "alpha_node_s"),
        ("b_node", "beta_node_s"),
        ("gamma", "gamma"),
    ):
        assert fits[name].theta[ours_name] == pytest.approx(float(other[column]), rel=5e-3)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_efficiency_agrees_with_an_independent_table(
    name: str, fitted: dict[str, Application], pollux_data: Path
) -> None:
    application = fitted[name]
    first = application.init_batch_size
    for row in published_rows(pollux_data / "fitted_phi.csv", name):
        size = int(row["batch_size"])
        epoch = round(float(row["progress_fraction"]) * application.max_epochs - 0.5)
        other = float(row["phi"])
        ours = efficiency(*application.statistics(size, epoch), size / first)
        assert ours == pytest.approx((other + first) / (other + size), abs=0.01)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_noise_table_keeps_efficiency_and_work(
    name: str, fits: dict[str, Fit], fitted: dict[str, Application], traces: Traces
) -> None:
    application = fitted[name]
    assert isinstance(application, ParametricApplication)
    error = efficiency_error(application, traces[name])
    assert error == fits[name].efficiency_error
    assert error.mean < 0.015
    # Samples that a whole run at a fixed batch needs, from the table and from the measurements.
    first, epochs = application.init_batch_size, application.max_epochs
    for size in application.constants.batch_sizes:
        phi = measured_phi(traces[name], size)
        needed = np.mean((phi + size) / (phi + first)) * epochs * fits[name].progress_per_epoch
        table = application.iterations(size, epochs) * size / first
        assert table == pytest.approx(needed, rel=0.03)


def test_file_is_what_the_traces_give(fits: dict[str, Fit], pollux_data: Path) -> None:
    again = fit_application("bert", pollux_data / "traces" / "bert")
    ours = fits["bert"]
    assert again.data_sha256 == ours.data_sha256
    assert again.noise_scale == ours.noise_scale
    assert again.tuned_jobs == ours.tuned_jobs
    assert again.timing_error.rmsle_step == pytest.approx(ours.timing_error.rmsle_step, abs=1e-4)


def test_known_parameters_are_recovered_from_noiseless_times() -> None:
    truth = Theta(0.05, 0.002, 0.3, 0.0005, 0.1, 0.0002, 1.0)
    points = [
        (float(nodes), float(gpus), float(m))
        for nodes, gpus in ((1, 1), (1, 2), (1, 3), (1, 4), (2, 2), (2, 8), (4, 16), (8, 32))
        for m in (8, 16, 32, 64, 128)
    ]
    step = np.array([iteration_time(truth, n > 1, int(k), m) for n, k, m in points])
    compute = np.array([truth.a_grad + truth.b_grad * m for *_, m in points])
    found = fit_theta(TimingRows(np.array(points), np.column_stack([step, step - compute])))
    assert found[:6:2] == pytest.approx(truth[:6:2], rel=0.02)
    assert found.b_grad == pytest.approx(truth.b_grad, rel=0.02)
    assert found.gamma == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a_grad:", "alpha:", r"'applications\.imagenet': theta: needs exactly a_grad, b_grad"),
        ("rows: 1152", "rows: 0", r"key 'applications\.imagenet\.timing_error\.rows'"),
        ("  imagenet:", "  vgg:", r"applications: needs exactly imagenet, yolov3"),
        ("[928.2,", "[-928.2,", r"phi: every value must be > 0"),
        ("[928.2,", "[928.2, 1.0,", r"phi: needs a row for each batch size"),
        ("[200, 800,", "[200, 100,", r"batch_sizes: .* must ascend"),
        ("applications:", "applications", r"not valid YAML|Input should be"),
    ],
)
def test_malformed_fits_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    text = FITTED.read_text()
    assert old in text
    path = tmp_path / "fits.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as refused:
        load_fits(path)
    assert str(path) in str(refused.value)


def test_fitting_without_data_exits_with_status_two(tmp_path: Path) -> None:
    out = tmp_path / "fits.yaml"
    command = [sys.executable, "-m", "papers.pollux_sim.tasks.fit_applications"]
    command += ["--data-root", str(tmp_path), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"data set 'pollux' is in none of: {tmp_path}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()
