"""Both command lines, on files that are written for them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.errors import InputError
from papers.cover_song import identify, rank
from papers.cover_song.experiments.try_tool import BROKEN, COPY, judged
from papers.cover_song.identification.matching import Matcher, Measure, Standard
from papers.cover_song.network.architectures import published_network
from papers.cover_song.network.scoring import save_network
from papers.cover_song.ranking.metrics import retrieval
from papers.cover_song.ranking.rankings import RANKINGS
from papers.cover_song.scoring import collection_scores
from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set, padded
from papers.cover_song.similarity.measures import Alignment
from papers.cover_song.similarity.path import best_match
from papers.cover_song.tasks.collections import CollectionSettings, synthetic_collection
from papers.cover_song.tasks.synthetic.performances import perform
from papers.cover_song.tasks.synthetic.sound import RATE, render
from papers.cover_song.tasks.synthetic.works import compose
from tests.papers.cover_song.songs import random_songs, tone_song
from tests.papers.runs import PaperRuns


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two works, each once as written and once in another key; a copy; files that are no songs."""
    folder = tmp_path_factory.mktemp("music")
    for number in range(2):
        rng = np.random.default_rng(number)
        work = compose(rng, 0.5)
        plain = render(perform(work, rng, 0), 40, rng)
        soundfile.write(folder / f"work{number}.flac", plain, RATE)
        cover = render(perform(work, np.random.default_rng(number + 10), 0.4), 40, rng)
        soundfile.write(folder / f"cover{number}.ogg", cover, RATE)
        if number == 0:
            soundfile.write(folder / "copy0.mp3", plain, RATE)
    (folder / "broken.mp3").write_text("no music " * 50)
    (folder / "other.m4a").write_bytes(b"ftyp")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def answered(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """What ``identify`` prints as JSON."""
    identify.main([*map(str, arguments), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_covers_come_first_and_copies_are_called_so(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = music / "work0.flac"
    found = answered(capsys, query, "--collection", music, "--cache", tmp_path)
    rows = found["results"]
    assert [Path(row["path"]).name for row in rows[:2]] == ["copy0.mp3", "cover0.ogg"]
    assert [row["same_recording"] for row in rows] == [True, False, False, False]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["shift_semitones"] == 0
    (start, end), (other_start, other_end) = rows[0]["passage_s"].values()
    assert (start, end) == (other_start, other_end)
    assert end - start > 30
    # Few songs: no threshold, and it is said.
    assert found["threshold"] is None
    assert {row["z"] for row in rows} == {None}
    assert "fewer than 30" in found["note"]
    reasons = {Path(each["path"]).name: each["reason"] for each in found["skipped"]}
    assert set(reasons) == {"broken.mp3", "other.m4a", "notes.txt"}
    assert ".m4a is not read" in reasons["other.m4a"]
    assert ".txt is not read; allowed: .aif" in reasons["notes.txt"]
    assert [each["looked_at"] for each in found["skipped"]] == [True, True, False]


@pytest.mark.parametrize("measure", ["dtw", "simple", "dmax"])
def test_other_measures_find_the_cover_too(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], measure: str
) -> None:
    found = answered(
        capsys, music / "work1.flac", "--measure", measure, "--cache", tmp_path, "--top", 1
    )
    assert [Path(row["path"]).name for row in found["results"]] == ["cover1.ogg"]


def test_a_folder_asks_for_each_of_its_songs(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identify.main([str(music), "--cache", str(tmp_path)])
    printed = capsys.readouterr()
    assert printed.out.count(" semitones") == 5 * 4
    assert f"skipped {music / 'broken.mp3'}: not audio" in printed.err
    assert "skipped by suffix: 1 .txt; --json names each" in printed.err
    assert "notes.txt" not in printed.err


@pytest.fixture(scope="module")
def odd(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two songs beside what looks like songs."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("work0.flac", "cover0.ogg"):
        shutil.copy(music / name, folder / name)
    sound = tone_song(8_000, 25)
    sound[6 * 8_000 :] = 0
    soundfile.write(folder / "breaks_off.wav", sound, 8_000)
    soundfile.write(folder / "low.wav", tone_song(8_000, 25), 8_000)
    soundfile.write(folder / "other.au", sound, 8_000)
    (folder / "nothing.mp3").symlink_to(folder / "absent.mp3")
    (folder / "album").symlink_to(music)
    (folder / "list").touch()
    (folder / ".hidden.mp3").touch()
    return folder


def test_nothing_that_is_to_be_seen_is_left_out_without_a_reason(
    odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answered(capsys, odd / "work0.flac", "--cache", tmp_path)
    assert {Path(row["path"]).name for row in found["results"]} == {"cover0.ogg", "low.wav"}
    reasons = {Path(each["path"]): each["reason"] for each in found["skipped"]}
    said = {
        "album": "a link to a folder",
        "breaks_off.wav": "is silent from second 6 on; allowed: sound up to second 13",
        "list": "a name without suffix is not read",
        "nothing.mp3": "cannot be read",
        "other.au": ".au is not read",
    }
    assert reasons.keys() == {odd / name for name in said}
    for name, reason in said.items():
        assert reasons[odd / name].startswith(reason)
    with pytest.raises(InputError, match=r"breaks_off\.wav: is silent from second 6 on"):
        identify.main([str(odd / "breaks_off.wav"), "--cache", str(tmp_path)])


def test_a_query_may_have_another_suffix(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = odd / "again.caf"
    shutil.copy(odd / "low.wav", sound)
    found = answered(capsys, sound, "--no-cache")
    sound.unlink()
    assert found["results"][0]["same_recording"]
    assert str(sound) not in {each["path"] for each in found["skipped"]}


def test_a_rate_that_cens_does_not_reach_is_a_reason(
    odd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answered(capsys, odd / "work0.flac", "--feature", "cens", "--no-cache")
    assert [Path(row["path"]).name for row in found["results"]] == ["cover0.ogg"]
    reasons = {Path(each["path"]).name: each["reason"] for each in found["skipped"]}
    assert reasons["low.wav"] == "8000 Hz; allowed with --feature cens: from 8500 Hz on"


def test_the_network_may_be_ones_own(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "own.safetensors"
    save_network(published_network(32, 4), weights, architecture="published", frames=32, filters=4)
    found = answered(
        capsys, music / "work0.flac", "--measure", "cnn", "--weights", weights, "--no-cache"
    )
    assert len(found["results"]) == 4


@pytest.mark.parametrize("measure", ["qmax", "cnn"])
def test_figures_show_where_each_candidate_matches(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], measure: str
) -> None:
    folder = tmp_path / "new" / "figures"
    options = ["--measure", measure, "--top", 2, "--figures", folder, "--no-cache"]
    rows = answered(capsys, music / "work0.flac", *options)["results"]
    files = [Path(row["figure"]) for row in rows]
    own = folder / "work0.flac"
    assert files == [own / "001-copy0.mp3.png", own / "002-cover0.ogg.png"]
    widths = [Image.open(file).size[0] for file in files]
    # A network's evidence stands beside the matrix.
    assert all((width > 800) == (measure == "cnn") for width in widths)


def test_figures_of_queries_of_one_name_are_kept_apart(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("first", "second"):
        (tmp_path / "music" / place).mkdir(parents=True)
    for place, name in (("first", "work0.flac"), ("second", "work1.flac")):
        shutil.copy(music / name, tmp_path / "music" / place / "song.flac")
    found = answered(
        capsys, tmp_path / "music", "--figures", tmp_path / "figures", "--top", 1, "--no-cache"
    )
    drawn = {row["figure"] for query in found["queries"] for row in query["results"]}
    assert drawn == {str(file) for file in (tmp_path / "figures").rglob("*.png")}
    assert len(drawn) == 2


def test_a_view_is_the_query_s_time_by_the_candidate_s() -> None:
    rng = np.random.default_rng(0)
    tune = rng.random((60, 12)) ** 3
    first, second = tune[10:50], np.roll(tune[:45], 5, axis=1)
    matcher = Matcher(padded([first, second], 60), "qmax")
    view = matcher.view(0, 1)
    assert view.likeness.shape == (40, 45)
    assert (view.path[:, 1] - view.path[:, 0] == 10).all()
    along = view.likeness[view.path[:, 0], view.path[:, 1]]
    np.testing.assert_allclose(along, 0, atol=2e-3)
    other = matcher.view(1, 0)
    np.testing.assert_allclose(other.likeness, view.likeness.T, atol=1e-5)
    assert view.evidence is None


@pytest.mark.parametrize("measure", ["dtw", "dmax"])
def test_the_passage_is_in_the_key_that_is_told(measure: Measure) -> None:
    songs = random_songs(3, 40)
    up, passage = Matcher(songs, measure).match(0, 2)
    assert up != Matcher(songs, "qmax").match(0, 2)[0]
    frames = songs.frames.copy()
    frames[2] = np.roll(frames[2], up, axis=1)
    path = best_match(ChromaSet(frames, songs.lengths), 0, 2, Alignment(shifts=0)).path
    assert passage is not None
    assert passage.query == (path[0, 0], path[-1, 0] + 1)
    assert passage.candidate == (path[0, 1], path[-1, 1] + 1)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty songs of 20 s without anything in common, and a cover of one, three semitones up."""
    folder, rate = tmp_path_factory.mktemp("many"), 4_000
    for seed in range(30):
        soundfile.write(folder / f"{seed:02d}.wav", tone_song(rate, 20, seed=seed), rate)
    cover = tone_song(rate, 20, 300, seed=7) + 0.5 * tone_song(rate, 20, seed=99)
    soundfile.write(folder / "cover.wav", cover, rate)
    return folder


def test_among_thirty_songs_a_cover_alone_is_called_one(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (many / "07.wav", "--cache", tmp_path, "--top", 40)
    found = answered(capsys, *given)
    rows = found["results"]
    assert (found["songs"], len(rows), found["note"]) == (31, 30, "")
    assert found["expected_false_alarms"] == pytest.approx(0.1)
    assert Path(rows[0]["path"]).name == "cover.wav"
    assert (rows[0]["shift_semitones"], rows[0]["same_recording"]) == (-3, False)
    assert [row["cover"] for row in rows] == [True] + 29 * [False]
    z = [row["z"] for row in rows]
    assert z == sorted(z, reverse=True)
    assert z[0] > found["threshold"] > z[1]
    # More false alarms lower the threshold, and a threshold of one's own has its own alarms.
    more = answered(capsys, *given, "--false-alarms", 1)
    assert more["expected_false_alarms"] == pytest.approx(1)
    assert more["threshold"] < found["threshold"]
    own = answered(capsys, *given, "--threshold", more["threshold"])
    assert own["expected_false_alarms"] == pytest.approx(1)
    assert own["results"] == more["results"]
    identify.main([*map(str, given)])
    printed = capsys.readouterr().out
    assert printed.count("cover\n") == 1
    assert f"cover: z above {found['threshold']:.2f}; 0.1 non-covers expected" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.flac"], "no such"),
        (["{music}/broken.mp3"], "not audio"),
        (["{music}/work0.flac", "--collection", "{empty}"], "holds no music"),
        (["{music}/work0.flac", "--top", "0"], "--top 0"),
        (["{music}/work0.flac", "--threshold", "high"], "--threshold high"),
        (["{music}/work0.flac", "--threshold", "nan"], "--threshold nan"),
        (["{music}/work0.flac", "--weights", "x"], "--weights x: is of --measure cnn"),
        (["{music}/work0.flac", "--measure", "cnn", "--weights", "x"], "x: no such file"),
        (["{music}/work0.flac", "--false-alarms", "0"], "--false-alarms 0"),
        (["{music}/work0.flac", "--false-alarms", "nan"], "--false-alarms nan"),
        (["{music}/work0.flac", "--figures", "{music}/notes.txt"], "--figures .*notes.txt"),
    ],
)
def test_unusable_arguments_are_refused_in_one_line(
    music: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    given = [each.format(music=music, empty=tmp_path) for each in arguments]
    with pytest.raises(InputError, match=said):
        identify.main([*given, "--no-cache"])


def test_a_threshold_lets_through_as_many_non_covers_as_were_allowed() -> None:
    rng = np.random.default_rng(0)
    z = rng.exponential(size=20_000) - 1
    standard = Standard(np.zeros(1), np.ones(1), z)
    threshold = standard.threshold(100, 0.1)
    assert (rng.exponential(size=200_000) - 1 > threshold).mean() == pytest.approx(1e-3, rel=0.3)
    assert standard.exceedance(threshold) == pytest.approx(1e-3, rel=1e-6)
    assert standard.exceedance(0.0) == pytest.approx((z > 0).mean(), rel=1e-2)


def features(path: Path, x: np.ndarray) -> Path:
    """An npz file."""
    np.savez(path, X=x)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
@pytest.mark.parametrize("ranking", ["raw", "correlation"])
def test_scores_of_features_are_those_of_the_library(
    tmp_path: Path, dtype: str, ranking: str
) -> None:
    x = (255 * np.random.default_rng(0).random((5, 40, 12))).astype(dtype)
    out = tmp_path / "scores.npy"
    given = [str(features(tmp_path / "x.npz", x)), "--measure", "qmax", "--ranking", ranking]
    rank.main([*given, "--out", str(out)])
    found = np.load(out)
    assert found.dtype == np.float64
    assert np.isneginf(np.diag(found)).all()
    expected = collection_scores(chroma_set(x), "qmax", ranking)  # type: ignore[arg-type]
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_array_equal(found[off], expected[off])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_one_song_and_two_have_raw_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, ranking: str
) -> None:
    x = np.random.default_rng(0).random((count, 40, 12))
    out = tmp_path / "scores.npy"
    given = [str(features(tmp_path / "x.npz", x)), "--ranking", ranking]
    rank.main([*given, "--out", str(out)])
    said = capsys.readouterr().err
    assert (f"--ranking {ranking}: " in said) == ("scores are raw" in said) == (ranking != "raw")
    found = np.load(out)
    off = ~np.eye(count, dtype=bool)
    expected = collection_scores(chroma_set(x), "qmax")
    np.testing.assert_array_equal(found[off], expected[off])
    assert np.isneginf(np.diag(found)).all()


@pytest.mark.parametrize(
    ("x", "options", "said"),
    [
        (np.ones((5, 40, 11)), [], "X: chroma"),
        (np.ones((0, 40, 12)), [], "1 or more songs"),
        (np.ones((5, 40, 12), np.int64), [], "X is int64"),
        (np.full((5, 40, 12), np.nan), [], "not finite"),
        (np.zeros((5, 40, 12)), [], r"x.npz: X\[0\]: 0 frames that sound"),
        (np.zeros((5, 40, 12)), ["--measure", "fourier"], r"X\[0\]: 0 frames .* from 1 on"),
        (np.ones((5, 40, 12)), ["--shifts", "13"], "--shifts 13"),
        (np.ones((5, 40, 12)), ["--measure", "cnn", "--shifts", "0"], "--shifts 0: allowed: 1"),
        (np.ones((5, 40, 12)), ["--candidates", "3"], "--candidates 3: is of --measure cnn"),
        (np.ones((5, 40, 12)), ["--measure", "cnn", "--candidates", "0"], "0: allowed: from 1"),
        (np.ones((5, 9, 12)), [], r"x.npz: X\[0\]: 9 frames that sound; allowed: from 13 on"),
    ],
)
def test_unusable_features_are_refused(
    tmp_path: Path, x: np.ndarray, options: list[str], said: str
) -> None:
    path = features(tmp_path / "x.npz", x)
    with pytest.raises(InputError, match=said):
        rank.main([str(path), *options, "--out", str(tmp_path / "scores.npy")])
    assert not (tmp_path / "scores.npy").exists()


@pytest.mark.parametrize(("name", "said"), [("absent/x.npy", "no such"), (".", "is a folder")])
def test_where_nothing_can_be_written_is_said_before_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr(rank, "collection_scores", lambda *_: pytest.fail("pairs were scored"))
    path = features(tmp_path / "x.npz", np.ones((5, 40, 12)))
    with pytest.raises(InputError, match=f"--out .*: .*{said}"):
        rank.main([str(path), "--out", str(tmp_path / name)])


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("no archive")
    np.savez(tmp_path / "y.npz", Y=np.ones(3))
    for name, said in (("x.npz", "no npz file"), ("y.npz", "needed: X"), ("z.npz", "no such")):
        with pytest.raises(InputError, match=said):
            rank.main([str(tmp_path / name), "--out", str(tmp_path / "scores.npy")])


def test_the_network_that_ships_ranks_what_it_was_not_trained_on(tmp_path: Path) -> None:
    drawn = CollectionSettings(data="synthetic", seconds=64, works=6, versions=3)
    songs, works, queries = synthetic_collection(drawn, 99)
    out = tmp_path / "scores.npy"
    given = [str(features(tmp_path / "x.npz", songs.frames)), "--measure", "cnn"]
    rank.main([*given, "--out", str(out)])
    scores = np.load(out)
    np.testing.assert_array_equal(scores, scores.T)
    assert retrieval(scores, works, queries).map > 0.5  # chance: 0.2
    off = ~np.eye(len(works), dtype=bool)
    for candidates, same in (("17", True), ("2", False)):
        rank.main([*given, "--candidates", candidates, "--out", str(out)])
        again = np.load(out)
        assert np.isfinite(again[off]).all()
        assert np.allclose(again[off], scores[off], atol=1e-4) == same
        assert retrieval(again, works, queries).map > 0.5


def answer(query: str, *rows: tuple[str, bool, bool]) -> dict[str, Any]:
    """Of a query: candidates in their order, whether called a cover, whether the same recording."""
    named = [
        {"path": f"/x/{name}", "cover": cover, "same_recording": same} for name, cover, same in rows
    ]
    return {"query": f"/x/{query}", "warnings": [], "results": named}


def test_what_the_tool_says_is_judged_by_what_is_true() -> None:
    works = {"000.flac": 0, "001.mp3": 0, COPY: 0, BROKEN: 0, "002.ogg": 1}
    queries = [
        # A copy comes first and counts as none; then a single song that is called a cover.
        answer(
            "000.flac",
            (COPY, False, True),
            ("002.ogg", True, False),
            ("001.mp3", True, False),
            (BROKEN, False, False),
        ),
        # The file that breaks off is not told to be the same; another song is.
        answer(
            "001.mp3",
            ("000.flac", True, False),
            (COPY, False, False),
            (BROKEN, True, False),
            ("002.ogg", False, True),
        ),
        answer("002.ogg", ("000.flac", False, False)),
    ]
    report = {
        "queries": queries,
        "threshold": 3.0,
        "expected_false_alarms": 0.1,
        "skipped": [{"path": "/x/no"}],
    }
    found = judged(report, works)
    assert found == {
        "songs": 3,
        "queries_with_covers": 2,
        "first_is_cover": 0.5,
        "covers": 4,
        "covers_called": 0.5,
        "others_called": 1,
        "others_expected": pytest.approx(0.3),
        "copies_found": 0.25,
        "copies_wrong": 1,
        "skipped": 1,
        "warned": 0,
    }
    without = judged(report | {"threshold": None}, works)
    assert set(found) - set(without) == {"covers_called", "others_called", "others_expected"}


def test_the_tool_is_tried_on_a_folder(tmp_path: Path) -> None:
    runs = PaperRuns("cover_song")
    found = runs.metrics("tool", runs.settings("tool", "qmax"), tmp_path)
    # Two works of two versions, two single songs, a copy and one that breaks off after 32 s.
    assert (found["songs"], found["queries_with_covers"]) == (8, 6)
    assert (found["copies_found"], found["copies_wrong"]) == (1, 0)
    assert (found["skipped"], found["warned"]) == (1, 1)
    assert found["first_is_cover"] >= 0.5
    assert "covers_called" not in found


def matcher(*chroma: np.ndarray) -> Matcher:
    return Matcher(padded([each.astype(np.float32) for each in chroma], 180), "qmax")


def test_one_recording_may_break_off_and_short_beginnings_prove_nothing() -> None:
    rng = np.random.default_rng(0)
    whole, other = rng.random((2, 150, 12)) ** 3
    assert matcher(whole, whole[:60]).same_recording(0, 1)
    assert not matcher(whole, other[:60]).same_recording(0, 1)
    # Two songs that begin with the same twenty seconds.
    alike = np.concatenate([whole[:20], other[20:]])
    assert not matcher(whole, alike[:25]).same_recording(0, 1)
    assert not matcher(whole, alike).same_recording(0, 1)
    # A long one that sounds only after the short one has ended: there is nothing to compare.
    late = np.concatenate([np.zeros((70, 12)), whole[:80]])
    assert not matcher(late, other[:60]).same_recording(0, 1)
    assert matcher(late, late).same_recording(0, 1)


def test_a_device_that_is_not_there_is_refused(music: Path) -> None:
    with pytest.raises(InputError, match=r"device 'abacus': allowed here: cpu"):
        identify.main([str(music), "--device", "abacus", "--no-cache"])
