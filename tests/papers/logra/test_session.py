"""A run logs what was set up, keeps it, and answers as LogIX does where LogIX is right."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.functional import cross_entropy

from common import ROOT
from common.errors import InputError
from papers import logra
from papers.logra import LoggingConfig, LogIX, LogIXScheduler, LoRAConfig, merge_logs
from papers.logra.influence import rows_of
from papers.logra.log_folder import LogFolder
from tests.papers.logra.one_at_a_time import autograd_gradients

N, BATCH = 21, 6


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    return nn.Sequential(*layers).to(dtype)


def data(n: int = N, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 6, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(3, (n,), generator=generator)


def batches(size: int = BATCH) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    inputs, targets = data()
    for start in range(0, N, size):
        part = slice(start, start + size)
        yield [str(i) for i in range(N)[part]], inputs[part], targets[part]


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(model(inputs), targets, reduction="sum")


@pytest.fixture
def new_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LogIX]:
    """Runs whose folders lie in a fresh place."""
    monkeypatch.chdir(tmp_path)

    def new(project: str = "project", **logging: Any) -> LogIX:
        return LogIX(project, logging_config=LoggingConfig(log_dtype="float64", **logging))

    return new


def log_all(run: LogIX, model: nn.Module, size: int = BATCH) -> None:
    for ids, inputs, targets in batches(size):
        with run(data_id=ids):
            loss(model, inputs, targets).backward()


def queried(run: LogIX, model: nn.Module) -> Any:
    inputs, targets = data(4, seed=2)
    with run(data_id=["a", "b", "c", "d"]):
        loss(model, inputs, targets).backward()
    return run.get_log()


def logged(run: LogIX, model: nn.Module, size: int = BATCH, **schedule: Any) -> LogIX:
    run.watch(model)
    for _ in LogIXScheduler(run, save="grad", **schedule):
        log_all(run, model, size)
    run.finalize()
    return run


def scored(run: LogIX, model: nn.Module, **options: Any) -> Tensor:
    found = run.compute_influence_all(queried(run, model), run.build_log_dataloader(), **options)
    assert found["src_ids"] == ["a", "b", "c", "d"]
    assert found["tgt_ids"] == [str(i) for i in range(N)]
    assert isinstance(found["influence"], Tensor)
    return found["influence"]


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
        found[name] = {**globals(), "logix": module, "model": network(torch.float32)}
        exec(PROGRAM, found[name])  # noqa: S102 - the program of a user, with one import or another
    for ours, theirs in zip(found["logra"]["results"], found["logix"]["results"], strict=True):
        assert ours["src_ids"] == theirs["src_ids"]
        assert ours["tgt_ids"] == theirs["tgt_ids"]
        torch.testing.assert_close(ours["influence"], theirs["influence"], rtol=1e-3, atol=1e-3)
    ours, theirs = (found[name]["own"]["influence"] for name in ("logra", "logix"))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_raw_influence_of_a_run_is_a_dense_solve(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = logged(new_run(), model, hessian="raw")
    layers = {name: module for name, module in model.named_modules() if name in ("0", "2", "4")}

    def gradients(inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        places = torch.arange(len(inputs))
        return autograd_gradients(
            model, layers, lambda at: loss(model, inputs[at], targets[at]), places
        )

    rows = [gradients(*data()), gradients(*data(4, seed=2))]
    expected = torch.zeros(4, N, dtype=torch.float64)
    for name in layers:
        train, query = (part[name].flatten(1) for part in rows)
        h = train.T @ train / N
        h += 0.1 * h.trace() / len(h) * torch.eye(len(h))
        expected += query @ torch.linalg.solve(h, train.T)
    torch.testing.assert_close(scored(run, model), expected)


@pytest.mark.parametrize("hessian", ["raw", "kfac", "ekfac"])
def test_scores_do_not_depend_on_batches_and_chunks(
    new_run: Callable[..., LogIX], hessian: str
) -> None:
    model, found = network(), []
    for size, chunk in ((1, None), (6, None), (N, None), (6, 200)):
        run = new_run(f"{size} {chunk}", flush_threshold=chunk)
        found.append(scored(logged(run, model, size, hessian=hessian), model, mode="cosine"))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_ekfac_influence_is_that_of_kronfluence(
    new_run: Callable[..., LogIX], tmp_path: Path
) -> None:
    pytest.importorskip("kronfluence")
    from papers.logra.peers import Kronfluence, Samples, silent

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False))
    inputs, targets = data(dtype=torch.float32)
    with silent():
        peer = Kronfluence(model, tmp_path / "kronfluence", 4, BATCH)
        peer.log(Samples(inputs, targets))
        expected = peer.score(Samples(*data(4, seed=2, dtype=torch.float32)))
    run = new_run()
    run.watch(model)
    for _ in LogIXScheduler(run, hessian="ekfac", save="grad"):
        with run(data_id=range(N)):
            loss(model, inputs, targets).backward()
    run.finalize()
    with run(data_id=["a", "b", "c", "d"]):
        loss(model, *data(4, seed=2, dtype=torch.float32)).backward()
    found = run.compute_influence_all()["influence"]
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("hessian", ["raw", "kfac", "ekfac"])
def test_projections_of_full_rank_change_no_score(
    new_run: Callable[..., LogIX], hessian: str
) -> None:
    """Orthonormal ones, as PCA's are; up to float32, which projections are drawn in."""
    model = network()
    expected = scored(logged(new_run("whole"), model, hessian=hessian), model)
    run = new_run("pca")
    run.set_lora_config(LoRAConfig(rank=6))
    found = scored(logged(run, model, lora="pca", hessian=hessian), model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, expected)


