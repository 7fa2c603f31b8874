"""The Lightning Trainer: what it logs is each sample's own loss, and nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from common.errors import InputError
from papers.logra.lightning import LogIXArguments, patch
from papers.logra.trainers.loss_reduction import LossReduction
from tests.papers.logra.killed_processes import files


class Classifier(LightningModule):
    """A small network with dropout, trained on mean cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3, bias=False)
        )

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def samples(count: int = 10) -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=draw)
    return TensorDataset(x, torch.randint(3, (count,), generator=draw))


class SummedLoss(Classifier):
    """Trained on a sum, as in LogIX's example."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        return functional.cross_entropy(self.network(batch[0]), batch[1], reduction="sum")


class Tagger(Classifier):
    """Trained on the mean over labels that are not padding."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.network(x).flatten(0, 1), y.flatten())


def patched(
    folder: Path,
    module_class: type[Any] = Classifier,
    extractors: Any = None,
    trains: Any = None,
    **options: Any,
) -> tuple[Any, Any]:
    """(module, trainer)."""
    (folder / "config.yaml").write_text(
        f"root_dir: {folder}\nlora: {{rank: 3}}\nlogging: {{checkpoint_seconds: 0}}\n"
    )
    arguments = LogIXArguments(
        project="log", config=folder / "config.yaml", model_key="network", **options
    )
    module_class, trainer_class = patch(module_class, Trainer, arguments, **(extractors or {}))
    trainer = trainer_class(
        **(trains or {}),
        accelerator="cpu",
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    return module_class(), trainer


def test_stored_gradients_are_those_of_each_sample_and_nothing_moves(tmp_path: Path) -> None:
    module, trainer = patched(tmp_path)
    data = samples()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    trainer.extract_log(module, DataLoader(data, batch_size=4))
    stored = trainer.logix.build_log_dataset()
    assert len(stored) == 10
    module.eval()
    for place, (x, y) in enumerate(data):
        loss = functional.cross_entropy(module.network(x[None]), y[None])
        grads = torch.autograd.grad(loss, list(module.network.parameters()))
        for name, grad in zip(("0", "3"), grads, strict=True):
            torch.testing.assert_close(stored[place][1][name]["grad"], grad)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"loss_reduction": "sum"}])
def test_a_summed_loss_is_told_from_a_mean(tmp_path: Path, options: dict[str, Any]) -> None:
    module, trainer = patched(tmp_path, SummedLoss, **options)
    data = samples()
    trainer.extract_log(module, DataLoader(data, batch_size=4))
    check_gradients(module, trainer, data)
    queries = DataLoader(TensorDataset(*(part[:1] for part in data.tensors)))
    scores = trainer.influence(module, queries)["influence"]
    own = trainer.self_influence(module, queries)["influence"]
    torch.testing.assert_close(scores[:, 0], own, rtol=1e-3, atol=1e-6)


def check_gradients(module: Any, trainer: Any, data: TensorDataset) -> None:
    """What is stored is the gradient of each sample's summed loss."""
    stored = trainer.logix.build_log_dataset()
    assert len(stored) == len(data)
    module.eval()
    for place, (x, y) in enumerate(data):
        logits = module.network(x[None]).flatten(0, -2)
        loss = functional.cross_entropy(logits, y.reshape(-1), reduction="sum")
        grads = torch.autograd.grad(loss, list(module.network.parameters()))
        for name, grad in zip(("0", "3"), grads, strict=True):
            torch.testing.assert_close(stored[place][1][name]["grad"], grad)


def labels_that_count(batch: Any) -> int:
    return int((batch[1] != -100).sum())


