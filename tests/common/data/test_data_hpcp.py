"""Pitch class profiles of cover songs: works stay whole; what is malformed is refused by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.hpcp import (
    FRAME_S,
    KEPT_S,
    Songs,
    covers80_hpcp,
    covers80_hpcp_frames,
    shs100k_hpcp,
)
from common.errors import InputError
from tests.common.data.real_data import skip_without

Arrays = dict[str, Any]


def profiles(seconds: list[int]) -> np.ndarray:
    rows = np.zeros((len(seconds), KEPT_S, 12), np.uint8)
    for song, end in enumerate(seconds):
        rows[song, :end] = 10 + song
    return rows


def of_shs100k() -> Arrays:
    """Four songs of two works."""
    seconds = [180, 40, 180, 61]
    return {
        "X": profiles(seconds),
        "set_id": np.array([7, 9, 7, 9], np.int32),
        "ver_id": np.array([0, 0, 3, 1], np.int32),
        "seconds": np.array(seconds, np.int16),
        "duration_s": np.array([200, 39.5, 180, 60.25], np.float32),
    }


def of_covers80() -> Arrays:
    """Three tracks of two works; a frame lasts 0.46 s."""
    return {
        "X1hz": profiles([2, 1, 180]),
        "names": np.array(["B/b one", "A/a one", "B/b two"]),
        "lengths": np.array([4, 1, 400]),
        "frames": np.repeat(np.arange(3, dtype=np.uint8), (4, 1, 400))[:, None].repeat(12, 1),
    }


def write(root: Path, name: str, arrays: Arrays) -> Path:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)
    return path


SHS100K, COVERS80 = "shs100k_hpcp/shs100k_hpcp_1hz.npz", "covers80/covers80_hpcp.npz"


def test_songs_of_shs100k(tmp_path: Path) -> None:
    write(tmp_path, SHS100K, of_shs100k())
    songs = shs100k_hpcp(tmp_path)
    assert songs.names == ("7_0", "9_0", "7_3", "9_1")
    assert songs.set_id.tolist() == [7, 9, 7, 9]
    assert songs.seconds.tolist() == [180, 40, 180, 61]
    assert songs.duration_s.tolist() == [200, 39.5, 180, 60.25]
    np.testing.assert_array_equal(songs.profiles, of_shs100k()["X"])


def test_tracks_of_covers80(tmp_path: Path) -> None:
    write(tmp_path, COVERS80, of_covers80())
    songs = covers80_hpcp(tmp_path)
    assert songs.names == ("B/b one", "A/a one", "B/b two")
    assert songs.set_id.tolist() == [1, 0, 1]
    assert songs.seconds.tolist() == [2, 1, 180]
    assert songs.duration_s == pytest.approx([4 * FRAME_S, FRAME_S, 400 * FRAME_S])
    frames = covers80_hpcp_frames(tmp_path)
    assert [(len(track), set(track.flat)) for track in frames] == [(4, {0}), (1, {1}), (400, {2})]


def arrays_of(songs: Songs) -> list[np.ndarray]:
    return [songs.profiles, songs.seconds, songs.duration_s, songs.set_id]


def test_parts_of_other_works_share_no_song_and_nobody_can_change_them(tmp_path: Path) -> None:
    write(tmp_path, SHS100K, of_shs100k())
    songs = shs100k_hpcp(tmp_path)
    parts = [songs.of_works([7]), songs.of_works(np.array([9]))]
    assert [part.names for part in parts] == [("7_0", "7_3"), ("9_0", "9_1")]
    for part, rows in zip(parts, ([0, 2], [1, 3]), strict=True):
        for whole, some in zip(arrays_of(songs), arrays_of(part), strict=True):
            np.testing.assert_array_equal(whole[rows], some)
    assert len(songs.of_works([8])) == 0
    for array in (*arrays_of(songs), *arrays_of(parts[0])):
        with pytest.raises(ValueError, match="read-only"):
            array[:1] = 0


def first_of(array: np.ndarray, value: Any) -> np.ndarray:
    changed = array.copy()
    changed.flat[0] = value
    return changed


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("X", lambda x: x.astype(float), "X is (4, 180, 12) float64; expected (4, 180, 12) uint8"),
        ("X", lambda x: x[:, :179], "X is (4, 179, 12) uint8"),
        ("X", lambda x: x[:3], "X is (3, 180, 12) uint8; expected (4, 180, 12) uint8"),
        ("set_id", lambda x: x[:, None], "set_id is (4, 1) int32; expected (4,) int32"),
        ("ver_id", lambda x: x[:3], "ver_id is (3,) int32; expected (4,) int32"),
        ("ver_id", lambda x: 0 * x, "song 7_0 (set_id, ver_id) is there twice"),
        ("seconds", lambda x: first_of(x, 179), "song 0 is not zero after its 179 seconds"),
        ("seconds", lambda x: first_of(x, 181), "song 0 has 181 seconds; allowed: 1 to 180"),
        ("seconds", lambda x: first_of(x, 0), "song 0 has 0 seconds; allowed: 1 to 180"),
        ("duration_s", lambda x: first_of(x, np.nan), "song 0 lasts nan s; allowed: above 0"),
        ("duration_s", lambda x: first_of(x, -1), "song 0 lasts -1.0 s; allowed: above 0"),
        ("duration_s", lambda x: x.astype(float), "duration_s is (4,) float64"),
        ("X", lambda x: np.array([{}]), "cannot be read"),
    ],
)
def test_a_malformed_file_of_shs100k(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], says: str
) -> None:
    arrays = of_shs100k()
    path = write(tmp_path, SHS100K, arrays | {name: change(arrays[name])})
    with pytest.raises(InputError, match=f"{path}: {re.escape(says)}"):
        shs100k_hpcp(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("X1hz", lambda x: x[:, :, :11], "X1hz is (3, 180, 11) uint8; expected (3, 180, 12) uint8"),
        ("X1hz", lambda x: x[[2, 1, 0]], "song 0 is not zero after its 2 seconds"),
        ("lengths", lambda x: x[:2], "lengths is (2,) int64; expected (3,) int64"),
        ("lengths", lambda x: first_of(x, 0), "lengths holds 0; allowed: at least 1"),
        ("frames", lambda x: x[:-1], "frames is (404, 12) uint8; expected (405, 12) uint8"),
        ("names", lambda x: np.arange(3), "names is (3,) int64; expected (3,) text"),
        ("names", lambda x: first_of(x, "B one"), "name 'B one'; allowed: '<work>/<track>'"),
    ],
)
def test_a_malformed_file_of_covers80(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], says: str
) -> None:
    arrays = of_covers80()
    path = write(tmp_path, COVERS80, arrays | {name: change(arrays[name])})
    for load in (covers80_hpcp, covers80_hpcp_frames):
        if load is covers80_hpcp or "not zero" not in says:
            with pytest.raises(InputError, match=f"{path}: {re.escape(says)}"):
                load(tmp_path)


@pytest.mark.parametrize(("load", "name"), [(shs100k_hpcp, SHS100K), (covers80_hpcp, COVERS80)])
def test_a_file_that_is_absent_or_lacks_an_array(
    tmp_path: Path, load: Callable[[Path], Songs], name: str
) -> None:
    (tmp_path / name).parent.mkdir()
    with pytest.raises(InputError, match=r"\.npz: no such file"):
        load(tmp_path)
    write(tmp_path, name, {"other": np.zeros(1)})
    with pytest.raises(InputError, match=r"\.npz: has no entry .*X"):
        load(tmp_path)


def test_shs100k_as_it_is(data_root: Path) -> None:
    skip_without("shs100k_hpcp", data_root)
    songs = shs100k_hpcp(data_root)
    versions = Counter(songs.set_id.tolist())
    assert (len(songs), len(versions)) == (9385, 1512)
    assert (min(versions.values()), max(versions.values())) == (2, 162)
    # The ranking of the paper on 30 works of 11 versions: there are enough of them.
    assert sum(count >= 11 for count in versions.values()) >= 30
    expected = np.minimum(np.ceil(songs.duration_s), KEPT_S)
    np.testing.assert_array_equal(songs.seconds, expected)


def test_covers80_as_it_is(data_root: Path) -> None:
    skip_without("covers80", data_root)
    songs = covers80_hpcp(data_root)
    assert Counter(Counter(songs.set_id.tolist()).values()) == {2: 77, 3: 2, 4: 1}
    assert songs.names[0].startswith("A_Whiter_Shade_Of_Pale/annie_lennox")


def test_a_row_of_covers80_is_the_mean_of_its_frames_over_a_second(data_root: Path) -> None:
    skip_without("covers80", data_root)
    songs = covers80_hpcp(data_root)
    for rows, frames in zip(songs.profiles, covers80_hpcp_frames(data_root), strict=True):
        edges = FRAME_S * np.arange(len(frames) + 1)
        held = np.vstack([np.zeros(12), FRAME_S * np.cumsum(frames, axis=0, dtype=np.float64)])
        at = [np.interp(np.arange(KEPT_S + 1), edges, column) for column in held.T]
        assert np.abs(np.diff(at).T - rows).max() < 1.01  # rows are rounded down
