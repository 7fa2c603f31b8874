"""Input that cannot be used is one line that names setting, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.runs.cli import paper_main
from papers.okgan import EncodedKernelDiscriminator, Gaussian, MixedGaussian
from papers.okgan.schedules import exponential
from tests.papers.okgan.test_experiments import RUNS

RING = ("plane", "--case", "ring", "--arm", "okgan")
DIGITS = ("images", "--case", "digits_codes", "--arm", "okgan")


@pytest.mark.parametrize(
    ("command", "change", "said"),
    [
        (RING, "kernel.bandwidth.start=0", "kernel.bandwidth.start"),
        (RING, "kernel.bandwidth.end=-1", "kernel.bandwidth.end"),
        (RING, "kernel.budget=0", "kernel.budget"),
        (RING, "kernel.budget=32", "budget=32; allowed: at least a mini-batch, 64"),
        (RING, "kernel.lr=20", "lr * penalty below 1"),
        (RING, "kernel.loss=square", "'logistic' or 'hinge'"),
        (RING, "generator.held=1", "generator.held"),
        (RING, "data=blob", "'ring'"),
        (RING, "kernel.width=3", "kernel.width"),
        (DIGITS, "size=10", "images of side 10: allowed: 4 times a power of two"),
        (DIGITS, "kernel.kind=cubic", "'polynomial'"),
        (DIGITS, "kernel.sigmas=[]", "sigmas"),
    ],
)
def test_the_command_line_says_what_is_allowed(
    command: tuple[str, ...],
    change: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for needed in ("load_reader", "image_judge"):
        monkeypatch.setattr(f"papers.okgan.experiments.images.{needed}", lambda *_: None)
    out = ("--scale", "smoke", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"))
    with pytest.raises(InputError) as error:
        paper_main(RUNS.folder, [*command, *out, "--set", change])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "record.json").exists()


def test_libraries_refuse_by_themselves() -> None:
    with pytest.raises(InputError, match=r"gamma=0\.0; allowed: finite, above 0"):
        Gaussian(0.0)
    with pytest.raises(InputError, match=r"sigma=-2\.0; allowed: finite, above 0"):
        MixedGaussian.of_widths([1.0, -2.0])
    with pytest.raises(InputError, match="end=0; allowed: above 0"):
        exponential(1.0, 0, 10)
    with pytest.raises(InputError, match="encoder_steps=0"):
        EncodedKernelDiscriminator(
            (1, 2, 2),
            Gaussian(1.0),
            nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
            torch.optim.SGD,
            encoder_steps=0,
        )
