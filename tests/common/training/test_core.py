"""The training core: exact resume, the same numbers on one or two processes, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

from common import ROOT
from common.errors import InputError
from common.experiments.schema import RunKey
from common.runs.cli import guarded
from common.runs.fingerprint import EDITED
from common.runs.record import read_record
from common.runs.run import Run
from common.training import STOPPED, Core, CoreSettings
from common.training.data_order import mixed
from common.training.meters import Throughput, peak_gpu_bytes
from common.training.resume_state import states
from tests.common.training import core_program
from tests.common.training.core_program import SAMPLES, Classification, Net, ProgramSettings

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
#: Everything that can make a resume inexact: dropout, noise, Adam, scheduler, accumulation.
HARD = {
    "core": {"device": "cpu", "global_batch_size": 8, "accumulation": 2, "save_every": 4},
    "dropout": 0.3,
    "noisy": True,
}
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def start(folder: Path, settings: Any, launcher: tuple[str, ...] = (), **options: Any) -> Any:
    """Run the program in ``folder``; the finished process with its standard error."""
    where = {"out": str(folder / "out"), "work": str(folder / "work"), "settings": settings}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            *launcher,
            "tests.common.training.core_program",
            json.dumps(where | options),
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def finished(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], Any]:
    """Weights, history and metrics that a run left."""
    out = folder / "out"
    history = json.loads((out / "history.json").read_text())
    return load_file(out / "weights.safetensors"), history, read_record(out / "record.json").metrics


def assert_equal(left: Path, right: Path) -> None:
    """Two runs ended with the same bits."""
    (weights, *rest), (others, *others_rest) = finished(left), finished(right)
    torch.testing.assert_close(weights, others, rtol=0, atol=0)
    assert rest == others_rest


def assert_close(left: Path, right: Path) -> None:
    """Two runs agree to rounding, but for what each device draws for itself."""
    (weights, history, _), (others, others_history, _) = finished(left), finished(right)
    torch.testing.assert_close(weights, others, rtol=0, atol=1e-6)
    for row, other in zip(history, others_history, strict=True):
        for name in row.keys() - {"last_device_draw"}:
            assert row[name] == pytest.approx(other[name], abs=1e-6)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("reference")
    assert start(folder, HARD).returncode == 0
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run killed in the middle of its step 10, after the state of step 8."""
    folder = tmp_path_factory.mktemp("killed")
    done = start(folder, HARD, interrupt={"step": 10})
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in states(folder / "work")] == [
        "step-0000000008",
        "step-0000000004",
    ]
    assert not (folder / "out" / "record.json").exists()
    return folder


