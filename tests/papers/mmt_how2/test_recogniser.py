"""The recogniser: no utterance hears its batch, and it learns what is said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.errors import InputError
from papers.mmt_how2.correction.minibatch_training import Minibatches
from papers.mmt_how2.correction.recogniser import (
    CTC_BLANK,
    Recogniser,
    RecogniserSettings,
    train_recogniser,
    turned,
)
from papers.mmt_how2.speech.speech import SpeechFeatures, features
from papers.mmt_how2.speech.synthetic_speech import SyntheticSpeech, synthesise

SMALL = RecogniserSettings(width=32, hidden=32)
TEXTS = ["the pike", "a chalk in", "bedding to"]


@pytest.fixture(scope="module")
def heard() -> list[Tensor]:
    speech = synthesise(TEXTS, SyntheticSpeech(noise_db=-20), seed=0)
    return features(speech, SpeechFeatures(sample_rate=8_000))


@pytest.fixture(scope="module")
def trained(heard: list[Tensor]) -> Recogniser:
    schedule = Minibatches(epochs=250, batch_size=3, learning_rate=0.01)
    return train_recogniser(heard, TEXTS, SMALL, schedule, seed=1)


def test_three_utterances_are_learnt_by_heart(trained: Recogniser, heard: list[Tensor]) -> None:
    assert trained.transcribed(heard) == TEXTS
    assert trained.transcribed(heard, beam=4) == TEXTS
    assert trained.alphabet.tokens[0] == CTC_BLANK


def test_frames_are_halved_and_chances_sum_to_one(trained: Recogniser, heard: list[Tensor]) -> None:
    for frames, chances in zip(heard, trained.log_chances(heard), strict=True):
        assert chances.shape == ((len(frames) + 1) // 2, len(trained.alphabet))
        torch.testing.assert_close(chances.exp().sum(1), torch.ones(len(chances)))


@pytest.mark.parametrize("layers", [1, 2])
def test_an_utterance_is_heard_alike_in_every_batch(layers: int, heard: list[Tensor]) -> None:
    settings = SMALL.model_copy(update={"layers": layers, "convolutions": 3})
    schedule = Minibatches(epochs=1)
    model = train_recogniser(heard, TEXTS, settings, schedule, seed=1)
    cut = [frames[: 30 + 7 * place] for place, frames in enumerate(heard)]
    together = model.log_chances(cut)
    for place, frames in enumerate(cut):
        (alone,) = model.log_chances([frames])
        torch.testing.assert_close(together[place], alone, atol=1e-5, rtol=1e-5)


def test_the_last_frame_is_heard_at_the_first_and_the_first_at_the_last(
    heard: list[Tensor],
) -> None:
    model = train_recogniser(heard, TEXTS, SMALL, Minibatches(epochs=1), seed=1).double()
    frames = heard[0][:30].double()
    (before,) = model.log_chances([frames])
    for place in (0, -1):
        changed = frames.clone()
        changed[place] += 3
        (after,) = model.log_chances([changed])
        assert not torch.equal(after[0], before[0])
        assert not torch.equal(after[-1], before[-1])


def test_turning_twice_changes_nothing_and_leaves_padding_alone() -> None:
    rows = torch.arange(10.0).reshape(2, 5, 1)
    lengths = torch.tensor([3, 5])
    once = turned(rows, lengths)
    assert once.squeeze(-1).tolist() == [[2, 1, 0, 3, 4], [9, 8, 7, 6, 5]]
    assert torch.equal(turned(once, lengths), rows)


def test_texts_that_are_too_long_for_their_frames_are_refused(heard: list[Tensor]) -> None:
    schedule = Minibatches(epochs=1)
    with pytest.raises(InputError, match="utterance 1: 7 frames for 'aabb'; allowed: from 11"):
        train_recogniser([heard[0][:7]], ["aabb"], SMALL, schedule, seed=1)
    # Four letters and two blanks between equal ones need six frames, of eleven that are halved.
    train_recogniser([heard[0][:11]], ["aabb"], SMALL, schedule, seed=1)
    with pytest.raises(InputError, match="3 utterances for 2 transcripts"):
        train_recogniser(heard, TEXTS[:2], SMALL, schedule, seed=1)
