"""The training core on a GPU: precisions, exact resume, compile, layout, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import TensorDataset

from common.experiments.schema import RunKey
from common.runs.run import Run
from common.training import Core, CoreSettings
from common.training.resume_state import states
from tests.common.training.core_program import ProgramSettings

# torch looks at this once, at the first matrix product of the process.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class ConvNet(nn.Module):
    """Two convolutions, batch norm, dropout, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, stride=2),
            nn.ReLU(),
        )
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(16, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.blocks(images).mean((2, 3))
        output: torch.Tensor = self.head(self.dropout(features))
        return output


def images() -> TensorDataset:
    """(128, 3, 16, 16) images whose class is how bright their first channel is."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (128,), generator=generator)
    pixels = torch.randn(128, 3, 16, 16, generator=generator)
    pixels[:, 0] += labels[:, None, None]
    return TensorDataset(pixels, labels)


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.use_deterministic_algorithms(False)


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[Core]:
    core_settings = CoreSettings.model_validate(
        {"device": "cuda", "global_batch_size": 32, "save_every": 5} | settings
    )
    full = ProgramSettings(core=core_settings)
    key = RunKey("test", "core", "case", "arm", 3, "smoke")
    AcceleratorState._reset_state(reset_partial_state=True)
    with Run(key, "core", full, folder / "out", folder / "work") as run:
        core = Core(core_settings, run)
        yield core
        core.finish()


def fit(core: Core, stop_after: int = 10**9) -> tuple[nn.Module, list[float]]:
    """Train 10 epochs of 4 steps; return before the step that follows ``stop_after``."""
    model: nn.Module = ConvNet()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02, **core.fused)
    model, optimiser = core.prepare(model, optimiser)
    core.track(model=model, optimiser=optimiser)
    losses: list[float] = []
    for _, batches in core.epochs(core.loader(images()), 10):
        for inputs, labels in batches:
            if core.step_count == stop_after:
                return model, losses
            with core.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), labels)
                core.backward(loss)
            core.step(model, optimiser)
            losses.append(loss.item())
    return model, losses


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(precision: str, tmp_path: Path) -> None:
    with opened(tmp_path, precision=precision, accumulation=2, clip_norm=1.0) as core:
        model, losses = fit(core)
        assert (core.precision, core.device.type) == (precision, "cuda")
        assert core.step_count == 40
        assert (core.accelerator.scaler is not None) == (precision == "fp16")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


def test_auto_is_bf16_where_the_gpu_has_it(tmp_path: Path) -> None:
    with opened(tmp_path) as core:
        expected = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        assert core.precision == core.run.precision == expected
        assert core.run.device == torch.cuda.get_device_name(0)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resume_in_mid_epoch_has_the_same_bits(precision: str, tmp_path: Path) -> None:
    settings = {"precision": precision, "deterministic": True}
    with opened(tmp_path / "whole", **settings) as core:
        whole = weights(fit(core)[0])
    with opened(tmp_path / "cut", **settings) as core:
        fit(core, stop_after=13)
    torch.rand(7, device="cuda")  # the stream must come from the state
    assert states(tmp_path / "cut" / "work")[0].name == "step-0000000010"
    with opened(tmp_path / "cut", **settings) as core:
        model, losses = fit(core)
        assert len(losses) == 30
        torch.testing.assert_close(weights(model), whole, rtol=0, atol=0)


def test_an_overflow_in_fp16_moves_no_scheduler(tmp_path: Path) -> None:
    with opened(tmp_path, precision="fp16") as core:
        model: nn.Module = nn.Linear(4, 1)
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5)
        model, optimiser = core.prepare(model, optimiser)
        before = weights(model)
        for factor, rate in ((1e30, 1.0), (1e-6, 0.5)):
            with core.accumulate(model):
                core.backward(model(torch.ones(32, 4, device="cuda")).mean() * factor)
            core.step(model, optimiser, scheduler)
            assert optimiser.param_groups[0]["lr"] == rate
            if factor > 1:
                torch.testing.assert_close(weights(model), before, rtol=0, atol=0)
        assert core.step_count == 2


def test_a_compiled_model_trains_as_the_plain_one(tmp_path: Path) -> None:
    trained = []
    for compiled in (False, True):
        with opened(tmp_path / str(compiled), precision="fp32", compile=compiled) as core:
            model: nn.Module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
            optimiser = torch.optim.SGD(model.parameters(), lr=0.1, **core.fused)
            model, optimiser = core.prepare(model, optimiser)
            generator = torch.Generator().manual_seed(2)
            for _ in range(5):
                inputs = torch.randn(32, 8, generator=generator).to(core.device)
                with core.accumulate(model):
                    core.backward(nn.functional.cross_entropy(model(inputs), inputs.argmax(1) % 4))
                core.step(model, optimiser)
            assert (model._compiled_call_impl is not None) == compiled
            trained.append(weights(model))
    assert list(trained[0]) == list(trained[1])  # no prefix in the names
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-5)


def test_memory_layout_optimiser_and_meters(tmp_path: Path) -> None:
    with opened(tmp_path) as core:
        model, _ = fit(core)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        for convolution in convolutions:
            assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
        assert core.fused == {"fused": True}
        assert core.samples_per_s() > 0
        core.finish(model)
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        assert core.run.measure_gpu() > 3 * size  # weights and Adam's two moments at least
        assert core.run.path("weights.safetensors").is_file()


def test_determinism_sets_what_cublas_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with opened(tmp_path, deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.matmul.allow_tf32
    with opened(tmp_path / "fast", tf32=True):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.matmul.allow_tf32