def test_random_projections_are_those_of_the_seed(new_run: Callable[..., LogIX]) -> None:
    model, found = network(), []
    for project, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = new_run(project)
        run.set_lora_config(LoRAConfig(rank=2, seed=seed))
        found.append(scored(logged(run, model, lora="random", hessian="raw"), model))
        assert run.layout.width == 12
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


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


@pytest.mark.parametrize("hessian", ["raw", "ekfac"])
def test_defect_6_finalize_twice_is_finalize_once(
    new_run: Callable[..., LogIX], hessian: str
) -> None:
    """Upstream divided statistics by their counts each time, also between EKFAC's passes."""
    model = network()
    once = scored(logged(new_run("once"), model, hessian=hessian), model)
    run = new_run("often")
    run.watch(model)
    for _ in LogIXScheduler(run, hessian=hessian, save="grad"):  # type: ignore[arg-type]
        log_all(run, model)
        run.finalize()
        run.finalize()
    assert torch.equal(scored(run, model), once)


def test_defect_7_after_a_batch_nothing_is_gathered(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"forward": ["covariance"], "backward": ["covariance"], "grad": ["covariance"]})
    log_all(run, model)
    before = run.statistics.revision
    loss(model, *data()).backward()
    assert run.statistics.revision == before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_defect_8_a_log_keeps_what_it_holds(new_run: Callable[..., LogIX]) -> None:
    """Upstream's was emptied by the next batch."""
    run, model = new_run(), network()
    run.watch(model)
    first = queried(run, model)
    held = rows_of(first, run.layout).clone()
    log_all(run, model)
    assert torch.equal(rows_of(first, run.layout), held)
    assert run.get_log()[0] == ["18", "19", "20"]
    copied = run.get_log(copy=True)[1]
    assert isinstance(copied, dict)
    copied["0"]["grad"].zero_()
    assert run.get_log()[1]["0"]["grad"].any()  # type: ignore[index, call-overload]


def test_defect_9_equal_ids_stay_different_rows(new_run: Callable[..., LogIX]) -> None:
    """Upstream dropped every row whose id it had seen."""
    run, model = new_run(), network()
    run.watch(model)
    run.save(True)
    inputs, targets = data()
    with run(data_id=["same"] * N):
        loss(model, inputs, targets).backward()
    run.finalize()
    found = run.compute_influence_all(queried(run, model), hessian="none")
    assert found["tgt_ids"] == ["same"] * N
    assert isinstance(found["influence"], Tensor)
    assert len(found["influence"].unique()) == 4 * N


def test_defect_10_an_earlier_runs_log_is_not_mixed_in(new_run: Callable[..., LogIX]) -> None:
    """Upstream loaded the chunks of both."""
    model = network()
    logged(new_run(), model, hessian="raw")
    run = new_run()
    run.watch(model)
    run.save(True)
    with pytest.raises(InputError, match=r"project/log: holds the log of an earlier run; allowed"):
        log_all(run, model)
    run.initialize_from_log()
    assert scored(run, model).shape == (4, N)


