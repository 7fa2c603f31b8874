"""Bad input of a run ends in one line that says what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import InputError
from papers import logra
from papers.logra import LogIX, LogIXScheduler
from papers.logra.log_store import LogStore
from tests.papers.logra import resume_program
from tests.papers.logra.killed_processes import files, started
from tests.papers.logra.logged_network import logged, network, queried, scored

Run = Callable[..., LogIX]


def said(call: Callable[[], Any]) -> str:
    """The one line of an error."""
    with pytest.raises(InputError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert "allowed: " in message
    return message


@pytest.fixture
def stored(new_run: Run) -> LogIX:
    """A run that logged projected gradients, with its H."""
    return logged(new_run(flush_threshold=200), network(), lora="random", hessian="raw")


def taken_up(new_run: Run) -> LogIX:
    """Another run that scores with that one."""
    run = new_run()
    run.watch(network())
    run.initialize_from_log()
    return run


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("model", "filters", "message"),
    [
        (nn.Sequential(nn.ReLU()), {}, r"no layer passes type_filter None and .*some of .*: \{\}"),
        (network(), {"name_filter": ["mlp"]}, r"name_filter \['mlp'\]; allowed: .*'0': 'Linear'"),
        (network(), {"type_filter": [nn.Conv2d]}, r"type_filter \['Conv2d'\] .*'4': 'Linear'"),
        (network(), {"type_filter": [nn.ReLU]}, "type_filter ReLU; allowed: Linear"),
    ],
)
def test_a_model_without_a_layer_to_watch(
    new_run: Run, model: nn.Module, filters: dict[str, Any], message: str
) -> None:
    run = new_run()
    with pytest.raises(InputError, match=message) as raised:
        run.watch(model, **filters)
    assert "\n" not in str(raised.value)
    assert said(lambda: run.start(["a"])).startswith("no model is watched")


def test_unknown_keys_of_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, message in (
        ("lora: {rnak: 3}", "unknown key 'lora.rnak' (value 3); allowed: init, "),
        ("logging: {log_dtype: int4}", "key 'logging.log_dtype': Input should be 'none', "),
        ("influence: {damping: 1}", "unknown key 'influence'"),
    ):
        path.write_text(text)
        for opens in (LogIX, logra.init):
            with pytest.raises(InputError) as raised:
                opens("project", path)  # type: ignore[operator]
            assert f"{path}: {message}" in str(raised.value)
            assert "\n" not in str(raised.value)


def test_unknown_options_of_a_run(new_run: Run) -> None:
    run = new_run()
    run.watch(network())
    assert "'log'" in said(lambda: run.setup({"log": ["grad"]}))
    assert "'cov'" in said(lambda: run.setup({"grad": ["cov"]}))
    for option in ("lora", "hessian", "save"):
        message = said(lambda option=option: LogIXScheduler(run, **{option: "all"}))  # type: ignore[misc]
        assert message.startswith(f"{option} 'all'; allowed: none, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "max"}, "mode 'max'; allowed: dot, "),
        ({"hessian": "row"}, "hessian 'row'; allowed: auto, none, empirical_fisher, kfac"),
        ({"damping": -1.0}, "damping=-1.0; allowed: a finite number, at least 0"),
        ({"influence_groups": ["mlp"]}, "'mlp'"),
        ({"hessian": "kfac"}, "no forward covariance was gathered; gathered: grad products"),
    ],
)
def test_unknown_options_of_a_score(
    new_run: Run, stored: LogIX, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as raised:
        scored(stored, stored._model().model, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("pattern", "damage", "when", "message"),
    [
        ("log/rank000/000002.safetensors", cut, "open", "bytes; allowed: "),
        ("log/rank000/000002.safetensors", Path.unlink, "open", "is missing"),
        ("log/rank000/000002.safetensors", change, "score", "altered since it was written"),
        ("log/rank000/journal.jsonl", lambda p: p.write_text("{}\n"), "open", "line 1"),
        ("log/manifest.json", cut, "open", "not a manifest"),
        ("log/manifest.json", Path.unlink, "open", "no log store"),
        ("state/statistics.safetensors", cut, "take up", "allowed: a file of LoGra statistics"),
        ("state/statistics.safetensors", change, "take up", "altered since it was saved"),
        ("state/statistics.safetensors", Path.unlink, "take up", "statistics.safetensors: "),
        ("lora/projections.safetensors", cut, "take up", "allowed: a file of LoGra projections"),
        ("lora/projections.safetensors", change, "take up", "altered since it was saved"),
    ],
)
def test_files_that_were_cut_or_altered(
    new_run: Run,
    stored: LogIX,
    pattern: str,
    damage: Callable[[Path], Any],
    when: str,
    message: str,
) -> None:
    path = Path("logix/project") / pattern
    damage(path)

    def take_up() -> None:
        run = taken_up(new_run)
        if when == "take up":
            return
        run.build_log_dataset()
        if when == "score":
            scored(run, run._model().model)  # type: ignore[arg-type]

    with pytest.raises(InputError) as raised:
        take_up()
    assert message in str(raised.value)
    assert path.parts[-1] in str(raised.value) or "log: no log store" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_store_of_another_model_or_of_other_projections(new_run: Run, stored: LogIX) -> None:
    run = new_run()
    other = network()
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-6
    run.watch(other)
    run.initialize_from_log()
    message = said(run.build_log_dataset)
    assert "rows of another run: identity 'model' is '" in message
    run = new_run()
    run.watch(network())
    run.add_lora(lora_config=logra.LoRAConfig(rank=2))
    assert "identity 'projections' is '" in said(run.build_log_dataset)


def test_a_query_whose_layers_are_not_the_stores(new_run: Run, stored: LogIX) -> None:
    run = taken_up(new_run)
    log = queried(run, run._model().model)
    ids, layers = log
    del layers["2"]
    message = said(lambda: run.compute_influence_all((ids, layers)))
    assert message.startswith("a log without the gradient of layer 2")
    layers["2"] = {"grad": torch.zeros(4, 2, 2)}
    message = said(lambda: run.compute_influence_all((ids, layers)))
    assert "gradients of 0 5x6, 2 2x2, 4 3x4; allowed: 0 5x6, 2 4x5, 4 3x4" in message
    part = new_run()
    part.watch(network(), name_filter=["0", "4"])
    part.projections = run.projections
    part.watch(network())
    part.statistics = run.statistics
    fewer = queried(part, part._model().model)
    message = said(lambda: part.compute_influence_all(fewer))
    assert "rows of layers 0 5x6, 2 4x5, 4 3x4; allowed: 0 5x6, 4 3x4" in message


def test_a_full_disk_while_rows_are_written(tmp_path: Path, new_run: Run) -> None:
    process, pipe = started(resume_program.log_until_full, tmp_path, 100, 6)
    message = pipe.recv()
    process.join()
    assert message.startswith("logix/project/log: cannot be written (")
    assert "rows of rank 0 are kept; resume=True goes on after them" in message
    assert "\n" not in message
    kept = len(LogStore.open(resume_program.PROJECT / "log"))
    assert 0 < kept <= 24
    check_going_on(kept)


@pytest.mark.parametrize(("seconds", "file"), [(0, "state/statistics"), (1e9, "resume/pass0")])
def test_a_full_disk_while_statistics_are_written(
    tmp_path: Path, new_run: Run, seconds: float, file: str
) -> None:
    """After the last row: a chunk of 5 rows takes less room than three layers' H.

    What a run needs to go on is written before what others read, unless it is there already.
    """
    process, pipe = started(resume_program.log_until_full, tmp_path, 800, 13, seconds)
    message = pipe.recv()
    process.join()
    assert message.startswith(f"logix/project/{file}.safetensors: cannot be written (")
    assert "File too large" in message
    assert "\n" not in message
    assert not list(resume_program.PROJECT.rglob(".*"))
    assert len(LogStore.open(resume_program.PROJECT / "log")) == resume_program.ROWS
    check_going_on(resume_program.ROWS)


def check_going_on(kept: int) -> None:
    """The same program finds room again, and ends as if it had never been without."""
    resume_program.log(resume_program.new_run(1e9, resume=True), "random", "raw")
    found = files(resume_program.PROJECT)
    resume_program.PROJECT.rename("full")
    resume_program.log(resume_program.new_run(1e9, resume=True), "random", "raw")
    assert files(resume_program.PROJECT) == found
    assert kept
