"""The Lightning Trainer: what it logs is each sample's own loss, and nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from common.errors import InputError
from papers.logra.lightning import LogIXArguments, patch


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


def patched(folder: Path, **options: Any) -> tuple[Any, Any]:
    """(module, trainer)."""
    (folder / "config.yaml").write_text(
        f"root_dir: {folder}\nlora: {{rank: 3}}\nlogging: {{checkpoint_seconds: 0}}\n"
    )
    arguments = LogIXArguments(
        project="log", config=folder / "config.yaml", model_key="network", **options
    )
    module_class, trainer_class = patch(Classifier, Trainer, arguments)
    trainer = trainer_class(
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
    found, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("log/*/**/*.*")}
        for folder in reversed(folders)
    )
    assert found == expected
    assert len(found) > 3


def test_a_model_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    arguments = LogIXArguments(project="log", model_key="net")
    module_class, trainer_class = patch(Classifier, Trainer, arguments)
    trainer = trainer_class(accelerator="cpu", max_epochs=1)
    with pytest.raises(InputError, match=r"model_key 'net'.*allowed: network"):
        trainer.extract_log(module_class(), DataLoader(samples()))
