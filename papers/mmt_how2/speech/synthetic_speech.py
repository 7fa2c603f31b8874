"""Letters as sounds: speech of a kind, for a recogniser whose errors are acoustic.

This is no speech synthesis. Each letter is one or two sounds, a sound is a few sinusoids at the
formants of that vowel or consonant (values of American English, rounded), beaten at the speaker's
pitch if it is voiced and smeared to a noise if it is not; there are no transitions between sounds
and no prosody. What it shares with speech is what correction needs: speakers differ in pitch, tract
and tempo, and letters that sound alike (p and b, m and n, o and u, c and k) share formants, so that
noise makes a recogniser confuse these first. The level of the noise sets the error rate.

Formants of vowels: Peterson and Barney 1952, averages of men.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from common.data.synthetic import Seed
from common.errors import InputError
from common.experiments.settings import Settings

Samples = npt.NDArray[np.float64]


class Sound(NamedTuple):
    """Formants in Hz, the share of a letter's time, and where energy is.

    Attributes:
        breath: 0 is all voice, 1 is all noise.
        closed: share of its time at the start that is silent, as the closure of a stop.
    """

    formants: tuple[float, ...]
    time: float = 1.0
    breath: float = 0.0
    closed: float = 0.0


class Speaker(NamedTuple):
    """Pitch in Hz, and factors on formants and on durations."""

    pitch: float
    tract: float
    tempo: float


class SyntheticSpeech(Settings):
    """How letters sound."""

    sample_rate: int = Field(8_000, ge=8_000, description="Hz")
    letter_ms: float = Field(70.0, gt=0)
    pause_ms: float = Field(60.0, gt=0, description="between words, and around a sentence")
    noise_db: float = Field(2.0, description="white noise against the sounds; more is harder")
    speakers: int = Field(8, gt=0, description="drawn once, the same for all sets of sentences")


LABIAL, ALVEOLAR, VELAR = (400.0, 1100.0, 2150.0), (400.0, 1750.0, 2700.0), (300.0, 1900.0, 2350.0)
HISS, DENTAL = (2500.0, 3100.0, 3700.0), (1200.0, 2200.0, 3400.0)

SOUNDS = {
    "a": Sound((730, 1090, 2440), 1.2),
    "e": Sound((530, 1840, 2480), 1.2),
    "i": Sound((270, 2290, 3010), 1.1),
    "o": Sound((570, 840, 2410), 1.2),
    "u": Sound((440, 940, 2240), 1.2),
    "p": Sound(LABIAL, 1.0, breath=0.9, closed=0.4),
    "b": Sound(LABIAL, 0.9, breath=0.4, closed=0.3),
    "t": Sound(ALVEOLAR, 1.0, breath=0.9, closed=0.4),
    "d": Sound(ALVEOLAR, 0.9, breath=0.4, closed=0.3),
    "k": Sound(VELAR, 1.0, breath=0.9, closed=0.4),
    "g": Sound(VELAR, 0.9, breath=0.4, closed=0.3),
    "f": Sound(DENTAL, 1.1, breath=1.0),
    "v": Sound(DENTAL, 0.9, breath=0.5),
    "s": Sound(HISS, 1.1, breath=1.0),
    "z": Sound(HISS, 0.9, breath=0.5),
    "h": Sound((800, 1400, 2400), 0.8, breath=1.0),
    "m": Sound((250, 1000, 2200)),
    "n": Sound((250, 1150, 2200)),
    "l": Sound((360, 1300, 2700)),
    "r": Sound((310, 1060, 1380)),
    "w": Sound((300, 610, 2200)),
    "y": Sound((270, 2290, 3010), 0.8),
}
#: Letters that are said as other sounds; the rest are their own.
SAID_AS = {"c": "k", "q": "k", "j": "dz", "x": "ks", "'": ""}


def draw_speakers(count: int) -> list[Speaker]:
    """Always the same speakers, low and high voices."""
    rng = np.random.default_rng(0)
    return [
        Speaker(rng.uniform(90, 220), rng.uniform(0.92, 1.08), rng.uniform(0.85, 1.15))
        for _ in range(count)
    ]


def synthesise(sentences: Sequence[str], settings: SyntheticSpeech, seed: Seed) -> list[Tensor]:
    """Waves (samples,) from -1 to 1 of the sentences, each by a speaker drawn for it.

    Raises:
        InputError: a sentence has other characters than letters a to z, apostrophes and blanks.
    """
    rng = np.random.default_rng(seed)
    speakers = draw_speakers(settings.speakers)
    return [
        synthesise_sentence(text, speakers[rng.integers(len(speakers))], settings, rng)
        for text in sentences
    ]


def synthesise_sentence(
    text: str, speaker: Speaker, settings: SyntheticSpeech, rng: np.random.Generator
) -> Tensor:
    """The wave (samples,) of one sentence, noise included."""
    pause = round(settings.pause_ms * speaker.tempo * settings.sample_rate / 1000)
    parts = [np.zeros(pause)]
    for word in text.split():
        parts += [synthesise_sound(sound, speaker, settings, rng) for sound in pronounce(word)]
        parts.append(np.zeros(pause))
    clean = np.concatenate(parts)
    loudness = math.sqrt(np.square(clean).mean()) or 1.0
    noise = loudness * 10 ** (settings.noise_db / 20) * rng.standard_normal(len(clean))
    heard = clean + noise
    return torch.from_numpy((heard / max(np.abs(heard).max(), 1e-9)).astype(np.float32))


def pronounce(word: str) -> list[Sound]:
    """Sounds of a word's letters, one after another; a doubled letter is said twice.

    Raises:
        InputError: a character is no letter a to z and no apostrophe.
    """
    said_as = "".join(SAID_AS.get(letter, letter) for letter in word)
    unknown = sorted(set(said_as) - set(SOUNDS))
    if unknown:
        raise InputError(f"character {unknown[0]!r} of {word!r}; allowed: a to z and apostrophes")
    return [SOUNDS[letter] for letter in said_as]


def synthesise_sound(
    sound: Sound, speaker: Speaker, settings: SyntheticSpeech, rng: np.random.Generator
) -> Samples:
    """A sound (samples,), its formants and time a little different each time it is said."""
    rate = settings.sample_rate
    time = settings.letter_ms * sound.time * speaker.tempo * rng.uniform(0.85, 1.15)
    seconds = np.arange(round(time * rate / 1000)) / rate
    formants = np.array(sound.formants) * speaker.tract * rng.uniform(0.97, 1.03, 3)
    strengths = np.array([1.0, 0.6, 0.35]) if sound.breath < 1 else np.array([0.5, 0.7, 0.7])
    mixed = np.zeros(len(seconds))
    if sound.breath < 1:
        voice = np.sin(2 * np.pi * np.outer(formants, seconds) + rng.uniform(0, 2 * np.pi, (3, 1)))
        beats = 1 + np.cos(2 * np.pi * speaker.pitch * seconds)
        mixed += (1 - sound.breath) * beats * (strengths @ voice)
    if sound.breath > 0:
        # Five sinusoids within 15 % of a formant, at random phases, are a narrow band of noise.
        near = np.outer(formants, rng.uniform(0.85, 1.15, 5))
        phases = near[..., None] * seconds + rng.uniform(0, 1, (3, 5, 1))
        mixed += sound.breath * (strengths @ np.sin(2 * np.pi * phases).mean(1)) * 2
    edge = np.minimum(seconds, seconds[::-1]) / 0.008  # It fades in and out over 8 ms.
    mixed *= np.minimum(edge, 1) * (seconds >= sound.closed * seconds[-1])
    return np.asarray(mixed, dtype=np.float64)
