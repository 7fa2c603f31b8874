"""Audio files: what is read, what is refused, and what features do not depend on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from librosa import filters

from common.errors import InputError
from papers.cover_song.audio import device_features
from papers.cover_song.audio.device_features import device_chroma, usable_device
from papers.cover_song.audio.feature_cache import FeatureCache
from papers.cover_song.audio.features import (
    FEATURES,
    estimate_tuning,
    pitch_class_weights,
    second_spectra,
    song_chroma,
)
from papers.cover_song.audio.reading import read_recording
from papers.cover_song.similarity.chroma_set import chroma_set, unit_frames
from tests.papers.cover_song.songs import tone_song

RATE = 22_050


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Thirty seconds."""
    return tone_song(RATE, 30)


def written(path: Path, sound: np.ndarray, rate: int = RATE) -> Path:
    """A file whose name says what it is."""
    formats = {".opus": {"format": "OGG", "subtype": "OPUS"}}
    soundfile.write(path, sound, rate, **formats.get(path.suffix, {}))
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
def test_every_format_gives_the_same_chroma(tmp_path: Path, sound: np.ndarray, suffix: str) -> None:
    rate = 24_000 if suffix == "opus" else RATE
    sound = tone_song(rate, 30) if suffix == "opus" else sound
    recording = read_recording(written(tmp_path / f"a.{suffix}", sound, rate))
    found = song_chroma(recording.samples, recording.rate)[:29]
    expected = song_chroma(sound, rate)[:29]
    assert (found * expected).sum(axis=1).min() > 0.99
    assert recording.warnings == ()


def test_a_truncated_mp3_is_said_to_be_one(tmp_path: Path, sound: np.ndarray) -> None:
    path = written(tmp_path / "a.mp3", np.tile(sound, 3))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    recording = read_recording(path)
    assert 30 < recording.seconds < 60
    assert recording.warnings[0].startswith("truncated: 4")


def test_what_comes_before_a_damaged_place_is_used(tmp_path: Path, sound: np.ndarray) -> None:
    path = written(tmp_path / "a.flac", np.tile(sound, 3))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    recording = read_recording(path)
    assert 30 < recording.seconds < 60
    assert len(recording.warnings) == 1


def test_an_hour_is_read_for_three_minutes(tmp_path: Path) -> None:
    hour = np.tile(tone_song(8_000, 20), 180)
    recording = read_recording(written(tmp_path / "a.wav", hour, 8_000))
    assert recording.seconds == 180
    assert recording.warnings == ()


def test_channels_that_cancel_out_are_taken_apart(tmp_path: Path, sound: np.ndarray) -> None:
    recording = read_recording(written(tmp_path / "a.wav", np.stack([sound, -sound], axis=1)))
    np.testing.assert_allclose(np.abs(recording.samples), np.abs(sound), atol=1e-4)
    assert "cancel" in recording.warnings[0]


def test_channels_are_averaged(tmp_path: Path, sound: np.ndarray) -> None:
    recording = read_recording(written(tmp_path / "a.wav", np.stack([sound, 0 * sound], axis=1)))
    np.testing.assert_allclose(recording.samples, sound / 2, atol=1e-4)


def test_files_that_cannot_be_used_are_named_with_a_reason(
    tmp_path: Path, sound: np.ndarray
) -> None:
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "text.mp3").write_text("not audio at all " * 100)
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    written(tmp_path / "short.wav", sound[:RATE])
    written(tmp_path / "silent.wav", np.zeros(30 * RATE))
    written(tmp_path / "nan.wav", np.full(30 * RATE, np.nan))
    soundfile.write(tmp_path / "nan.wav", np.full(30 * RATE, np.nan), RATE, subtype="FLOAT")
    for name, said in (
        ("absent.wav", "no such file"),
        ("empty.mp3", "is empty"),
        ("text.mp3", "not audio"),
        ("a.m4a", r"\.m4a is not read"),
        ("short.wav", "1.0 s; allowed: from 20 s"),
        ("silent.wav", "is silent"),
        ("nan.wav", "no numbers"),
    ):
        with pytest.raises(InputError, match=f"{name}: .*{said}"):
            read_recording(tmp_path / name)


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_no_rate_matters(rate: int) -> None:
    found, expected = song_chroma(tone_song(rate, 20), rate), song_chroma(tone_song(RATE, 20), RATE)
    assert (found * expected).sum(axis=1).mean() > 0.98


@pytest.mark.parametrize("cents", [-30, 25, 45])
def test_tuning_is_found_and_taken_back(cents: int) -> None:
    off = tone_song(RATE, 20, cents)
    assert 100 * estimate_tuning(second_spectra(off, RATE)) == pytest.approx(cents, abs=3)
    expected = song_chroma(tone_song(RATE, 20), RATE)
    assert (song_chroma(off, RATE) * expected).sum(axis=1).mean() > 0.98


