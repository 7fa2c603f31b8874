"""What a batch will cost, or what makes it random, is said before it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.errors import InputError
from common.training.peak_memory import peak_tensor_bytes
from papers.logra import LoggingConfig, LogIX, LoRAConfig
from papers.logra.curvature.layout import Block, Layout
from papers.logra.session.batch_checks import BatchChecks, drawing
from tests.papers.logra.logged_network import data, loss, network


@pytest.mark.parametrize("size", [20, 5])
def test_raw_h_of_a_wide_layer_takes_memory_by_samples(
    new_run: Callable[..., LogIX], size: int
) -> None:
    """16 MB of rows, not the 80 GB of half as many rows as there are numbers."""
    run = new_run()
    run.set_logging_config(LoggingConfig(flush_threshold=2e6))
    torch.manual_seed(0)
    layer = nn.Linear(784, 256, bias=False)
    x, y = torch.randn(20, 784), torch.randint(256, (20,))
    run.watch(layer)
    run.setup({"grad": ["log", "covariance"]})

    def log() -> None:
        for place in range(0, 20, size):
            part = slice(place, place + size)
            with run(data_id=range(place, place + size)):
                cross_entropy(layer(x[part]), y[part], reduction="sum").backward()

    rows = 20 * 784 * 256 * 4
    assert peak_tensor_bytes(log) < 4 * rows + (64 << 20)
    run.finalize()
    with run(data_id=["a", "b"]):
        cross_entropy(layer(x[:2] + 0.1), y[:2], reduction="sum").backward()
    query = run.get_log()
    found = run.compute_influence(query, query, relative_damping=0.5)["influence"]
    # By Woodbury's identity, from the gradients themselves: softmax minus target, times the input.
    every, one = (gradients(layer, inputs, y) for inputs in (x, x[:2] + 0.1))
    damping = 0.5 * float(every.square().sum()) / 20 / every.shape[1]
    gram = every @ every.mT / 20 + damping * torch.eye(20, dtype=torch.float64)
    across = one @ every.mT
    expected = (one @ one.mT - across @ torch.linalg.solve(gram, across.mT) / 20) / damping
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)  # type: ignore[union-attr]


def gradients(layer: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    weight = layer.weight.detach().double()
    x = x.double()
    errors = torch.softmax(x @ weight.mT, 1) - nn.functional.one_hot(y[: len(x)], 256)
    return (errors[:, :, None] * x[:, None]).flatten(1)


def watched(width: int) -> Any:
    return SimpleNamespace(model=nn.Linear(2, 2), layout=Layout([Block("h", 1, width)]))


def test_bytes_of_large_gradients_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """GPT-2 without projections: 123.5 million numbers a sample."""
    monkeypatch.setattr("papers.logra.curvature.memory_limits.free_bytes", lambda _: 10**10)
    checks, model, settings = BatchChecks(), watched(123_532_032), LoggingConfig()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            checks.check_batch(model, 8, settings, True)
        BatchChecks().check_batch(watched(1000), 8, settings, True)
    (record,) = caplog.records
    assert "123,532,032 numbers and takes 494 MB, 8 samples 7.91 GB in memory" in record.message
    assert "3.95 GB in the log; less takes projections (lora)" in record.message
    checks.check_batch(model, 16, settings, False)
    with pytest.raises(InputError, match=r"16 samples with 123,532,032 .* 15.8 GB are needed and"):
        checks.check_batch(model, 16, settings, True)
    with pytest.raises(InputError, match=r"31.6 GB are needed and 10 GB"):
        checks.check_batch(model, 16, LoggingConfig(log_dtype="float64"), True)


def test_what_does_not_fit_is_refused_before_the_model_runs(
    new_run: Callable[..., LogIX], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("papers.logra.curvature.memory_limits.free_bytes", lambda _: 10**8)
    run, layer = new_run(), nn.Linear(784, 256)
    run.watch(layer)
    run.setup({"grad": ["log", "covariance"]})
    run.save(True)
    refused = pytest.raises(InputError, match=r"needed and 0.1 GB .*allowed: projections")
    with refused, run(data_id=range(100)):
        raise AssertionError
    assert not Path("logix").exists()
    run.add_lora(lora_config=LoRAConfig(rank=4))
    with run(data_id=range(100)):
        layer(torch.randn(100, 784)).square().sum().backward()


def test_dropout_in_training_mode_is_told_once(
    new_run: Callable[..., LogIX], caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(network(), nn.Dropout(0.5), nn.Dropout(0.0))
    run, (inputs, targets) = new_run(), data(4)
    run.watch(model)
    with caplog.at_level(logging.WARNING):
        for training in (False, True, True):
            model.train(training)
            with run(data_id=range(4)):
                loss(model, inputs, targets).backward()
    assert caplog.text.count("dropout is on in 1: gradients are those of one draw") == 1


def test_which_modules_draw() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dropout=0.1)
    assert drawing(layer) == "self_attn, dropout, dropout1 and 1 more"
    assert drawing(layer.eval()) == ""
    assert drawing(nn.LSTM(3, 3, num_layers=2, dropout=0.2)) == "LSTM"
    assert drawing(nn.LSTM(3, 3)) == drawing(nn.Dropout(0.0)) == drawing(nn.Linear(2, 2)) == ""
