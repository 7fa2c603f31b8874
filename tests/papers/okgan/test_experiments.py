"""Facts of the experiments in the plane: sets, equal means, resume, divergence."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch

from common.errors import InputError
from common.experiments.schema import SCALES, load_paper
from common.results.evidence.archives import archive_path, read_archive
from papers.okgan.experiments.plane import PlaneSettings, make_training
from papers.okgan.experiments.search import SearchSettings
from papers.okgan.methods.generation import GeneratorOptimizer
from papers.okgan.methods.searching import candidates, summary
from papers.okgan.tasks.plane import CurveName, MixtureName, draw_curve, mixture
from tests.papers.pages import run as run_page
from tests.papers.runs import PaperRuns

RUNS = PaperRuns("okgan")


@pytest.mark.parametrize("name", get_args(MixtureName))
def test_a_mixture_judges_its_own_points_as_perfect(name: MixtureName) -> None:
    made = mixture(name, seed=3)
    points = made.draw(np.random.default_rng(0))
    assert len(points) == made.sizes.sum()
    found = made.judge(points)
    assert found["high_quality_pct"] > 98
    assert found["reverse_kl_all"] < 1e-3
    assert found.get("centre", 1.0) == 1


def test_sizes_of_the_uneven_ring_differ_and_are_the_seed_s() -> None:
    sizes = mixture("uneven_ring", seed=3).sizes
    assert sizes.max() > 1.5 * sizes.min()
    assert (sizes == mixture("uneven_ring", seed=3).sizes).all()
    assert (sizes != mixture("uneven_ring", seed=4).sizes).any()


@pytest.mark.parametrize("name", get_args(CurveName))
def test_curves_are_drawn_anew(name: CurveName) -> None:
    first, second = (draw_curve(name, 300, np.random.default_rng(seed)) for seed in (0, 1))
    assert first.shape == (300, 2)
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)
    assert first.std() == pytest.approx(second.std(), rel=0.15)


def test_every_method_has_the_same_generator_and_as_many_steps_of_it() -> None:
    """Where its rate begins, and whether it falls or stays, was searched for each alike."""
    study = load_paper(RUNS.folder).experiments["plane"]
    for case in study.cases:
        given = {
            arm: RUNS.settings("plane", arm, "paper", case)
            for name, arm in study.runs("paper")
            if name == case
        }
        alike = {
            (
                *(s.iterations, s.generator_steps, s.width, s.layers, s.core.global_batch_size),
                *(s.generator.name, s.generator.held, s.generator.betas),
            )
            for s in given.values()
        }
        assert len(alike) == 1
        falls = {s.generator.fall for s in given.values()}
        assert falls <= {0.01, 1.0} or (case.endswith("published") and len(falls) == 1)
        assert {s.generator.fall for arm, s in given.items() if arm.endswith("_falling")} <= {0.01}
        assert {s.generator.fall for arm, s in given.items() if arm.endswith("_constant")} <= {1}


def test_at_a_seed_every_method_starts_from_the_same_generator() -> None:
    data = torch.zeros(300, 2)
    first: dict[str, torch.Tensor] = {}
    for arm in (
        "okgan",
        "gan",
        "wgan_gp",
        "pacgan",
        "bourgan",
        "unrolled",
        "gmmn",
        "drifting_past",
    ):
        torch.manual_seed(3)
        settings = RUNS.settings("plane", arm, "paper", "ring")
        training, _ = make_training(settings, data, 3)
        weights = training.generator.state_dict()
        first = first or weights
        assert all(torch.equal(value, first[name]) for name, value in weights.items()), arm


#: Searches, and what is run with the settings that they found.
SEARCHES = {"search": "plane", "image_search": "images"}


@pytest.mark.parametrize(("search", "experiment"), SEARCHES.items())
def test_every_method_s_search_is_as_large_and_on_a_seed_of_its_own(
    search: str, experiment: str
) -> None:
    paper = load_paper(RUNS.folder)
    sizes = {
        tuple(len(values) for values in RUNS.settings(search, arm, "paper", case).tried.values())
        for case, arm in paper.experiments[search].runs("paper")
    }
    assert len(sizes) == 1
    for scale in SCALES:
        for case, _ in paper.experiments[search].runs(scale):
            searched = set(paper.seeds(search, case, scale))
            assert not searched & set(paper.seeds(experiment, case, scale))


class Searched(NamedTuple):
    """An archived search: (values by setting, what they came to) of each candidate."""

    case: str
    arm: str
    tried: list[tuple[dict[str, float], float]]


def searched(search: str) -> list[Searched]:
    """All that are kept."""
    path = archive_path(RUNS.folder, "paper")
    found = []
    for record in read_archive(path) if path.is_file() else []:
        if record.experiment == search:
            tried = RUNS.settings(search, record.arm, "paper", record.case).tried
            given = [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]
            scores = [record.metrics[f"candidate_{number}"] for number in range(len(given))]
            found.append(Searched(record.case, record.arm, list(zip(given, scores, strict=True))))
    return found


def setting(experiment: str, case: str, arm: str, name: str) -> Any:
    """What a case is run with."""
    value: Any = RUNS.settings(experiment, arm, "paper", case).model_dump()
    for key in name.split("."):
        value = value[key]
    return value


@pytest.mark.parametrize(("search", "experiment"), SEARCHES.items())
def test_what_a_search_chose_is_what_is_run(search: str, experiment: str) -> None:
    """As far as the search was run and kept; an arm of one schedule has the best of that one."""
    study = load_paper(RUNS.folder).experiments[experiment]
    for case, method, tried in searched(search):
        for arm, among in {
            method: tried,
            f"{method}_falling": [each for each in tried if each[0].get("generator.fall", 1) < 1],
            f"{method}_constant": [each for each in tried if each[0].get("generator.fall") == 1],
        }.items():
            if (case, arm) in study.runs("paper"):
                best, _ = min(among, key=lambda each: each[1])
                found = {name: setting(experiment, case, arm, name) for name in best}
                assert found == best, (case, arm)


def test_a_search_tries_each_value_with_each_and_keeps_the_lowest(tmp_path: Path) -> None:
    tried = {
        "generator.lr": [1e-3, 1e30],
        "generator.fall": [0.01],
        "kernel.bandwidth.end": [50.0, 500.0],
    }
    settings = RUNS.settings("search", "okgan", "smoke", "ring", tried=tried)
    found = RUNS.metrics("search", settings, tmp_path)
    scores = [found[f"candidate_{number}"] for number in range(4)]
    assert found["candidates"] == 4
    assert found["diverged"] == 2  # the rate of 1e30
    assert found["chosen_0"] == 1e-3
    assert found["best"] == min(scores[:2])
    assert found["chosen_1"] == 0.01
    assert found["chosen_2"] == (50.0 if scores[0] <= scores[1] else 500.0)


def test_a_search_chooses_the_more_even_of_equal_scores() -> None:
    settings = SearchSettings.model_validate(
        {
            "data": "ring",
            "method": "gan",
            "iterations": 1,
            "judge_every": 1,
            "tried": {"generator.lr": [1e-3, 2e-3, 3e-3]},
        }
    )
    rows = [
        {"reverse_kl_all": score, "reverse_kl": tie, "diverged": diverged, "train_s": 0.0}
        for score, tie, diverged in ((0.2, 0.5, 0.0), (0.2, 0.1, 0.0), (0.1, 0.0, 1.0))
    ]
    assert summary(settings, rows)["chosen_0"] == 2e-3


def test_a_search_refuses_what_no_setting_allows() -> None:
    settings = RUNS.settings("search", "okgan", "smoke", "ring", tried={"kernel.lr": [-1.0]})
    with pytest.raises(InputError, match=r"tried.*kernel.*lr.*greater than 0"):
        candidates(settings, PlaneSettings)


def test_the_rate_is_held_and_then_falls_in_equal_ratios() -> None:
    settings = GeneratorOptimizer(lr=1e-3, fall=0.01, held=0.2)
    factors = [settings.factor(step, 100) for step in (0, 20, 60, 100, 200)]
    assert factors == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    constant = GeneratorOptimizer(lr=1e-3, fall=1.0, held=0.2)
    assert {constant.factor(step, 100) for step in (0, 60, 100)} == {1.0}


@pytest.mark.parametrize("arm", ["okgan", "wgan_gp", "bourgan", "drifting"])
def test_a_stopped_run_ends_as_one_that_was_not(
    arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"device": "cpu", "global_batch_size": 64, "save_every": 4}
    changes = {"iterations": 10, "judge_every": 5, "judged": 200, "core": core}
    settings = RUNS.settings("plane", arm, "smoke", "ring", **changes)
    whole = RUNS.metrics("plane", settings, tmp_path / "whole")
    stopped = RUNS.metrics_after_a_stop("plane", settings, tmp_path / "stopped", monkeypatch)
    assert stopped == whole


@pytest.mark.parametrize("arm", ["okgan", "gmmn", "gan"])
def test_a_diverged_run_is_recorded_as_such_with_the_look_before(
    arm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = {"lr": 1e30, "fall": 1.0}
    settings = RUNS.settings("plane", arm, "smoke", "ring", generator=generator)
    found = RUNS.metrics("plane", settings, tmp_path)
    assert found["diverged"] == 1
    assert all(math.isfinite(value) for value in found.values())
    assert "diverged in iteration" in caplog.text
    assert "metrics are those of iteration 0" in caplog.text
    sound = settings.model_copy(update={"generator": GeneratorOptimizer()})
    assert RUNS.metrics("plane", sound, tmp_path / "sound")["diverged"] == 0


def test_the_page_s_example_learns_the_ring() -> None:
    samples = run_page("papers/okgan/README.md")["samples"]
    lengths = torch.linalg.vector_norm(samples, dim=1)
    assert float(lengths.mean()) == pytest.approx(1, abs=0.15)
    angles = torch.atan2(samples[:, 1], samples[:, 0])
    assert len(set((angles / (torch.pi / 4)).round().int().remainder(8).tolist())) == 8
