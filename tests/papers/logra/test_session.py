"""A run answers as LogIX does where LogIX is right, and says what it was not told."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from common import ROOT
from common.errors import InputError
from papers import logra
from papers.logra import LogIX, LoRAConfig
from tests.papers.logra import logged_network
from tests.papers.logra.logged_network import (
    batches,
    data,
    log_all,
    logged,
    network,
    queried,
    scored,
)

PROGRAM = """
run = logix.init(project="program", config="config.yaml")
run.watch(model, type_filter=[nn.Linear], name_filter=["0", "2", "4"])
run.setup({"grad": ["log", "covariance"]})
run.save(True)
for ids, inputs, targets in batches():
    with run(data_id=ids):
        model.zero_grad()
        loss(model, inputs.float(), targets).backward()
run.finalize()

run.setup({"grad": ["log"]})
logix.eval()
log_loader = run.build_log_dataloader(batch_size=8)
inputs, targets = data(4, seed=2, dtype=torch.float32)
with run(data_id=["a", "b", "c", "d"]):
    model.zero_grad()
    loss(model, inputs, targets).backward()
test_log = run.get_log()
results = [
    run.influence.compute_influence_all(test_log, log_loader, **options)
    for options in (
        {},
        {"mode": "cosine"},
        {"mode": "l2"},
        {"precondition": False},
        {"influence_groups": ["0", "4"]},
    )
]
own = run.influence.compute_self_influence(test_log)
"""


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_a_program_written_for_logix_runs_with_its_import_changed_and_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = pytest.importorskip("logix")
    found = {}
    for name, module in (("logix", peer), ("logra", logra)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        (folder / "config.yaml").write_text("root_dir: ./logs\nlora:\n  rank: 4\n")
        monkeypatch.setattr(peer, "_LOGIX_INSTANCE", None)
        found[name] = {**vars(logged_network), "logix": module, "model": network(torch.float32)}
        exec(PROGRAM, found[name])  # noqa: S102 - the program of a user, with one import or another
    for ours, theirs in zip(found["logra"]["results"], found["logix"]["results"], strict=True):
        assert ours["src_ids"] == theirs["src_ids"]
        assert ours["tgt_ids"] == theirs["tgt_ids"]
        torch.testing.assert_close(ours["influence"], theirs["influence"], rtol=1e-3, atol=1e-3)
    ours, theirs = (found[name]["own"]["influence"] for name in ("logra", "logix"))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_defect_2_unknown_plugins_are_refused_and_the_log_is_not_empty(
    new_run: Callable[..., LogIX],
) -> None:
    """Upstream ignored unknown keys, so its own tests compared nothing."""
    run, model = new_run(), network()
    run.watch(model)
    for bad in ({"log": "grad"}, {"grad": "log"}, {"grad": ["covarianc"]}, {"statistic": ["kfac"]}):
        with pytest.raises(InputError, match="allowed"):
            run.setup(bad)  # type: ignore[arg-type]
    ids, log = queried(run, model)
    assert ids == ["a", "b", "c", "d"]
    assert {name: part["grad"].shape for name, part in log.items()} == {
        "0": (4, 5, 6),
        "2": (4, 4, 5),
        "4": (4, 3, 4),
    }


def test_defect_15_a_project_needs_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's first documented line raised without ./config.yaml."""
    monkeypatch.chdir(tmp_path)
    assert logra.init(project="my_project").config == logra.Config()
    assert not list(tmp_path.iterdir())


def test_calls_out_of_order_say_what_is_missing(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    for call in (run.add_lora, lambda: run.start(["a"])):
        with pytest.raises(InputError, match="no model is watched"):
            call()
    with pytest.raises(InputError, match="project/log: no log; allowed: after save"):
        run.build_log_dataset()
    run.watch(model)
    run.save(True)
    log_all(run, model)
    with pytest.raises(InputError, match="is being written; allowed: after finalize"):
        run.build_log_dataset()


def test_module_functions_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logra, "_run", None)
    with pytest.raises(InputError, match=r"logra.watch without a run; allowed: after logra.init"):
        logra.watch(network())
    run = logra.init("project")
    logra.watch(network(), name_filter=["4"])
    assert [block.name for block in run.layout.blocks] == ["4"]
    second = logra.init("second")
    assert logra.finalize == second.finalize
    with pytest.raises(AttributeError, match=r"No papers\.logra attribute add_analysis"):
        logra.add_analysis({})


def test_defect_23_what_is_offered_is_there_and_what_is_set_counts(
    new_run: Callable[..., LogIX], tmp_path: Path
) -> None:
    """Upstream offered a function without a method, and took dampings that nothing read."""
    for name in logra._OF_THE_RUN:
        assert callable(getattr(LogIX, name))
    model = network()
    run = logged(new_run(), model, hessian="raw")
    found = [scored(run, model, damping=damping) for damping in (1e-3, 1.0)]
    assert not torch.allclose(*found)
    path = tmp_path / "dead.yaml"
    path.write_text("influence: {damping: 1.0e-10, relative_damping: true}\n")
    with pytest.raises(InputError, match=r"unknown key 'influence' .*allowed: bias, logging, lora"):
        logra.init("project", path)


def test_the_settings_of_a_run_are_kept_beside_its_log(new_run: Callable[..., LogIX]) -> None:
    run = new_run()
    run.watch(network())
    run.set_lora_config(LoRAConfig(rank=3, init="pca"))
    run.finalize()
    found = yaml.safe_load(Path("logix/project/config.yaml").read_text())
    assert found["lora"]["rank"] == 3
    assert found["logging"]["log_dtype"] == "float64"
    assert logra.Config.model_validate(found) == run.config
    assert run.get_lora_config().init == "pca"
    assert run.get_logging_config().log_dtype == "float64"


def test_the_example_of_the_package_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert logra.__doc__ is not None
    example = re.search(r"::\n\n((?:    .*\n|\n)+)", logra.__doc__)
    assert example is not None
    program = re.sub(r"^    ", "", example[1], flags=re.MULTILINE).strip()
    assert len(program.splitlines()) <= 20
    queries, labels = data(2, seed=2, dtype=torch.float32)
    loader = [(ids, inputs.float(), targets) for ids, inputs, targets in batches()]
    names = {
        "model": network(torch.float32),
        "train_loader": loader,
        "queries": queries,
        "labels": labels,
    }
    exec(program, names)  # noqa: S102 - the documented example
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"first query owes most to \d+ [\d.]+\nsecond query owes most to \d+ [\d.]+\n", said
    )


def test_the_package_is_imported_without_what_is_slow_to_import() -> None:
    names = "LogIX, LogIXScheduler, merge_logs"
    program = f"import sys; from papers.logra import {names}; print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    modules = {name.partition(".")[0] for name in said.stdout.split()}
    slow = {"accelerate", "lightning", "matplotlib", "pandas", "scipy", "sklearn", "transformers"}
    assert "torch" in modules
    assert not modules & slow