def test_rows_of_another_model_or_projection_are_refused(new_run: Callable[..., LogIX]) -> None:
    model = network()
    logged(new_run(), model, hessian="raw")
    run = new_run()
    run.watch(model)
    run.initialize_from_log()
    run.build_log_dataset()
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(InputError, match="rows of another run: identity 'model'"):
        run.build_log_dataset()
    other = new_run()
    other.watch(nn.Linear(6, 3).double())
    with pytest.raises(InputError, match="layer 0; allowed: "):
        other.initialize_from_log()


LATER = """
import torch
from papers import logra
from tests.papers.logra.test_session import network, scored
run = logra.LogIX("project")
model = network()
run.watch(model)
run.initialize_from_log()
torch.save(scored(run, model), "later.pt")
"""


@pytest.mark.slow
def test_defect_11_another_process_gets_the_same_scores(new_run: Callable[..., LogIX]) -> None:
    """Upstream could not unpickle its own state."""
    model = network()
    run = new_run()
    run.set_lora_config(LoRAConfig(rank=3))
    expected = scored(logged(run, model, lora="random", hessian="ekfac"), model)
    subprocess.run([sys.executable, "-c", LATER], check=True, env={"PYTHONPATH": str(ROOT)})
    found = torch.load("later.pt", weights_only=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_defect_12_every_log_dtype_can_be_saved(new_run: Callable[..., LogIX], dtype: Any) -> None:
    """Upstream handed bfloat16 to numpy."""
    model = network()
    expected = scored(logged(new_run("exact"), model, hessian="raw"), model)
    run = LogIX(dtype, logging_config=LoggingConfig(log_dtype=dtype, flush_threshold=200))
    found = scored(logged(run, model, hessian="raw"), model)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.02
    assert len(list(Path("logix", dtype, "log").glob("*/*.safetensors"))) > 3


def test_defect_12_variance_is_a_plugin_and_only_gradients_are_saved(
    new_run: Callable[..., LogIX],
) -> None:
    """Upstream's variance raised and summed without a square; two of its four ``save`` raised."""
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"grad": ["mean", "variance"]})
    rows = []
    for ids, inputs, targets in batches():
        with run(data_id=ids):
            loss(model, inputs, targets).backward()
        rows.append(run.get_log()[1]["0"]["grad"].flatten(1))  # type: ignore[index, call-overload]
    every = torch.cat(rows)
    torch.testing.assert_close(run.statistics.variance("grad")["0"], every.var(0, correction=0))
    with pytest.raises(InputError, match="save 'forward'; allowed: none, grad"):
        LogIXScheduler(run, save="forward")  # type: ignore[arg-type]


def test_defect_15_a_project_needs_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's first documented line raised without ./config.yaml."""
    monkeypatch.chdir(tmp_path)
    assert logra.init(project="my_project").config == logra.Config()
    assert not list(tmp_path.iterdir())


def test_defect_16_pca_without_covariances_is_an_error(new_run: Callable[..., LogIX]) -> None:
    """Upstream fell back to random projections."""
    run, model = new_run(), network()
    run.watch(model)
    with pytest.raises(InputError, match="no forward covariance was gathered"):
        run.add_lora(lora_config=LoRAConfig(init="pca"))
    run.setup({"forward": ["covariance"], "backward": ["covariance"]})
    run.watch(model, name_filter=["0"])
    log_all(run, model)
    with pytest.raises(InputError, match=r"no covariances of layers \['2'\]; gathered: 0"):
        run.add_lora(name_filter=["0", "2"])