def test_a_reference_run_evaluates_every_sample_once_in_order(reference: Path) -> None:
    _, history, metrics = finished(reference)
    assert [row["samples"] for row in history] == [SAMPLES] * 3
    assert all(row["ordered"] for row in history)
    assert metrics["steps"] == 3 * (SAMPLES // 8)
    assert not (reference / "work").exists()
    provenance = read_record(reference / "out" / "record.json").provenance
    assert (provenance.device, provenance.precision) == ("cpu", "fp32")
    assert provenance.peak_gpu_bytes == 0


def test_a_killed_run_resumes_to_the_same_bits(
    reference: Path, killed: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    done = start(tmp_path, HARD)
    assert done.returncode == 0
    assert "resumed at step 8" in done.stderr
    assert_equal(tmp_path, reference)


def test_a_run_that_other_code_began_never_passes_for_one_of_today_s(
    killed: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    for state in states(tmp_path / "work"):
        manifest = json.loads((state / "manifest.json").read_text())
        manifest["code"]["common/seeds.py"]["mixed"] = "0" * 16
        (state / "manifest.json").write_text(json.dumps(manifest))
    stopped = start(tmp_path, HARD, interrupt={"step": 12})
    assert "was saved by other code (common/seeds.py: mixed)" in stopped.stderr
    assert (tmp_path / "work" / "step-0000000012").exists()  # today's code saved this one
    assert start(tmp_path, HARD).returncode == 0
    code = read_record(tmp_path / "out" / "record.json").provenance.code
    assert code["common/seeds.py"] == EDITED
    assert "common/training/core.py" in code
    assert code["common/training/core.py"] != EDITED


@pytest.mark.parametrize("change", [{"seed": 4}, {"settings": HARD | {"dropout": 0.2}}])
def test_the_state_of_another_run_is_refused_and_kept(
    change: dict[str, Any],
    killed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(killed / "work", tmp_path / "work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    where = {"out": str(tmp_path / "out"), "work": str(tmp_path / "work"), "settings": HARD}
    monkeypatch.setattr(sys, "argv", ["core_program", json.dumps(where | change)])
    with pytest.raises(SystemExit) as exit_:
        guarded(core_program.main)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert "belongs to a run with other settings, another seed" in error
    assert "allowed:" in error
    assert {path: path.read_bytes() for path in before} == before


def test_a_signal_saves_the_step_and_a_damaged_state_falls_back(
    reference: Path, tmp_path: Path
) -> None:
    done = start(tmp_path, HARD, interrupt={"step": 10, "signal": int(signal.SIGTERM)})
    assert done.returncode == STOPPED == 75
    newest, older = states(tmp_path / "work")
    assert (newest.name, older.name) == ("step-0000000011", "step-0000000008")
    state = newest / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    done = start(tmp_path, HARD)
    assert done.returncode == 0
    assert re.search(r"WARNING .*step-0000000011: passed over, it is damaged", done.stderr)
    assert "resumed at step 8" in done.stderr
    assert_equal(tmp_path, reference)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process without dropout and noise."""
    folder = tmp_path_factory.mktemp("plain")
    assert start(folder, two_processes("single")).returncode == 0
    return folder


def two_processes(strategy: str) -> dict[str, Any]:
    return {"core": HARD["core"] | {"clip_norm": 1.0, "strategy": strategy}}  # type: ignore[operator]


def test_ddp_killed_and_resumed_equals_one_process(plain: Path, tmp_path: Path) -> None:
    settings = two_processes("ddp")
    assert start(tmp_path, settings, TORCHRUN, interrupt={"step": 10}).returncode != 0
    assert states(tmp_path / "work")[0].name == "step-0000000008"
    done = start(tmp_path, settings, TORCHRUN)
    assert done.returncode == 0
    assert done.stderr.count("resumed at step 8") == 2
    assert_close(tmp_path, plain)
    # The second device draws a stream of its own, continued where it stopped.
    stream = torch.Generator().manual_seed(mixed(3, 1))
    draws = [torch.rand(1, generator=stream).item() for _ in range(3)]
    assert [row["last_device_draw"] for row in finished(tmp_path)[1]] == draws
    # One process wrote the record, and nothing is left beside it.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_fsdp_stopped_on_one_device_and_resumed_equals_one_process(
    plain: Path, tmp_path: Path
) -> None:
    settings = two_processes("fsdp")
    interrupt = {"step": 10, "signal": int(signal.SIGTERM), "rank": "1"}
    done = start(tmp_path, settings, TORCHRUN, interrupt=interrupt)
    assert "exitcode  : 75" in done.stderr
    assert states(tmp_path / "work")[0].name == "step-0000000011"
    assert start(tmp_path, settings, TORCHRUN).returncode == 0
    assert_close(tmp_path, plain)


def test_the_page_s_example_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "core.md").read_text(encoding="utf8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "digits.py").write_text(block, encoding="utf8")
    done = subprocess.run(
        [sys.executable, "digits.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "results" / "digits" / "record.json")
    assert record.metrics["accuracy"] > 0.9
    assert set(record.artifacts) == {"history.csv", "weights.safetensors"}
    assert len(block.splitlines()) < 65


# In this process


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps one state per process, and a core that is refused keeps the signals."""
    torch.set_num_threads(1)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def new_core(tmp_path: Path) -> Iterator[Callable[..., Core]]:
    """Make a core on the CPU; its signal handlers are taken back afterwards."""
    made: list[tuple[Core, Run]] = []

    def make(**settings: Any) -> Core:
        full = ProgramSettings(
            core=CoreSettings.model_validate({"device": "cpu", "global_batch_size": 8} | settings)
        )
        key = RunKey("test", "core", "case", "arm", 3, "smoke")
        run = Run(key, "core", full, tmp_path / f"out{len(made)}", tmp_path / "work")
        run.__enter__()
        core = Core(full.core, run)
        made.append((core, run))
        return core

    yield make
    for core, run in made:
        core.finish()
        run.__exit__(None, None, None)


def one_epoch(core: Core, model: nn.Module, optimiser: torch.optim.Optimizer) -> nn.Module:
    prepared, optimiser = core.prepare(model, optimiser)
    for inputs, labels in core.loader(Classification(noisy=False)).batches(0):
        with core.accumulate(prepared):
            core.backward(nn.functional.cross_entropy(prepared(inputs), labels))
        core.step(prepared, optimiser)
    return model


@pytest.mark.parametrize("accumulation", [2, 8])
def test_micro_batches_add_up_to_the_batch(
    accumulation: int, new_core: Callable[..., Core]
) -> None:
    trained = []
    for parts in (1, accumulation):
        core = new_core(accumulation=parts)
        model = Net(dropout=0.0)
        one_epoch(core, model, torch.optim.SGD(model.parameters(), lr=0.5))
        assert core.step_count == SAMPLES // 8
        trained.append(model.state_dict())
    torch.testing.assert_close(trained[0], trained[1], rtol=0, atol=1e-6)


def test_clipping_and_accumulation_follow_torch_by_hand(new_core: Callable[..., Core]) -> None:
    core = new_core(accumulation=2, clip_norm=0.1)
    data, model = Classification(noisy=False), Net(dropout=0.0)
    hand = Net(dropout=0.0)
    hand.load_state_dict(model.state_dict())
    one_epoch(core, model, torch.optim.SGD(model.parameters(), lr=1.0))
    optimiser = torch.optim.SGD(hand.parameters(), lr=1.0)
    order = core.loader(data).order.permutation(0)
    for step in range(core.step_count):
        batch = order[step * 8 : (step + 1) * 8]
        optimiser.zero_grad()
        nn.functional.cross_entropy(hand(data.inputs[batch]), data.labels[batch]).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.1)
        assert norm > 0.1  # or clipping is not tested
        optimiser.step()
    torch.testing.assert_close(model.state_dict(), hand.state_dict(), rtol=0, atol=1e-6)


def test_the_scheduler_moves_once_per_optimiser_step(new_core: Callable[..., Core]) -> None:
    core = new_core(accumulation=4)
    model: nn.Module = Net(dropout=0.0)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5)
    model, optimiser = core.prepare(model, optimiser)
    rates = []
    for inputs, labels in core.loader(Classification(noisy=False)).batches(0):
        with core.accumulate(model):
            core.backward(nn.functional.cross_entropy(model(inputs), labels))
        core.step(model, optimiser, scheduler)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == [0.5 ** (micro // 4) for micro in range(1, 25)]


def test_evaluating_does_not_change_training(new_core: Callable[..., Core]) -> None:
    core = new_core()
    before = torch.get_rng_state()
    seen = [core.gather(labels) for _, labels in core.evaluation_loader(Classification(False), 9)]
    assert torch.equal(torch.cat(seen), Classification(False).labels)
    assert torch.equal(torch.get_rng_state(), before)


def test_convolutions_stay_row_major_on_a_cpu(new_core: Callable[..., Core]) -> None:
    """Channels-last there is not safe: docs/known_faults.md."""
    core = new_core()
    model: nn.Module = nn.Sequential(nn.Conv2d(4, 2, 1, stride=2), nn.Conv2d(2, 3, 3))
    model, _ = core.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert model(torch.rand(6, 4, 16, 16)).is_contiguous()


def test_tied_weights_are_written(new_core: Callable[..., Core]) -> None:
    core = new_core()
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    core.finish(model)
    written = load_file(core.run.path("weights.safetensors"))
    assert torch.equal(written["a.weight"], written["b.weight"])


def test_a_finished_core_no_longer_catches_signals(new_core: Callable[..., Core]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    core = new_core()
    assert signal.getsignal(signal.SIGTERM) != before
    core.finish()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("settings", "processes", "words"),
    [
        ({"precision": "fp16"}, 1, r"precision fp16: .* allowed on a CPU: auto, fp32, bf16"),
        ({"accumulation": 3}, 1, r"global_batch_size 8: must be a multiple of .* 1 x 3 = 3"),
        (
            {"accumulation": 2, "strategy": "ddp", "global_batch_size": 6},
            2,
            r"global_batch_size 6: must be a multiple of .* 2 x 2 = 4",
        ),
        ({}, 2, r"strategy single: torchrun started 2 processes; allowed: ddp, fsdp"),
    ],
)
def test_an_impossible_choice_is_refused_before_anything_starts(
    settings: dict[str, Any],
    processes: int,
    words: str,
    new_core: Callable[..., Core],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(InputError, match=words):
        new_core(**settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused(new_core: Callable[..., Core]) -> None:
    with pytest.raises(InputError, match=r"device cuda: no GPU is visible; allowed here: auto"):
        new_core(device="cuda")


def test_data_smaller_than_a_batch_is_refused(new_core: Callable[..., Core]) -> None:
    with pytest.raises(InputError, match=r"global_batch_size 64: the data set has 53 samples"):
        new_core(global_batch_size=64).loader(Classification(False))


def test_throughput_leaves_out_warm_up_and_what_lies_between_epochs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = Throughput(torch.device("cpu"), warm_up=2)
    now = 0.0
    monkeypatch.setattr("common.training.meters.time.perf_counter", lambda: now)

    def epoch() -> None:
        nonlocal now
        for _ in meter.timed(range(4)):
            now += 100.0 if meter._steps < 2 else 0.5
            meter.add(10)

    assert meter.samples_per_s() == 0
    epoch()
    now += 1000.0  # an evaluation
    epoch()
    assert meter.samples_per_s() == pytest.approx(60 / (6 * 0.5))
    assert peak_gpu_bytes(torch.device("cpu")) == 0


def test_other_processes_of_a_run_neither_lock_nor_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, settings = RunKey("test", "core", "case", "arm", 3, "smoke"), ProgramSettings()
    with Run(key, "core", settings, tmp_path / "out", tmp_path / "work") as main:
        monkeypatch.setenv("RANK", "1")
        with Run(key, "core", settings, tmp_path / "out", tmp_path / "work") as other:
            other.write_json("a.json", "other")
            main.write_json("a.json", "main")
            staging = other.staging
            other.finish({"loss": 0.0})
            assert not (tmp_path / "out" / "record.json").exists()
        assert not staging.exists()
        record = read_record(main.finish({"loss": np.float64(1.0)}))
    assert record.metrics == {"loss": 1.0}
    assert json.loads((tmp_path / "out" / "a.json").read_text()) == "main"
