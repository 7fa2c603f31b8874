"""What is timed beside ours does the same work."""

from __future__ import annotations

import librosa.sequence
import numpy as np
import pytest

from papers.cover_song.benchmarks.peers import acoss_qmax
from papers.cover_song.benchmarks.random_songs import random_pairs
from papers.cover_song.similarity import kernel
from papers.cover_song.similarity.measures import Aligner


def test_the_acoss_style_qmax_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling librosa's recursion takes half a minute.
    plain = librosa.sequence.__rqa_dp.py_func
    monkeypatch.setattr(librosa.sequence, "__rqa_dp", plain)
    songs, pairs = random_pairs(3, 40)
    ours = Aligner(songs, ["qmax"]).columns(pairs)[:, kernel.QMAX]
    assert ours.min() > 1
    np.testing.assert_allclose(acoss_qmax(songs, pairs)(), ours, atol=1e-5)
