"""Synthetic speech: letters that sound alike do, and noise is as loud as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import InputError
from papers.mmt_how2.speech.speech import SpeechFeatures, features
from papers.mmt_how2.speech.synthetic_speech import (
    Speaker,
    SyntheticSpeech,
    pronounce,
    synthesise,
    synthesise_sentence,
)

CLEAN = SyntheticSpeech(noise_db=-60)
MEAN_SPEAKER = Speaker(pitch=120, tract=1, tempo=1)


def spectrum(letter: str) -> Tensor:
    """Mean log-mel energies (40,) of a letter said often, less those of the loudest band."""
    wave = synthesise_sentence(
        " ".join([letter] * 20), MEAN_SPEAKER, CLEAN, np.random.default_rng(0)
    )
    settings = SpeechFeatures(kind="log_mel", sample_rate=8_000, normalised=False)
    (frames,) = features([wave], settings)
    return frames[frames.max(1).values > frames.max() - 30].mean(0)


@pytest.mark.parametrize("pair", ["pb", "td", "kg", "mn", "ou", "iy"])
def test_letters_of_a_pair_are_nearer_to_each_other_than_to_the_rest(pair: str) -> None:
    first, second = map(spectrum, pair)
    others = [spectrum(letter) for letter in "apsmi" if letter not in pair]
    near = (first - second).norm()
    assert all(near < (first - other).norm() for other in others)


def test_letters_that_are_said_as_others() -> None:
    assert pronounce("cat") == pronounce("kat") == pronounce("qat")
    assert pronounce("box") == pronounce("boks")
    assert pronounce("can't") == pronounce("cant")
    with pytest.raises(InputError, match="character 'é' of 'café'"):
        pronounce("café")


@pytest.mark.parametrize("level", [-20.0, 0.0])
def test_noise_is_as_loud_as_it_says(level: float) -> None:
    settings = SyntheticSpeech(noise_db=level, pause_ms=200)
    wave = synthesise_sentence("a" * 40, MEAN_SPEAKER, settings, np.random.default_rng(0))
    pause = wave[:1600].square().mean()
    whole = wave.square().mean()
    # The whole is sounds and noise, the pause at the start is noise alone.
    assert float(10 * (pause / (whole - pause)).log10()) == pytest.approx(level, abs=0.6)


def test_speech_is_a_function_of_the_seed_and_no_two_sayings_are_alike() -> None:
    settings = SyntheticSpeech()
    texts = ["the pike", "the pike"]
    first, again = synthesise(texts, settings, seed=1), synthesise(texts, settings, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(first[0]) != len(first[1]) or not torch.equal(*first)
    assert max(float(wave.abs().max()) for wave in first) == pytest.approx(1)


def test_more_letters_last_longer() -> None:
    short, long = synthesise(["pike", "the pike swims"], CLEAN, seed=0)
    assert 0.2 < len(short) / 8_000 < 0.7
    assert len(long) > 2 * len(short)
