"""The programs at their smallest size."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from common.data.hpcp import Songs
from common.errors import InputError
from common.runs.run import Run
from papers.cover_song.methods.needed_networks import WEIGHTS, keyed_network, plain_network
from papers.cover_song.methods.scores import comparable
from papers.cover_song.network.architectures import published_network
from papers.cover_song.network.scoring import load_network, save_network
from papers.cover_song.similarity.chroma_set import chroma_set
from papers.cover_song.tasks.collections import (
    TRAINING_SIZES,
    Collection,
    CollectionSettings,
    draw_layout,
    load_collection,
)
from papers.cover_song.tasks.network_songs import EpochPairs, TrainingSet
from tests.papers.cover_song.songs import random_songs
from tests.papers.runs import PaperRuns

PAPER = PaperRuns("cover_song")


def some_songs() -> Songs:
    """Works of every size that the paper's list has, and more; without music."""
    sizes = [size for size, count in TRAINING_SIZES.items() for _ in range(count + 3)]
    works = np.repeat(np.arange(len(sizes)), sizes)
    count = len(works)
    return Songs(
        np.ones((count, 180, 12), np.uint8),
        np.full(count, 180),
        np.full(count, 180.0),
        works,
        tuple(map(str, range(count))),
    )


def test_training_and_evaluation_share_no_work_and_leaks_are_not_trained_on() -> None:
    songs = some_songs()
    settings = CollectionSettings(data="shs100k", seconds=64, works=3, versions=8, singles=5)
    leaks = np.array([0, 1, 100])
    drawn = draw_layout(songs, settings, 3, leaks)
    trained, judged = (
        set(songs.set_id[each].tolist()) for each in (drawn.training, drawn.evaluation)
    )
    assert not trained & judged
    assert not trained & set(leaks.tolist())
    assert len(drawn.training) == 1_175
    _, sizes = np.unique(songs.set_id[drawn.training], return_counts=True)
    assert dict(zip(*np.unique(sizes, return_counts=True), strict=True)) == TRAINING_SIZES
    assert len(drawn.queries) == 24
    assert len(drawn.evaluation) == 29
    # Leaks concern training alone: baselines are judged on the same songs.
    again = draw_layout(songs, settings, 3)
    np.testing.assert_array_equal(again.evaluation, drawn.evaluation)
    other = draw_layout(songs, settings, 4)
    assert set(other.queries.tolist()) != set(drawn.queries.tolist())


def test_songs_that_hardly_sound_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    raw = np.ones((5, 64, 12))
    raw[1, 10:] = 0
    raw[3] = 0
    works = np.array([0, 0, 1, 1, 1])
    found = comparable(Collection(chroma_set(raw), works, np.arange(5)))
    assert found.works.tolist() == [0, 1, 1]
    assert found.queries.tolist() == [1, 2]  # the other's cover is gone
    assert "[1, 3] sound for less than 20 s" in caplog.text


def test_a_layout_that_cannot_be_filled_is_refused() -> None:
    settings = CollectionSettings(data="shs100k", seconds=64, works=99, versions=11)
    with pytest.raises(InputError, match="works 99 of 11 versions"):
        draw_layout(some_songs(), settings, 0)


def test_epochs_see_every_cover_pair_in_turn_and_other_negatives_if_asked() -> None:
    works = np.repeat(np.arange(4), 3)
    data = TrainingSet(random_songs(12, 32), works, np.arange(9), np.arange(9, 12))
    pairs = EpochPairs(data, covers=6, negatives=2, redraw=True, seed=1)
    assert len(pairs) == 18
    assert pairs.cover_count == 9
    seen: list[tuple[int, int]] = []
    negatives = []
    for epoch in range(3):
        pairs.set_epoch(epoch)
        labels = [pairs[index][1] for index in range(len(pairs))]
        assert labels == [1] * 6 + [0] * 12
        chosen = pairs._pairs
        assert (np.diff(works[chosen], axis=1)[:6] == 0).all()
        assert (np.diff(works[chosen], axis=1)[6:] != 0).all()
        assert chosen.max() < 9
        seen += map(tuple, chosen[:6].tolist())
        negatives.append(chosen[6:].tolist())
    assert sorted(map(seen.count, set(seen))) == [2] * 9  # 18 places, 9 pairs
    assert negatives[0] != negatives[1]
    pairs.set_epoch(0)
    assert pairs._pairs[6:].tolist() == negatives[0]
    fixed = EpochPairs(data, covers=6, negatives=2, redraw=False, seed=1)
    fixed.set_epoch(2)
    assert fixed._pairs[6:].tolist() == negatives[0]


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    settings = PAPER.settings("leak_check", "dtw", songs=30)
    found = PAPER.metrics("leak_check", settings, tmp_path)
    assert found["leaking_songs"] == 5  # every sixth of thirty


