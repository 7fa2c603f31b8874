"""The study of the goodput model: known errors come out, nothing leaks, Figures 1 to 3 hold."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from common.experiments.schema import RunKey
from common.experiments.settings import validated
from common.runs.record import read_record
from common.runs.run import Run
from papers.pollux_sim.applications.applications import APPLICATIONS, Application
from papers.pollux_sim.applications.parametric import load_fits, load_parametric
from papers.pollux_sim.applications.traces import TraceApplication
from papers.pollux_sim.experiments.model_study import (
    Measurements,
    ModelStudySettings,
    application_metrics,
    batch_sweep,
    configurations,
    crossing_slowdown,
    drawn,
    observations,
    prediction_error,
    quality_difference,
    run_model_study,
    split,
    spread,
    throughputs,
    timed_local_batches,
    traced,
)
from papers.pollux_sim.models.goodput import Theta, efficiency
from papers.pollux_sim.models.throughput_fit import fit

KEY = RunKey("pollux_sim", "model_study", "six_models", "goodput", 0, "laptop")
#: Mean absolute error of the throughput model (%) and hours of a run on one GPU at M0, found by an
#: independent fit to the same traces.
ON_TRACES = {
    "imagenet": (7.3, 147.9),
    "yolov3": (9.1, 9.37),
    "deepspeech2": (8.5, 5.40),
    "bert": (6.5, 3.78),
    "cifar10": (7.9, 1.12),
    "ncf": (9.4, 0.40),
}


@pytest.fixture(scope="module")
def fitted() -> dict[str, Application]:
    return load_parametric()


def run_study(folder: Path, seed: int = 0, **settings: Any) -> dict[str, float]:
    """Metrics of a study of the fitted applications, read back from its record."""
    chosen = ModelStudySettings(applications="fitted", **settings)
    key = replace(KEY, seed=seed)
    with Run(key, "model_study", chosen, folder, folder.parent / "work") as run:
        return read_record(run.finish(run_model_study(chosen, run))).metrics


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("study") / "seed0"
    return folder, run_study(folder)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_error_of_the_fit_is_that_of_the_noise(
    name: str, results: tuple[Path, dict[str, float]]
) -> None:
    # E |exp(sigma z) - 1| is sigma sqrt(2 / pi) to first order.
    expected = 100 * 0.1 * math.sqrt(2 / math.pi)
    assert results[1][f"throughput_error_{name}_pct"] == pytest.approx(expected, abs=1.5)
    assert results[1][f"heldout_error_{name}_pct"] == pytest.approx(expected, abs=2)


def test_without_noise_the_model_is_found_and_predicts_what_was_left_out(tmp_path: Path) -> None:
    metrics = run_study(tmp_path / "out", noise=0.0)
    assert metrics["throughput_error_max_pct"] < 1
    assert metrics["heldout_error_max_pct"] < 1
    for name in APPLICATIONS:
        measured = metrics[f"crossing_slowdown_{name}"]
        assert metrics[f"predicted_crossing_slowdown_{name}"] == pytest.approx(measured, rel=0.01)


def test_means_and_maxima_are_over_the_six_applications(
    results: tuple[Path, dict[str, float]],
) -> None:
    metrics = results[1]
    for kind in ("throughput_error", "heldout_error"):
        each = [metrics[f"{kind}_{name}_pct"] for name in APPLICATIONS]
        assert metrics[f"{kind}_mean_pct"] == pytest.approx(sum(each) / 6)
        assert metrics[f"{kind}_max_pct"] == max(each)
    each = [metrics[f"efficiency_error_{name}"] for name in APPLICATIONS]
    assert metrics["efficiency_error_mean"] == pytest.approx(sum(each) / 6)


def test_the_seed_decides_the_draws_and_the_split(
    results: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    assert run_study(tmp_path / "same") == results[1]
    other = run_study(tmp_path / "other", seed=1)
    for name in APPLICATIONS:
        for metric in (f"crossing_slowdown_{name}", f"efficiency_error_{name}"):
            assert other[metric] != results[1][metric]
        assert other[f"one_gpu_hours_{name}"] == results[1][f"one_gpu_hours_{name}"]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_run_on_one_gpu_takes_what_table_1_files_it_under(
    name: str, results: tuple[Path, dict[str, float]]
) -> None:
    hours = results[1][f"one_gpu_hours_{name}"]
    low, high = {"S": (0, 1.3), "M": (1, 10), "L": (9, 100), "XL": (100, 1000)}[
        APPLICATIONS[name].size
    ]
    assert low < hours < high
    assert results[1][f"m0_{name}"] == APPLICATIONS[name].init_batch_size


def test_draws_scale_a_whole_iteration_by_one_log_normal_factor(
    fitted: dict[str, Application],
) -> None:
    app, sigma = fitted["cifar10"], 0.2
    rows = drawn(app, sigma, np.random.default_rng(0)).rows
    truth = np.array(
        [app.timing(spread(int(n), int(k)), int(m)) for n, k, m in rows.points.tolist()]
    )
    factor = rows.times[:, 0] / truth[:, 0]
    np.testing.assert_allclose(rows.times[:, 1], factor * truth[:, 1], rtol=1e-9, atol=1e-15)
    assert len(factor) > 700
    assert np.log(factor).mean() == pytest.approx(0, abs=4 * sigma / math.sqrt(len(factor)))
    assert np.log(factor).std() == pytest.approx(sigma, rel=0.1)
    exact = drawn(app, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(exact.rows.times, truth)
    assert exact.statistics[512][7] == app.statistics(512, 7)


def test_applications_are_timed_at_the_batches_at_which_the_authors_timed_them(
    fitted: dict[str, Application],
) -> None:
    assert timed_local_batches(fitted["bert"]) == [4, 6, 8, 11, 12]
    assert timed_local_batches(fitted["yolov3"]) == [4, 6, 8]
    assert timed_local_batches(fitted["deepspeech2"]) == [10, 14, 20, 28, 40, 57, 80]
    assert len(timed_local_batches(fitted["cifar10"])) == 11
    assert len(timed_local_batches(fitted["ncf"])) == 21


def test_no_configuration_is_on_both_sides_of_a_split(traces: dict[str, TraceApplication]) -> None:
    rows = traces["bert"].timing_rows()
    kept, unseen = split(rows, 0.3, np.random.default_rng(0))
    assert len(kept.points) + len(unseen.points) == len(rows.points)
    fitted_on, tested_on = (set(map(tuple, part.points.tolist())) for part in (kept, unseen))
    assert not fitted_on & tested_on
    assert len(tested_on) / (len(fitted_on) + len(tested_on)) == pytest.approx(0.3, abs=0.01)
    assert len(rows.points) > len(fitted_on | tested_on)  # placements that the model confounds


def test_configurations_name_the_rows(fitted: dict[str, Application]) -> None:
    rows = drawn(fitted["yolov3"], 0.1, np.random.default_rng(0)).rows
    keys, group = configurations(rows)
    np.testing.assert_array_equal(keys[group], rows.points)
    assert len(np.unique(keys, axis=0)) == len(keys)


def test_a_noise_scale_that_does_not_depend_on_the_batch_is_predicted_without_error(
    fitted: dict[str, Application],
) -> None:
    app = fitted["bert"]
    rows = drawn(app, 0.0, np.random.default_rng(0)).rows
    sizes = app.constants.batch_sizes
    same = Measurements(app, rows, {size: [(1.0, 50.0), (1.0, 90.0)] for size in sizes})
    assert same.reference_batch == 96
    assert prediction_error(same) == 0.0
    # Of four batches that count, one is measured with all samples worth the same.
    odd = Measurements(app, rows, same.statistics | {384: [(0.0, 1.0), (0.0, 1.0)]})
    wrong = [1 - efficiency(1.0, var, 32.0) for var in (50.0, 90.0)]
    assert prediction_error(odd) == pytest.approx(sum(wrong) / 8)


def test_crossing_nodes_slows_down_as_the_model_says(fitted: dict[str, Application]) -> None:
    theta = Theta(**load_fits()["yolov3"].theta)
    exact = drawn(fitted["yolov3"], 0.0, np.random.default_rng(0))
    measured, predicted = crossing_slowdown(exact, theta)
    compute = theta.a_grad + 8 * theta.b_grad

    def seconds(a: float, b: float, gpus: int) -> float:
        return float(np.linalg.norm([compute, a + b * (gpus - 2)], ord=theta.gamma))

    ratios = [
        seconds(theta.a_node, theta.b_node, gpus) / seconds(theta.a_local, theta.b_local, gpus)
        for gpus in (2, 3, 4)
    ]
    assert measured == pytest.approx(sum(ratios) / 3)
    assert predicted == pytest.approx(sum(ratios) / 3)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_batch_sweeps_ascend_to_the_largest_batch(
    name: str, fitted: dict[str, Application]
) -> None:
    measured = drawn(fitted[name], 0.1, np.random.default_rng(0))
    for gpus in (4, 16):
        totals = [gpus * m * (accum + 1) for m, accum in batch_sweep(measured, gpus)]
        assert totals == sorted(set(totals))
        assert fitted[name].max_batch_size / 2 < totals[-1] <= fitted[name].max_batch_size
    theta = Theta(**load_fits()[name].theta)
    for row in throughputs(drawn(fitted[name], 0.0, np.random.default_rng(0)), theta):
        assert row["throughput"] == pytest.approx(row["predicted_throughput"], rel=1e-9)


def test_figure_1_large_batches_scale_further(results: tuple[Path, dict[str, float]]) -> None:
    rows = rows_of(results[0] / "fig1_scalability.csv")
    speed = {(int(r["batch_size"]), int(r["num_gpus"])): float(r["throughput"]) for r in rows}
    scaling = [speed[size, 16] / speed[size, 4] for size in (512, 1024, 2048, 4096)]
    assert scaling == sorted(scaling)
    assert scaling[0] < 1.5 < scaling[-1]
    assert (128, 16) not in speed  # eight samples a GPU: fewer than the application allows


def test_figure_1_the_best_batch_grows_with_gpus_and_as_training_goes_on(
    results: tuple[Path, dict[str, float]],
) -> None:
    rows = rows_of(results[0] / "fig1_best_batch.csv")
    best: dict[str, dict[int, int]] = {}
    for row in rows:
        best.setdefault(row["stage"], {})[int(row["num_gpus"])] = int(row["batch_size"])
    assert list(best) == ["early", "middle", "late"]
    for stage in best.values():
        assert stage[1] < stage[4] < stage[16]
        assert all(128 <= size <= 4096 for size in stage.values())
    for gpus in best["early"]:
        # Rounding to whole samples on every GPU costs less than one percent.
        assert best["early"][gpus] < best["middle"][gpus]
        assert best["middle"][gpus] <= best["late"][gpus] * 1.01


def test_figure_2_has_every_epoch_at_every_batch_size(
    results: tuple[Path, dict[str, float]],
) -> None:
    rows = rows_of(results[0] / "fig2_efficiency.csv")
    assert len(rows) == sum(len(a.batch_sizes) * a.max_epochs for a in APPLICATIONS.values())
    assert "validation_metric" not in rows[0]
    for row in rows:
        measured, predicted = float(row["efficiency"]), float(row["predicted_efficiency"])
        assert 0 < measured <= 1 + 1e-12
        if int(row["batch_size"]) == APPLICATIONS[row["application"]].init_batch_size:
            assert measured == pytest.approx(1)
            assert predicted == pytest.approx(1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("noise", -0.1), ("heldout_share", 1.0), ("gpus", [0]), ("gpus", []), ("stages", {"x": 1.0})],
)
def test_impossible_settings_are_refused(key: str, value: object) -> None:
    with pytest.raises(InputError, match=key):
        validated(ModelStudySettings, {"applications": "fitted", key: value}, "experiments.yaml")


@pytest.mark.parametrize("name", APPLICATIONS)
def test_errors_on_the_traces_are_those_of_an_independent_fit(
    name: str, traces: dict[str, TraceApplication], pollux_data: Path
) -> None:
    measured = traced(traces[name], pollux_data / "traces" / name)
    metrics = application_metrics(measured, fit(observations(measured.rows)))
    error_pct, hours = ON_TRACES[name]
    assert metrics[f"throughput_error_{name}_pct"] == pytest.approx(error_pct, abs=0.3)
    assert metrics[f"one_gpu_hours_{name}"] == pytest.approx(hours, rel=5e-3)
    assert metrics[f"efficiency_error_{name}"] < 0.05
    sensitive = metrics[f"crossing_slowdown_{name}"] > 1.2
    assert sensitive == (name != "imagenet")


def test_the_best_metric_is_the_lowest_error_and_the_highest_score(
    traces: dict[str, TraceApplication], pollux_data: Path
) -> None:
    def study_of(name: str, quality: dict[int, list[float]]) -> float:
        measured = traced(traces[name], pollux_data / "traces" / name)
        return quality_difference(
            Measurements(measured.application, measured.rows, measured.statistics, quality)
        )

    curves = {12: [40.0, 50.0], 24: [60.0, 55.0]}
    assert study_of("bert", curves) == pytest.approx(0.2)  # 60 against 50
    assert study_of("deepspeech2", curves) == pytest.approx(0.375)  # 55 against 40
    assert len(traced(traces["bert"], pollux_data / "traces" / "bert").quality[384]) == 2


def test_a_study_of_the_traces_notes_what_it_read(pollux_data: Path, tmp_path: Path) -> None:
    root = str(pollux_data.parent)
    settings = ModelStudySettings(applications="traces", data_root=root)
    with Run(KEY, "model_study", settings, tmp_path / "out", tmp_path / "work") as run:
        record = read_record(run.finish(run_model_study(settings, run)))
    assert record.metrics["throughput_error_mean_pct"] <= 10
    assert record.metrics["heldout_error_mean_pct"] <= 10
    (data,) = record.data
    assert data.real
    assert "traces/cifar10/placements.csv" in data.sha256
    assert set(record.artifacts) == {
        "fig1_scalability.csv",
        "fig1_best_batch.csv",
        "fig2_efficiency.csv",
        "fig3_throughput.csv",
    }
    first = rows_of(tmp_path / "out" / "fig2_efficiency.csv")[0]
    truth = rows_of(pollux_data / "traces" / "imagenet" / "validation-200.csv")[0]
    assert float(first["validation_metric"]) == float(truth["metric"])