def test_defect_17_scores_without_statistics_are_errors(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = logged(new_run(), model)
    with pytest.raises(InputError, match="covariance was gathered; gathered: nothing"):
        scored(run, model)
    assert scored(run, model, precondition=False).shape == (4, N)


def test_defect_20_the_scale_of_a_loss_is_divided_out(new_run: Callable[..., LogIX]) -> None:
    """Upstream's gradients kept a GradScaler's scale, and 1 / n of a mean over n samples."""
    run, model = new_run(), network()
    run.watch(model)
    inputs, targets = data(4, seed=2)
    expected = rows_of(queried(run, model), run.layout)
    for scale, reduction in ((1024.0, "sum"), (0.25, "mean")):
        with run(data_id=range(4), loss_scale=scale):
            value = cross_entropy(model(inputs), targets, reduction=reduction)
            (value * 1024 if reduction == "sum" else value).backward()
        torch.testing.assert_close(rows_of(run.get_log(), run.layout), expected)


def test_defect_21_each_call_builds_the_loader_it_asks_for(new_run: Callable[..., LogIX]) -> None:
    """Upstream gave the first one again, whatever the arguments."""
    model = network()
    run = logged(new_run(), model, hessian="raw")
    first, second = run.build_log_dataloader(), run.build_log_dataloader(7, flatten=True)
    assert [len(ids) for ids, _ in first] == [16, 5]
    assert [len(ids) for ids, _ in second] == [7, 7, 7]
    nested = merge_logs(first)
    flat = merge_logs(second)
    assert nested[0] == flat[0]
    assert torch.equal(rows_of(nested, run.layout), rows_of(flat, run.layout))
    assert run.build_log_dataset(flatten=True)[3][1].shape == (run.layout.width,)
    name, row = run.build_log_dataset()[3]
    assert (name, row["2"]["grad"].shape) == ("3", (4, 5))  # type: ignore[call-overload]


def test_queries_after_finalize_and_eval_are_only_looked_at(
    new_run: Callable[..., LogIX],
) -> None:
    """As the documented program does, without another setup."""
    model = network()
    run = logged(new_run(), model, hessian="raw")
    revision, first = run.statistics.revision, scored(run, model)
    assert torch.equal(scored(run, model), first)
    assert run.statistics.revision == revision
    assert len(run.build_log_dataset()) == N
    run.setup({"grad": ["log", "covariance"]})
    run.eval()
    queried(run, model)
    assert run.statistics.revision == revision


def test_a_pass_of_kfac_gathers_without_gradients(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"forward": ["covariance"], "backward": ["covariance"]})
    log_all(run, model)
    assert run.get_log()[1] == {"0": {}, "2": {}, "4": {}}
    with pytest.raises(InputError, match="a log without the gradient of layer 0"):
        run.compute_self_influence()


def test_start_and_end_are_a_with_block(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    expected = queried(run, model)
    with pytest.raises(InputError, match="end without start"):
        run.end()
    run.start(["a", "b", "c", "d"])
    with pytest.raises(InputError, match="a batch within a batch"):
        run.start(["e"])
    with pytest.raises(InputError, match="no log"):
        run.get_log()
    inputs, targets = data(4, seed=2)
    loss(model, inputs, targets).backward()
    run.end(save=True)
    assert run.get_log()[0] == expected[0]
    assert torch.equal(rows_of(run.get_log(), run.layout), rows_of(expected, run.layout))
    run.start(["e"])
    run.clear()
    assert all(parameter.requires_grad for parameter in model.parameters())
    run.finalize()
    assert len(run.build_log_dataset()) == 4


def test_a_block_that_fails_stores_nothing_and_leaves_the_model(
    new_run: Callable[..., LogIX],
) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.save(True)
    with pytest.raises(RuntimeError, match="scalar"), run(data_id=["a"]):
        model(data(1)[0]).backward()
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(InputError, match="no log; allowed: after a batch"):
        run.get_log()
    assert not Path("logix").exists()
    log_all(run, model)
    run.finalize()
    assert len(run.build_log_dataset()) == N


def test_ids_are_one_for_each_sample(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"forward": ["covariance"], "grad": ["covariance"]})
    log_all(run, model)
    revision = run.statistics.revision
    with pytest.raises(InputError, match="2 data_id for a batch of 3"), run(data_id=["a", "b"]):
        loss(model, *data(3)).backward()
    assert run.statistics.revision == revision
    assert run.statistics.covariance("forward")  # no part of the batch is in it
    for bad in ("abc", b"abc"):
        with pytest.raises(InputError, match=r"data_id .*allowed: a list"), run(data_id=bad):
            pass
    with pytest.raises(InputError, match="a batch without data_id"), run:
        pass


