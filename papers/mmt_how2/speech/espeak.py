"""Speech by espeak-ng, a system program that need not be there."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor

from common.errors import InputError
from common.experiments.settings import Settings
from papers.mmt_how2.speech.speech import read_wave

ESPEAK = "espeak-ng"


class EspeakVoices(Settings):
    """Voices that take turns, and how fast they speak."""

    voices: tuple[str, ...] = Field(("en-us+m3", "en-us+f3", "en-gb+m7"), min_length=1)
    words_per_minute: int = Field(160, ge=80, le=450)
    sample_rate: int = Field(16_000, gt=0, description="Hz, of the waves given back")


def synthesise_by_espeak(
    sentences: Sequence[str], settings: EspeakVoices, folder: Path
) -> list[Tensor]:
    """Waves (samples,) of the sentences; files in ``folder`` are made once and read from then on.

    Raises:
        InputError: espeak-ng is not installed, or fails.
    """
    program = shutil.which(ESPEAK)
    if program is None:
        raise InputError(
            f"{ESPEAK}: not found; install the system package of this name, or choose the "
            "built-in synthetic speech"
        )
    folder.mkdir(parents=True, exist_ok=True)
    voices = settings.voices
    paths = [
        record_sentence(
            program, text, voices[place % len(voices)], settings.words_per_minute, folder
        )
        for place, text in enumerate(sentences)
    ]
    return [read_wave(path, settings.sample_rate) for path in paths]


def record_sentence(
    program: str, text: str, voice: str, words_per_minute: int, folder: Path
) -> Path:
    """The WAV file of a sentence, made if it is absent."""
    name = hashlib.sha256(json.dumps([text, voice, words_per_minute]).encode()).hexdigest()[:24]
    path = folder / f"{name}.wav"
    if path.exists():
        return path
    partial = path.with_suffix(".partial")
    command = [program, "-v", voice, "-s", str(words_per_minute), "-w", str(partial), "--stdin"]
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode or not partial.is_file():
        reason = " ".join(done.stderr.split())[:200]
        raise InputError(f"{ESPEAK}: status {done.returncode} for voice {voice} ({reason})")
    partial.replace(path)
    return path
