"""Table 1: the published models' shapes, what is stored, what happens where memory ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import InputError
from common.experiments.schema import load_paper
from common.results.records import Results, StoredRecord
from papers.logra.curvature import memory_limits
from papers.logra.experiments import efficiency
from papers.logra.experiments.efficiency import EfficiencySettings
from papers.logra.gradients.capture import Capture
from papers.logra.gradients.watching import watched
from papers.logra.targets.tables import BYTES, table1
from papers.logra.tasks.language_architectures import ArchitectureSettings, language_model
from papers.logra.tasks.samples import Samples, losses
from tests.papers.logra.one_at_a_time import autograd_gradients
from tests.papers.logra.runs import FOLDER, metrics_of, settings_of

SMALL: dict[str, dict[str, Any]] = {
    kind: {"kind": kind, "width": 32, "depth": 2, "heads": 4, "hidden": 48}
    for kind in ("gpt2", "gpt_neox", "llama")
}
SMALL["llama"]["key_value_heads"] = 2


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", SMALL)
def test_gradients_of_every_architecture_are_autograds(kind: str) -> None:
    torch.manual_seed(0)
    model = language_model(ArchitectureSettings(**SMALL[kind]), 23, 9, dtype=torch.float64)
    layers = watched(model, name_filter=["mlp"])
    assert len(layers) == 2 * (3 if kind == "llama" else 2)
    tokens = torch.randint(23, (5, 10))
    samples = Samples(tokens[:, :-1], tokens[:, 1:])

    def loss(sample: Tensor) -> Tensor:
        return losses(model(sample[:, :-1]), sample[:, 1:]).sum()

    wanted = autograd_gradients(model, layers, loss, tokens)
    capture, found = Capture(model, layers), []
    for _, part in samples.batches(3):
        with capture.batch() as batch:
            losses(model(part.x), part.y).sum().backward()  # type: ignore[no-untyped-call]
        found.append(batch.gradients)
    for name, expected in wanted.items():
        together = torch.cat([part[name] for part in found])
        # Llama's norms are float32 by transformers' code, whatever the model is.
        tolerance = 1e-5 if kind == "llama" else 1e-10
        torch.testing.assert_close(together, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("case", "length", "parameters"),
    [
        ("llama", 512, 8_030_261_248),
        ("pythia", 512, 1_414_647_808),
        ("gpt2_xl", 1024, 1_557_611_200),  # its places are learnt
    ],
)
def test_published_shapes_have_the_published_number_of_parameters(
    case: str, length: int, parameters: int
) -> None:
    settings: EfficiencySettings = settings_of("efficiency", "logra_1_4", "paper", case)
    model = language_model(
        settings.network, settings.vocabulary, length, device="meta", dtype=torch.bfloat16
    )
    assert sum(part.numel() for part in model.parameters()) == parameters
    assert {part.dtype for part in model.parameters()} == {torch.bfloat16}


def test_the_sixteenth_of_llama_is_two_blocks_of_its_32() -> None:
    settings: EfficiencySettings = settings_of("efficiency", "ekfac_sixteenth", "paper", "llama")
    model = language_model(settings.network, 512, 512, device="meta", dtype=torch.bfloat16)
    every, some = (watched(model, name_filter=names) for names in (["mlp"], settings.layers))
    assert len(every) == 96 == 16 * len(some)


def test_half_precision_halves_what_is_stored_and_the_model() -> None:
    changes: dict[str, Any] = {"network": SMALL["llama"], "layers": ["mlp"]}
    whole = metrics_of("efficiency", "logra_1_4", **changes)
    half = metrics_of("efficiency", "logra_1_4", **changes, precision="bfloat16")
    assert half["model_bytes"] == pytest.approx(whole["model_bytes"] / 2, rel=0.01)
    # 16 sequences; six layers at rank 4; 2 bytes less each. The headers stay.
    assert whole["storage_bytes"] - half["storage_bytes"] == pytest.approx(16 * 6 * 16 * 2, abs=16)
    sequences = 10**9 // 8
    extrapolated = half["storage_of_1b_tokens_extrapolated_bytes"]
    assert extrapolated == pytest.approx(half["storage_bytes"] * sequences / 16)


def test_factors_take_what_they_are_kept_in_and_do_not_grow() -> None:
    double = metrics_of("efficiency", "ekfac")
    single = metrics_of("efficiency", "ekfac", statistics_dtype="float32", statistics_device="cpu")
    # Four layers of a block 16 wide with an MLP of 32: two matrices and their eigenvalues each.
    shapes = ((16, 48), (16, 16), (16, 32), (32, 16))
    numbers = sum(inner**2 + out**2 + inner * out for inner, out in shapes)
    assert double["storage_bytes"] == 8 * numbers
    assert single["storage_bytes"] == 4 * numbers
    assert single["storage_of_1b_tokens_extrapolated_bytes"] == single["storage_bytes"]


def test_a_model_too_large_ends_in_one_line() -> None:
    with pytest.raises(InputError, match=r"^efficiency, arm ekfac: the model: out of memory;") as e:
        metrics_of("efficiency", "ekfac", vocabulary=10**13)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("log", "logging 16 at once: out of memory"),
        ("score", "scoring 256 for 256 queries at once"),
    ],
)
def test_out_of_memory_names_arm_and_batch(
    phase: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has")

    monkeypatch.setattr(
        efficiency.TimedRun, "_go_through" if phase == "log" else "score", exhausted
    )
    with pytest.raises(InputError, match=message) as error:
        metrics_of("efficiency", "logra_16_256")
    assert "arm logra_16_256" in str(error.value)
    assert "\n" not in str(error.value)


def test_other_errors_stay_what_they_are() -> None:
    with (
        pytest.raises(RuntimeError, match="multiplied"),
        memory_limits.told_when_memory_ends("a product", "none"),
    ):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_factors_that_do_not_fit_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_limits, "free_bytes", lambda device: 10_000)
    with pytest.raises(InputError, match=r"EKFAC's factors of 4 layers: out of memory"):
        metrics_of("efficiency", "ekfac")


def test_table_1_has_the_paper_beside_llama_at_paper_scale_and_beside_ours_else() -> None:
    arms = ("ekfac", "logra_1_4", "logra_16_256")
    for arm in arms:
        metrics_of("efficiency", arm)
    paper = load_paper(FOLDER)
    small = Results.load(FOLDER, "smoke", experiments=["efficiency"])
    cells = {(c.row, c.column, c.metric): c for c in table1(small).cells}
    row = "LoGra, batches of 1 and 4"
    assert cells[row, "Logging", "throughput"].published == 3430
    stored = cells[row, "Logging", "storage of 1B tokens (extrapolated)"]
    assert (stored.published, stored.published_text) == (None, "3.5 TB")
    factors = cells["EKFAC", "Logging", "storage of 1B tokens (extrapolated)"]
    assert (factors.published, factors.published_text) == (None, "89 GB")

    kept = [
        StoredRecord(item.record.model_copy(update={"case": model}), None, "")
        for item in small.stored
        for model in ("llama", "transformer")
    ]
    large = table1(Results(paper, "paper", kept, small.published, ["efficiency"]))
    cells = {(c.row, c.column, c.metric): c for c in large.cells}
    assert cells[f"Transformer: {row}", "Logging", "throughput"].published is None
    stored = cells[f"Llama-3-8B: {row}", "Logging", "storage of 1B tokens (extrapolated)"]
    assert stored.published == 3.5 * BYTES["TB"] / BYTES["GB"]
    assert cells["Llama-3-8B: EKFAC, factors", "Logging", "throughput"].published == 1740
    assert cells["Pythia-1.4B: EKFAC", "Influence", "throughput"].mean is None
    assert any(note.startswith("Llama-3-8B, logging and scoring") for note in large.notes)