def test_activations_and_tensors_are_logged_where_asked(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.setup({"forward": ["log"], "backward": ["log"], "grad": ["log"]})
    inputs, targets = data(4)
    with run(data_id=range(4)):
        hidden = model[1](model[0](inputs))
        run.watch_activation({"hidden": hidden})
        loss(model[2:], hidden, targets).backward()
    ids, log = run.get_log()
    assert isinstance(log, dict)
    assert ids == ["0", "1", "2", "3"]
    assert torch.equal(log["0"]["forward"], inputs)
    assert torch.equal(log["hidden"]["forward"], log["2"]["forward"])
    for name in ("0", "2", "4"):
        e, a = log[name]["backward"], log[name]["forward"]
        torch.testing.assert_close(log[name]["grad"], e.unsqueeze(2) * a.unsqueeze(1))
    torch.testing.assert_close(log["hidden"]["backward"], log["2"]["backward"] @ model[2].weight)
    run.compute_self_influence(hessian="none")
    with pytest.raises(InputError, match="watch_activation outside of a batch"):
        run.watch_activation({"hidden": hidden})


def test_a_mask_says_which_tokens_count(new_run: Callable[..., LogIX]) -> None:
    run = new_run()
    model = nn.Linear(3, 2).double()
    run.watch(nn.ModuleDict({"it": model}))
    run.setup({"forward": ["covariance"]})
    tokens = torch.randn(2, 4, 3).double()
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    with run(data_id=["a", "b"], mask=mask):
        model(tokens).sum().backward()
    counted = tokens[mask.bool()]
    torch.testing.assert_close(run.statistics.covariance("forward")["it"], counted.T @ counted / 3)


def test_projections_can_be_taken_from_another_run(new_run: Callable[..., LogIX]) -> None:
    model = network()
    first = new_run("first")
    first.set_lora_config(LoRAConfig(rank=2, seed=5))
    expected = scored(logged(first, model, lora="random", hessian="raw"), model)
    run = new_run("second")
    run.watch(model)
    run.add_lora(lora_path="logix/first")
    assert run.projections is not None
    assert first.projections is not None
    assert run.projections.digest == first.projections.digest
    run.add_lora(watch=False, clear=False, lora_config=LoRAConfig(rank=3))
    assert run.layout.width == first.layout.width
    run.watch(model)
    assert run.layout.width == 27
    assert scored(first, model).equal(expected)


def test_lora_restricts_what_is_watched_to_its_layers(new_run: Callable[..., LogIX]) -> None:
    run, model = new_run(), network()
    run.watch(model)
    run.add_lora(name_filter=["2"])
    assert [block.name for block in run.layout.blocks] == ["2"]
    with pytest.raises(InputError, match="no watched layer has a projection; allowed: some of 2"):
        run.watch(model, name_filter=["0"])


def test_leftovers_of_an_earlier_projection_do_not_stay(new_run: Callable[..., LogIX]) -> None:
    model = network()
    run = new_run()
    run.watch(model)
    run.add_lora(lora_config=LoRAConfig(rank=2))
    run.finalize()
    assert LogFolder(Path("logix/project")).has_projections
    again = new_run()
    again.watch(model)
    again.finalize()
    again.initialize_from_log()
    assert again.projections is None


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
    with pytest.raises(AttributeError, match="has no attribute 'add_analysis'"):
        logra.add_analysis({})
    assert all(hasattr(LogIX, name) for name in logra._OF_THE_RUN)


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


def _log_share(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    run, model = LogIX("project", logging_config=LoggingConfig(log_dtype="float64")), network()
    run.watch(model)
    for _ in LogIXScheduler(run, lora="pca", hessian="ekfac", save="grad"):
        for number, (ids, inputs, targets) in enumerate(batches()):
            if number % 2 == rank:
                with run(data_id=ids):
                    loss(model, inputs, targets).backward()
    run.finalize()
    found = run.compute_influence_all(queried(run, model))
    shared = run.compute_influence_all(queried(run, model), split_rows=True)
    assert found["tgt_ids"] == shared["tgt_ids"]
    torch.testing.assert_close(found["influence"], shared["influence"])
    torch.save((found["tgt_ids"], found["influence"]), folder / f"{rank}.pt")
    again = LogIX("project", logging_config=run.config.logging)
    again.projections = run.projections
    again.watch(model)
    with pytest.raises(InputError, match="rows of an earlier run"), again(list("abcd"), save=True):
        loss(model, *data(4)).backward()
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one_each_all_rows_or_its_share(
    tmp_path: Path, new_run: Callable[..., LogIX]
) -> None:
    model = network()
    expected = scored(logged(new_run("one"), model, lora="pca", hessian="ekfac"), model)
    multiprocessing.spawn(_log_share, (tmp_path,), nprocs=2)
    for rank in (0, 1):
        ids, found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        order = sorted(range(N), key=lambda place: int(ids[place]))
        assert sorted(ids, key=int) == [str(i) for i in range(N)]
        torch.testing.assert_close(found[:, order], expected, rtol=1e-4, atol=1e-4)


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