def test_chance_finds_what_chance_finds_and_measures_more(tmp_path: Path) -> None:
    found = {
        arm: PAPER.metrics("baselines", PAPER.settings("baselines", arm), tmp_path / arm)
        for arm in ("random", "qmax")
    }
    assert found["qmax"]["map_raw"] > found["random"]["map_raw"] + 0.2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A smoke training."""
    folder = tmp_path_factory.mktemp("trained")
    return folder / "out", PAPER.metrics("network", PAPER.settings("network", "narrow"), folder)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    trained: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PAPER.settings("network", "narrow", core={"save_every": 1})
    found = PAPER.metrics_after_a_stop("network", settings, tmp_path, monkeypatch, saves=1)
    assert found == trained[1]
    names = ("network.safetensors", "history.csv")
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (trained[0] / name).read_bytes()


def test_recordings_keep_what_was_written(tmp_path: Path) -> None:
    settings = PAPER.settings("recordings", "flac", works=1, versions=2, singles=0)
    found = PAPER.metrics("recordings", settings, tmp_path)
    assert found["frame_cosine"] > 0.85
    assert found["songs"] == 2
    with np.load(tmp_path / "out" / "features.npz") as stored:
        assert stored["chroma"].shape == (2, 32, 12)
        assert stored["works"].tolist() == [0, 0]
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["data"][0]["real"] is False


def seeded(seed: int, *folders: Path) -> Run:
    """A run of this seed that was given these folders for whatever it needs."""
    return cast(Run, SimpleNamespace(seed=seed, needed=lambda name: list(folders)))


def test_another_seed_s_network_is_refused_for_it_has_learned_what_is_judged(
    tmp_path: Path,
) -> None:
    folders = [tmp_path / "seed0", tmp_path / "seed1"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        torch.manual_seed(number)
        save_network(
            published_network(32, 4),
            folder / WEIGHTS,
            architecture="published",
            frames=32,
            filters=4,
        )
    own = plain_network(seeded(1, *folders), 32).state_dict()
    written = load_network(folders[1] / WEIGHTS)[0].state_dict()
    assert all(torch.equal(value, own[name]) for name, value in written.items())
    for load in (plain_network, keyed_network):
        with pytest.raises(InputError, match="network: seed 5; trained: seed0, seed1"):
            load(seeded(5, *folders), 32)
    with pytest.raises(InputError, match=r"collection\.seconds 64: the network takes 32"):
        plain_network(seeded(1, *folders), 64)


def test_recordings_of_another_seed_are_refused(tmp_path: Path) -> None:
    settings = CollectionSettings(data="recorded", seconds=32)
    with pytest.raises(InputError, match="recordings: seed 5; allowed: seed0"):
        load_collection(settings, seeded(5, tmp_path / "seed0"))


def test_following_epochs_is_the_same_training_and_goes_on_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"save_every": 1, "global_batch_size": 4}
    settings = PAPER.settings("along_epochs", "narrow", core=small)
    followed = PAPER.metrics("along_epochs", settings, tmp_path / "followed")
    # In the second of two epochs.
    saves = int(followed["samples"]) // 4 - 1
    stopped = PAPER.metrics_after_a_stop(
        "along_epochs", settings, tmp_path / "stopped", monkeypatch, saves
    )
    assert stopped == followed
    shared = {"songs", "filters", "covers", "epochs", "lr", "core"}
    alike = PAPER.settings("network", "narrow").model_copy(
        update={name: getattr(settings, name) for name in shared}
    )
    plain = PAPER.metrics("network", alike, tmp_path / "plain")
    assert plain.items() <= followed.items()
    for moment in ("kept", "last"):
        gain = followed[f"map_correlation_{moment}"] - followed[f"map_raw_{moment}"]
        assert followed[f"gain_correlation_{moment}"] == pytest.approx(gain)
    rows = (tmp_path / "followed/out/rankings.csv").read_text().splitlines()
    assert len(rows) == 1 + settings.epochs
