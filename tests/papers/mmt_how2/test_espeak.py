"""Speech by a system program: asked once for each sentence, and missed with a clear word."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from papers.mmt_how2.speech.espeak import EspeakVoices, synthesise_by_espeak

#: Writes as many samples as its text has letters, and a line for each call.
STAND_IN = """#!{python}
import pathlib, sys, wave
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
text = sys.stdin.read()
with pathlib.Path({log!r}).open("a") as stream:
    stream.write(options["-v"] + " " + options["-s"] + " " + text + "\\n")
if text == "fail":
    sys.exit("no such voice")
with wave.open(options["-w"], "wb") as stream:
    stream.setnchannels(1)
    stream.setsampwidth(2)
    stream.setframerate(22050)
    stream.writeframes(bytes([0, 64]) * len(text) * 100)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The calls of a program that stands in for espeak-ng."""
    log, program = tmp_path / "calls", tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return log


def test_each_sentence_is_said_once_by_voices_in_turn(calls: Path, tmp_path: Path) -> None:
    settings = EspeakVoices(voices=("en+m1", "en+f1"), words_per_minute=120, sample_rate=22050)
    texts = ["the pike", "-a pipe", "chalk"]
    waves = synthesise_by_espeak(texts, settings, tmp_path / "waves")
    assert [len(wave) for wave in waves] == [800, 700, 500]
    assert torch.equal(waves[0], torch.full((800,), 0.5))
    said = ["en+m1 120 the pike", "en+f1 120 -a pipe", "en+m1 120 chalk"]
    assert calls.read_text().splitlines() == said
    again = synthesise_by_espeak(texts[:2], settings, tmp_path / "waves")
    assert torch.equal(again[1], waves[1])
    assert calls.read_text().splitlines() == said


def test_a_failure_leaves_no_file(calls: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"espeak-ng: status 1 .* \(no such voice\)"):
        synthesise_by_espeak(["fail"], EspeakVoices(), tmp_path / "waves")
    assert calls.read_text().endswith("fail\n")
    assert list((tmp_path / "waves").iterdir()) == []


def test_without_the_program_there_is_another_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"espeak-ng: not found; install .* built-in"):
        synthesise_by_espeak(["the"], EspeakVoices(), tmp_path)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs the program espeak-ng")
def test_the_real_program_speaks(tmp_path: Path) -> None:
    voices = EspeakVoices(voices=("en-us+m3", "en-us+f3"))
    texts = ["the pike swims", "the pike swims", "the pike swims in the old green pipe", "a"]
    waves = synthesise_by_espeak(texts, voices, tmp_path)
    for wave in waves:
        assert 0.02 < wave.abs().max() <= 1
    first, other_voice, longer, short = (len(wave) / voices.sample_rate for wave in waves)
    assert short < first < longer < 6
    # 160 words a minute, give or take half.
    assert 3 * 60 / 160 / 1.5 < first < 3 * 60 / 160 * 1.5
    assert not torch.equal(waves[0][:2000], waves[1][:2000])
    assert other_voice == pytest.approx(first, rel=0.3)
