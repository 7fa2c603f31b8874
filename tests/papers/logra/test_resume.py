"""A run that is killed and started again leaves what one that was never killed leaves."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import InputError
from papers.logra import LoggingConfig, LogIX, LogIXScheduler
from papers.logra.log_store import LogStore
from tests.papers.logra import resume_program
from tests.papers.logra.killed_processes import files, started
from tests.papers.logra.logged_network import data, loss, network
from tests.papers.logra.resume_program import BATCH, PROJECT, ROWS, log, new_run


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


Whole = Callable[..., dict[str, bytes]]


class KilledError(Exception):
    """Stands for a kill where one in the same process will do."""


class After:
    """A call that raises at the n-th time."""

    def __init__(self, batches: int) -> None:
        self.batches, self.calls = batches, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.batches:
            raise KilledError


def abandon(run: LogIX) -> None:
    """What is left of a run whose process is gone: a lock on its log no more."""
    if run.folder.is_writing:
        assert run.folder._writer is not None
        run.folder._writer._end(complete=False)


def logged_and_killed(batches: int, seconds: float = 0, **options: Any) -> None:
    run = new_run(seconds, resume=True)
    with pytest.raises(KilledError):
        log(run, after=After(batches), **options)
    abandon(run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Files of a run that nothing interrupted."""

    @cache
    def of(**options: Any) -> dict[str, bytes]:
        with chdir(tmp_path_factory.mktemp("whole")):
            log(new_run(resume=True), **options)
            return files(PROJECT)

    return lambda **options: dict(of(**options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lora", "hessian", "seconds", "asks"),
    [
        ("pca", "ekfac", 0.0, True),
        ("pca", "ekfac", 0.01, True),
        ("random", "raw", 0.02, True),
        ("none", "kfac", 0.005, False),
    ],
)
def test_killed_at_random_moments_then_started_again(
    tmp_path: Path, whole: Whole, lora: str, hessian: str, seconds: float, asks: bool
) -> None:
    moments, kills, code = random.Random(f"{lora} {seconds}"), 0, None
    options = {"lora": lora, "hessian": hessian, "asks": asks}
    while code != 0:
        process, said = started(resume_program.start, tmp_path, seconds, options)
        for _ in range(1 + moments.randrange(10 if asks else 3 + 4 * kills)):
            try:
                said.recv()
            except EOFError:  # it is done
                break
        time.sleep(moments.uniform(0, 0.01))
        process.kill()
        process.join()
        code = process.exitcode
        assert code in (0, -9)
        kills += code != 0
    assert kills >= 3
    expected = whole(lora=lora, hessian=hessian)
    found = files(PROJECT)
    # The setting in it, of when to write, is another one.
    assert found.pop("config.yaml") != expected.pop("config.yaml") or not seconds
    assert found == expected


@pytest.mark.parametrize("batches", [1, 13, 14, 27, 30, 38])
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_killed_after_any_batch_of_any_pass(whole: Whole, batches: int, seconds: float) -> None:
    """Also where no file of statistics was written before the pass was over."""
    logged_and_killed(batches, seconds)
    left = After(10**9)
    log(new_run(0, resume=True), after=left)
    found, expected = files(PROJECT), whole()
    assert found == expected
    passes, per_pass = 3, -(-ROWS // BATCH)
    again = 0 if seconds == 0 else (batches - 1) % per_pass + 1
    # Of rows that wait for a chunk to be full, at most one chunk is computed again.
    assert 0 <= left.calls - (passes * per_pass - batches) - again <= 2


def test_rows_that_were_not_on_the_disk_are_computed_again_and_sums_are_not(whole: Whole) -> None:
    logged_and_killed(6, lora="random", hessian="raw")
    shutil.rmtree(PROJECT / "log")
    for unfinished in (".pass0.safetensors.123", ".tmpAbC"):
        (PROJECT / "resume" / unfinished).write_bytes(b"what a kill leaves before a rename")
    left = After(10**9)
    log(new_run(resume=True), lora="random", hessian="raw", after=left)
    assert left.calls == -(-ROWS // BATCH)
    assert files(PROJECT) == whole(lora="random", hessian="raw")


def test_a_run_that_was_done_is_done(whole: Whole) -> None:
    log(new_run(resume=True))
    before, left = files(PROJECT), After(1)
    run = new_run(resume=True)
    log(run, after=left)
    assert left.calls == 0
    assert files(PROJECT) == before
    inputs, targets = data(3, seed=2)
    with run(data_id=["a", "b", "c"]):
        loss(run._model().model, inputs, targets).backward()
    scores = run.compute_influence_all()["influence"]
    later = new_run()
    later.initialize_from_log()
    with later(data_id=["a", "b", "c"]):
        loss(later._model().model, inputs, targets).backward()
    assert torch.equal(scores, later.compute_influence_all()["influence"])
    assert scores.shape == (3, ROWS)


def test_without_the_question_nothing_is_logged_twice(whole: Whole) -> None:
    logged_and_killed(30, asks=False)
    left = After(10**9)
    log(new_run(resume=True), asks=False, after=left)
    assert left.calls == 3 * -(-ROWS // BATCH)
    assert files(PROJECT) == whole()


def test_a_run_that_does_not_resume_is_as_it_was(whole: Whole) -> None:
    run = new_run()
    log(run)
    assert not (PROJECT / "resume").exists()
    assert not run.has_logged(["0", "1", "2", "3"])
    expected = {n: part for n, part in whole().items() if not n.startswith("resume")}
    assert files(PROJECT) == expected
    with pytest.raises(InputError, match=r"holds the log of an earlier run; .*resume=True to go"):
        log(new_run())


@pytest.mark.parametrize("log_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvalues_of_a_pass_that_goes_on_are_the_same_bits(
    dtype: torch.dtype, log_last: bool
) -> None:
    """Also where the pass rotates rows instead of gradients, as it does without a log."""
    (inputs, targets), per_pass = data(ROWS, dtype=dtype), -(-ROWS // BATCH)

    def corrected(project: str, stop: int | None = None) -> dict[str, torch.Tensor]:
        model = network(dtype)
        run = LogIX(project, logging_config=LoggingConfig(checkpoint_seconds=0), resume=True)
        run.watch(model)
        computed = 0
        for _ in LogIXScheduler(run, hessian="ekfac", log=log_last):
            for part in torch.arange(ROWS).split(BATCH):
                if computed == stop:
                    return {}
                if not run.has_logged(part):
                    computed += 1
                    with run(data_id=part):
                        loss(model, inputs[part], targets[part]).backward()
        return run.statistics.corrected_eigenvalues()

    whole = corrected("whole")
    corrected("killed", stop=per_pass + 5)
    for name, values in corrected("killed").items():
        assert torch.equal(values, whole[name]), name


def test_batches_that_fail_are_left_out_again(whole: Whole) -> None:
    """As in a program that catches them: a sample whose loss is NaN."""
    inputs, targets = data(ROWS)
    inputs[BATCH] = torch.nan

    def log_and_catch(run: LogIX, stop: int | None) -> int:
        computed = 0
        for _ in LogIXScheduler(run, "random", "raw", save="grad"):
            for number, part in enumerate(torch.arange(ROWS).split(BATCH)):
                if run.has_logged(part):
                    continue
                if number == stop:
                    abandon(run)
                    return computed
                computed += 1
                try:
                    with run(data_id=part):
                        loss(run._model().model, inputs[part], targets[part]).backward()
                except InputError as error:
                    assert "nan; allowed: finite numbers" in str(error)  # noqa: PT017
        run.finalize()
        return computed

    assert log_and_catch(new_run(resume=True), 5) == 5
    assert log_and_catch(new_run(resume=True), None) <= 13 - 5 + 2
    found = files(PROJECT)
    assert len(LogStore.open(PROJECT / "log")) == ROWS - BATCH
    shutil.rmtree(PROJECT)
    assert log_and_catch(new_run(resume=True), None) == 13
    assert files(PROJECT) == found


def test_other_batches_than_before_are_refused() -> None:
    logged_and_killed(5, lora="random", hessian="raw")
    inputs, targets = data(ROWS)

    def go_on(order: list[int], **options: Any) -> None:
        run = new_run(resume=True, **options)
        try:
            for _ in LogIXScheduler(run, "random", "raw", save="grad"):
                for number in order:
                    part = torch.arange(number * BATCH, number * BATCH + BATCH)
                    if not run.has_logged(part):
                        with run(data_id=part):
                            loss(run._model().model, inputs[part], targets[part]).backward()
            run.finalize()
        finally:
            abandon(run)

    with pytest.raises(InputError, match=r"pass0\S*: the first 5 batches have other ids"):
        go_on([1, 0, 2, 3, 4, 5])
    with pytest.raises(InputError, match=r"pass ends after 3 batches and had 5 before; allowed"):
        go_on([0, 1, 2])
    shutil.rmtree(PROJECT / "resume")
    with pytest.raises(InputError, match=r"log: other ids than before from row 0 on; allowed"):
        go_on([1, 0, 2, 3, 4, 5])
    with pytest.raises(InputError, match=r"20 rows are stored and 12 were given; allowed"):
        go_on([0, 1, 2])


def test_a_pass_that_was_over_gets_no_more_batches() -> None:
    logged_and_killed(20)
    run, (inputs, targets) = new_run(resume=True), data(ROWS)
    with pytest.raises(InputError, match="a batch more than the 13 of before"):  # noqa: PT012
        for _ in LogIXScheduler(run, "pca", "ekfac", save="grad"):
            for part in (*torch.arange(ROWS).split(BATCH), torch.arange(3)):
                if not run.has_logged(part):
                    with run(data_id=part):
                        loss(run._model().model, inputs[part], targets[part]).backward()


def test_another_model_or_setting_is_refused() -> None:
    logged_and_killed(5, lora="random", hessian="raw")
    run = new_run(resume=True)
    other = network()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    run.watch(other)
    with pytest.raises(InputError, match=r"pass0\S*: of another run: model '\w+' there and '\w+'"):
        log(run, lora="random", hessian="raw")
    with pytest.raises(InputError, match=r"of another run: gathered .* allowed: equal, or another"):
        log(new_run(resume=True), lora="random", hessian="kfac")
    path = PROJECT / "resume" / "pass0.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"pass0.safetensors: altered since it was saved"):
        log(new_run(resume=True), lora="random", hessian="raw")


def started_together(folder: Path) -> list[tuple[Any, Any]]:
    """Two processes, and the pipes that they send to."""
    (folder / "meeting").unlink(missing_ok=True)
    return [started(resume_program.start_share, folder, rank) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_killed_at_random_moments_then_started_again(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    for process, _ in started_together(whole):
        process.join()
        assert process.exitcode == 0
    moments, kills, codes = random.Random(3), [0, 0], [-9, -9]
    while codes != [0, 0]:
        both = started_together(killed)
        first = moments.randrange(2)
        said = both[first][1]
        try:
            for _ in range(1 + moments.randrange(8)):
                said.recv()
        except EOFError:  # it is done, and so the other one will be
            for process, _ in both:
                process.join()
        for process, _ in (both[first], both[1 - first]):
            time.sleep(moments.uniform(0, 0.01))
            process.kill()  # the other one, too, which would wait for ever
            process.join()
        codes = [process.exitcode for process, _ in both]
        kills = [count + (code != 0) for count, code in zip(kills, codes, strict=True)]
    assert min(kills) >= 2
    expected = files(whole / PROJECT)
    assert "resume/rank1/pass0.safetensors" in expected
    assert files(killed / PROJECT) == expected


def test_as_many_processes_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    logged_and_killed(5, lora="random", hessian="raw")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr("papers.logra.curvature.moments.Statistics.all_reduce", lambda _: None)
    with pytest.raises(InputError, match=r"of another run: processes 1 there and 2 here; allowed"):
        log(new_run(resume=True), lora="random", hessian="raw")