@pytest.mark.parametrize("feature", FEATURES)
def test_a_tone_is_its_pitch_class(feature: str) -> None:
    time = np.arange(3 * RATE) / RATE
    for pitch in (60, 69, 74):
        sound = np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * time).astype(np.float32)
        found = song_chroma(sound, RATE, feature)  # type: ignore[arg-type]
        assert found.shape == (3, 12)
        assert (found.argmax(axis=1) == pitch % 12).all()


def test_weights_are_those_of_librosa() -> None:
    expected = filters.chroma(sr=8_000, n_fft=8_000, tuning=0.13)
    np.testing.assert_allclose(pitch_class_weights(4_001, 13)[:, 20:], expected[:, 20:], atol=1e-6)


def test_silence_stays_silent() -> None:
    song = np.ones((2, 40, 12), np.float32)
    song[0, 10:20] = 0
    song[1, 10:20] = 1e-4 * np.random.default_rng(0).random((10, 12))  # noise, 80 dB below
    found = unit_frames(song)
    assert not found[:, 10:20].any()
    np.testing.assert_allclose(np.linalg.norm(found[:, :10], axis=2), 1, rtol=1e-6)
    assert not unit_frames(np.zeros((3, 12))).any()


def test_a_song_ends_where_it_sounds_last() -> None:
    raw = np.ones((3, 50, 12), np.uint8)
    raw[0, 30:] = 0
    raw[1, 10:20] = 0  # a pause
    raw[2] = 0
    assert chroma_set(raw).lengths.tolist() == [30, 50, 0]


def test_chroma_below_zero_is_refused() -> None:
    with pytest.raises(InputError, match="below zero"):
        unit_frames(np.full((4, 12), -1.0))


def test_features_are_kept_until_the_file_changes(tmp_path: Path, sound: np.ndarray) -> None:
    path = written(tmp_path / "a.wav", sound)
    cache = FeatureCache(tmp_path / "cache")
    first, second = cache.load(path), cache.load(path)
    assert (first.cached, second.cached) == (False, True)
    np.testing.assert_array_equal(first.chroma, second.chroma)
    written(path, sound[: 25 * RATE])
    third = cache.load(path)
    assert not third.cached
    assert len(third.chroma) == 25


@pytest.mark.parametrize(("rate", "seconds"), [(4_001, 12.4), (22_050, 30.0), (44_100, 20.6)])
def test_a_device_computes_what_the_processor_does(rate: int, seconds: float) -> None:
    sound = tone_song(rate, 40)[: int(seconds * rate)]
    there = torch.from_numpy(sound)
    tuning = device_features.estimate_tuning(device_features.second_spectra(there, rate))
    assert tuning == pytest.approx(estimate_tuning(second_spectra(sound, rate)), abs=1e-5)
    found = device_chroma(sound, rate, torch.device("cpu"))
    expected = song_chroma(sound, rate)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-5)
    silence = device_chroma(np.zeros(3 * rate, np.float32), rate, torch.device("cpu"))
    assert silence.shape == (3, 12)
    assert not silence.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_computes_what_the_processor_does(sound: np.ndarray) -> None:
    found = device_chroma(sound, RATE, torch.device("cuda"))
    np.testing.assert_allclose(found, song_chroma(sound, RATE), atol=1e-4)


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert usable_device("cuda") == torch.device("cuda")
    for name in ("cuda:1", "cuda:256", "cuda:-1", "meta", "abacus"):
        with pytest.raises(InputError, match=rf"device '{name}': allowed here: cpu, cuda:0 to 0"):
            usable_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r"device 'cuda': allowed here: cpu$"):
        FeatureCache(None, device="cuda")
    with pytest.raises(InputError, match=r"device 'cuda': allowed for hpcp: cpu"):
        FeatureCache(None, "hpcp", "cuda")


def test_a_cache_computes_where_it_is_told(
    tmp_path: Path, sound: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.wav", sound)
    asked = []

    def elsewhere(samples: np.ndarray, rate: int, device: torch.device) -> np.ndarray:
        asked.append((len(samples), rate, device))
        return np.eye(12, dtype=np.float32)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device_features, "device_chroma", elsewhere)
    found = FeatureCache(None, device="cuda:1").load(path).chroma
    np.testing.assert_array_equal(found, np.eye(12))
    assert asked == [(len(sound), RATE, torch.device("cuda:1"))]


def test_a_damaged_cache_is_computed_again(tmp_path: Path, sound: np.ndarray) -> None:
    path = written(tmp_path / "a.wav", sound)
    cache = FeatureCache(tmp_path / "cache")
    expected = cache.load(path)
    (kept,) = (tmp_path / "cache").iterdir()
    for damage in (b"", b"{}", kept.read_bytes()[:-5], kept.read_bytes()[:-1] + b"\x01"):
        kept.write_bytes(damage)
        found = cache.load(path)
        assert not found.cached
        np.testing.assert_array_equal(found.chroma, expected.chroma)


def test_another_feature_has_another_place(tmp_path: Path, sound: np.ndarray) -> None:
    path = written(tmp_path / "a.wav", sound)
    FeatureCache(tmp_path / "cache").load(path)
    assert not FeatureCache(tmp_path / "cache", "hpcp").load(path).cached
