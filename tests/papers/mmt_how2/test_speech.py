"""Features of speech: their shape, their moments, and that loudness is not heard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.errors import InputError
from papers.mmt_how2.speech.speech import (
    SpeechFeatures,
    features,
    normalised,
    read_wave,
    write_wave,
)

KINDS = ["mfcc", "log_mel"]


def noise(samples: int) -> Tensor:
    """Noise that grows louder, from -1 to 1."""
    torch.manual_seed(0)
    return (torch.rand(samples) * 2 - 1) * torch.linspace(0.1, 1, samples)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_every_hop_of_forty_numbers(kind: str) -> None:
    settings = SpeechFeatures.model_validate({"kind": kind})
    found = features([noise(16_000), noise(161), noise(1)], settings)
    # The first frame is centred on the first sample.
    assert [tuple(frames.shape) for frames in found] == [(101, 40), (2, 40), (1, 40)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_number_has_mean_0_and_variance_1_over_an_utterance(kind: str) -> None:
    (frames,) = features([noise(8_000)], SpeechFeatures.model_validate({"kind": kind}))
    torch.testing.assert_close(frames.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.var(0, correction=0), torch.ones(40), atol=1e-3, rtol=0)


def test_a_constant_number_is_normalised_to_zero() -> None:
    assert torch.equal(normalised(torch.full((5, 2), 3.0)), torch.zeros(5, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gain", [0.1, 0.5])
def test_loudness_is_not_heard(kind: str, gain: float) -> None:
    settings = SpeechFeatures.model_validate({"kind": kind, "sample_rate": 8_000})
    # Silence at the start lies on the floor, which moves with the loudest place.
    wave = torch.cat([torch.zeros(2_000), noise(6_000)])
    loud, soft = features([wave, gain * wave], settings)
    torch.testing.assert_close(soft, loud, atol=2e-3, rtol=0)
    bare = settings.model_copy(update={"normalised": False})
    loud, soft = features([wave, gain * wave], bare)
    assert (loud - soft).abs().max() > 5  # dB


def test_mfcc_are_the_cosines_of_the_log_mel_energies() -> None:
    raw = [
        features([noise(4_000)], SpeechFeatures.model_validate({"kind": kind, "normalised": False}))
        for kind in KINDS
    ]
    mfcc, log_mel = raw[0][0], raw[1][0]
    # An orthonormal transform of all forty keeps lengths.
    torch.testing.assert_close(mfcc.norm(dim=1), log_mel.norm(dim=1), rtol=1e-4, atol=0)


def test_every_mel_band_hears_something() -> None:
    for rate in (8_000, 16_000):
        settings = SpeechFeatures(kind="log_mel", sample_rate=rate, normalised=False)
        (frames,) = features([noise(rate)], settings)
        assert (frames.max(0).values - frames.max() > -60).all()


def test_a_wave_comes_back_from_its_file(tmp_path: Path) -> None:
    wave = noise(4_000)
    write_wave(tmp_path / "a.wav", wave, 8_000)
    torch.testing.assert_close(read_wave(tmp_path / "a.wav", 8_000), wave, atol=1e-4, rtol=0)
    assert len(read_wave(tmp_path / "a.wav", 16_000)) == 8_000


@pytest.mark.parametrize("cut", [1, 2, 1000, 1001, 31_998, 32_000])
def test_a_wave_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.wav"
    write_wave(path, noise(16_000), 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(InputError, match=rf"^{path}: {16_000 - cut / 2:g} of 16000 samples"):
        read_wave(path, 16_000)
    path.write_bytes(whole)
    assert len(read_wave(path, 16_000)) == 16_000


def test_a_wave_without_samples_is_refused(tmp_path: Path) -> None:
    write_wave(tmp_path / "a.wav", torch.zeros(0), 16_000)
    with pytest.raises(InputError, match=r"a\.wav: 0 of 0 samples; allowed: all, from 1"):
        read_wave(tmp_path / "a.wav", 16_000)


def test_what_is_no_wave_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_wave(tmp_path / "absent.wav", 8_000)
    (tmp_path / "text.wav").write_text("not a wave")
    with pytest.raises(InputError, match=r"text.wav: no WAV file"):
        read_wave(tmp_path / "text.wav", 8_000)
    with pytest.raises(InputError, match=r"wave 2 is \(0,\)"):
        features([noise(100), torch.zeros(0)], SpeechFeatures())