def tagged(lengths: list[int]) -> TensorDataset:
    """Sequences of 5 of which the first so many have labels."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(len(lengths), 5, 6, generator=draw)
    y = torch.randint(3, (len(lengths), 5), generator=draw)
    return TensorDataset(x, y.masked_fill(torch.arange(5) >= torch.tensor(lengths)[:, None], -100))


LENGTHS = [5, 3, 5, 5, 5, 5, 1, 2, 4, 1]


@pytest.mark.parametrize("hessian", ["none", "raw", "kfac"])
def test_a_mean_over_labels_is_a_sum_over_each_samples_own(tmp_path: Path, hessian: str) -> None:
    counts = {"terms_extractor": labels_that_count}
    module, trainer = patched(tmp_path, Tagger, counts, hessian=hessian)
    data = tagged(LENGTHS)
    trainer.extract_log(module, DataLoader(data, batch_size=4))
    check_gradients(module, trainer, data)


@pytest.mark.parametrize("hessian", ["none", "raw", "kfac"])
@pytest.mark.parametrize("declared", ["auto", "mean"])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_mean_over_labels_is_not_taken_for_one_over_samples(
    tmp_path: Path, hessian: str, declared: Any, batch_size: int
) -> None:
    module, trainer = patched(tmp_path, Tagger, hessian=hessian, loss_reduction=declared)
    # The first batch is of equal lengths: there the two are one.
    loader = DataLoader(tagged([5] * batch_size + LENGTHS), batch_size=batch_size)
    if batch_size == 1:
        trainer.extract_log(module, loader)  # each sample's own mean
        return
    with pytest.raises(InputError, match=r"mean over samples.*allowed: terms_extractor of patch"):
        trainer.extract_log(module, loader)


@pytest.mark.parametrize(
    ("loads", "trains", "message"),
    [
        ({"drop_last": True}, {}, "drop_last=True of the loader.*allowed: drop_last=False"),
        ({}, {"limit_train_batches": 2}, "2 of the loader's 3 batches, by limit_train_batches"),
        ({"sampler": 4}, {}, "DistributedSampler that gives 12 of 10 samples to 4 processes"),
    ],
)
def test_a_loader_that_leaves_samples_out_or_repeats_some_is_refused(
    tmp_path: Path, loads: dict[str, Any], trains: dict[str, Any], message: str
) -> None:
    module, trainer = patched(tmp_path, trains=trains)
    data = samples()
    if "sampler" in loads:
        loads = {"sampler": DistributedSampler(data, loads["sampler"], 0, shuffle=False)}
    with pytest.raises(InputError, match=message):
        trainer.extract_log(module, DataLoader(data, batch_size=4, **loads))
    assert not (tmp_path / "log").exists()


def test_a_gradscalers_scale_is_divided_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, trainer = patched(tmp_path)
    plugin, data = trainer.precision_plugin, samples()
    plugin.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    monkeypatch.setattr(
        plugin, "pre_backward", lambda loss, _module: plugin.scaler.scale(loss), raising=False
    )
    trainer.extract_log(module, DataLoader(data, batch_size=4))
    check_gradients(module, trainer, data)


@pytest.mark.parametrize("hessian", ["raw", "ekfac"])
@pytest.mark.parametrize("lora", ["none", "random", "pca"])
def test_defect_19_scores_of_logged_samples(tmp_path: Path, lora: str, hessian: str) -> None:
    """Upstream dropped self-influences, had no way to PCA, and dropout was on."""
    module, trainer = patched(tmp_path, lora=lora, hessian=hessian)
    data = samples()
    trainer.extract_log(module, DataLoader(data, batch_size=4))
    assert lora == "none" or trainer.logix.get_lora_config().init == lora
    queries = DataLoader(TensorDataset(*(part[:3] for part in data.tensors)), batch_size=2)
    found = trainer.influence(module, queries)
    assert found["influence"].shape == (3, 10)
    own = trainer.self_influence(module, queries)["influence"]
    torch.testing.assert_close(found["influence"][:, :3].diagonal(), own, rtol=1e-3, atol=1e-6)
    assert len(trainer.logix.build_log_dataset()) == 10


def test_the_module_trains_as_before_with_an_ordinary_trainer(tmp_path: Path) -> None:
    module, trainer = patched(tmp_path)
    trainer.extract_log(module, DataLoader(samples(), batch_size=4))
    before = module.network[0].weight.detach().clone()
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, DataLoader(samples(), batch_size=4))
    assert not torch.equal(module.network[0].weight, before)


def test_a_trainer_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("whole", "killed")]
    options, steps, stop = {"lora": "pca", "hessian": "ekfac", "resume": True}, 0, 0

    def stopping(self: Any, batch: Any, index: int) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise RuntimeError("killed")
        return step_of(self, batch, index)

    step_of = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", stopping)
    monkeypatch.setattr(LossReduction, "check", lambda *_: None)  # whose steps are not to count
    for folder, stops in zip(folders, ([0], [5, 0]), strict=True):
        folder.mkdir()
        for stop in stops:  # batches of 4 samples, so 3 in each of three passes
            steps = 0
            module, trainer = patched(folder, **options)
            loader = DataLoader(samples(), batch_size=4)
            if stop:
                with pytest.raises(RuntimeError, match="killed"):
                    trainer.extract_log(module, loader)
            else:
                trainer.extract_log(module, loader)
    assert steps == 3 * 3 - 4
    found, expected = (files(folder, "log/*/**/*.*") for folder in reversed(folders))
    assert found == expected
    assert len(found) > 3


def test_a_model_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    arguments = LogIXArguments(project="log", model_key="net")
    module_class, trainer_class = patch(Classifier, Trainer, arguments)
    trainer = trainer_class(accelerator="cpu", max_epochs=1)
    with pytest.raises(InputError, match=r"model_key 'net'.*allowed: network"):
        trainer.extract_log(module_class(), DataLoader(samples()))
