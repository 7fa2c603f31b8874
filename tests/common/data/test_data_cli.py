"""``python -m common.data``: what it prints and its exit status."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common import ROOT
from common.data import __main__ as commands
from common.data import registry as registered
from common.data.__main__ import main
from common.data.registry import DataSet, File, Layout, registry
from common.errors import InputError
from common.experiments.settings import validated
from common.runs.cli import guarded
from tests.common.runs.without_privileges import without_privileges

TEXT = b"one\n"
SUM = hashlib.sha256(TEXT).hexdigest()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with the set ``here``; ``away`` is registered too and lies nowhere."""
    sets = {
        name: DataSet(
            name=name,
            title=f"The set {name}",
            home="https://example.org",
            licence="MIT",
            citation="A. Author",
            get="ask the author",
            layouts={"files": Layout(files={"one": File(sha256=SUM, bytes=size)})},
        )
        for name, size in (("here", 1_500_000), ("away", None))
    }
    for module in (registered, commands):
        monkeypatch.setattr(module, "registry", lambda: sets)
    monkeypatch.delenv("REPRO_DATA", raising=False)
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "one").write_bytes(TEXT)
    return tmp_path


def status(*words: str) -> int:
    """Exit status of the command, run within this process."""
    with pytest.raises(SystemExit) as stop:
        guarded(lambda: main(words))
    return int(str(stop.value.code))


def test_list_says_what_is_here_and_how_to_get_the_rest(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["list", "--data-root", str(root)])
    header, here, away = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "MB", "where", "licence", "title"]
    assert here.split() == ["here", "1.5", str(root / "here"), "MIT", "The", "set", "here"]
    assert away.split() == ["away", "unknown", "(by", "hand)", "MIT", "The", "set", "away"]


def test_list_names_every_registered_set(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(registry())


def test_verify_is_0_where_all_is_right(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("verify", "here", "--data-root", str(root)) == 0
    assert capsys.readouterr().out == "here: 1 of 1 files good\n"
    assert status("verify", "--all", "--data-root", str(root)) == 0


def test_verify_is_1_where_a_file_is_wrong(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "here" / "one").write_bytes(b"two\n")
    assert status("verify", "--all", "--data-root", str(root)) == 1
    out = capsys.readouterr().out
    assert "here/one: wrong checksum: sha256 is " in out
    assert "here: 0 of 1 files good" in out


def test_verify_is_1_where_a_named_set_is_missing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("verify", "away", "here", "--data-root", str(root)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "away/one: missing",
        "away: 0 of 1 files good",
        "here: 1 of 1 files good",
    ]


@pytest.mark.parametrize("words", [["verify"], ["verify", "here", "--all"]])
def test_verify_needs_names_or_all(root: Path, words: list[str]) -> None:
    with pytest.raises(InputError, match="names of data sets, or --all"):
        main(words)


def test_verify_all_of_nothing_is_no_success(root: Path) -> None:
    with pytest.raises(InputError, match="no registered data set lies here"):
        main(["verify", "--all", "--data-root", str(root / "here")])


def test_fetch_prints_the_folder_of_a_complete_set(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fetch", "here", "--data-root", str(root)])
    assert capsys.readouterr().out == f"{root / 'here'}\n"


def test_manifest_prints_a_section_that_a_manifest_takes(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "here" / "README.md").write_text("left out", encoding="utf8")
    (root / "here" / "sub").mkdir()
    (root / "here" / "sub" / "README.md").write_bytes(TEXT)
    main(["manifest", str(root / "here")])
    printed = validated(Layout, yaml.safe_load(capsys.readouterr().out), "printed")
    expected = File(sha256=SUM, bytes=len(TEXT))
    assert printed.files == {"one": expected, "sub/README.md": expected}


@pytest.mark.parametrize("given", ["--data-root", "REPRO_DATA", "REPRO_CACHE"])
def test_a_tilde_is_the_home(
    root: Path, given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.chdir(root / "here")
    words = ["verify", "here"]
    if given == "--data-root":
        words += [given, f"~/{root.name}"]
    else:
        monkeypatch.setenv(given, f"~/{root.name}")
    assert status(*words) == 0
    assert capsys.readouterr().out == "here: 1 of 1 files good\n"
    assert [path.name for path in Path().iterdir()] == ["one"]


def test_a_home_of_nobody_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPRO_DATA", "~no_such_user/data")
    assert status("list") == 2
    assert capsys.readouterr().err == "error: ~no_such_user/data: there is no such home\n"
    assert status("list", "--data-root", "") == 2
    assert "--data-root: a path is needed" in capsys.readouterr().err


@pytest.mark.parametrize("checksum", [SUM, None])
def test_a_pipe_in_a_set_is_wrong_and_nobody_waits_for_it(
    tmp_path: Path, checksum: str | None
) -> None:
    os.mkfifo(tmp_path / "one")
    (found,) = registered.check_layout(Layout(files={"one": File(sha256=checksum)}), tmp_path)
    assert not found.good
    assert found.detail == "is neither a file nor a folder"


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_manifest_of_what_is_no_file_is_refused(root: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(root / "here" / "two")
    else:
        (root / "here" / "two").symlink_to("nowhere")
    with pytest.raises(InputError, match="here/two: is neither a file nor a folder"):
        main(["manifest", str(root / "here")])


def unprivileged(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, of whose folder ``root`` the permissions count."""
    return subprocess.run(
        (*without_privileges(), sys.executable, "-m", "common.data", *words),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "REPRO_DATA": str(folder / "root")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "words", [("list",), ("verify", "mnist"), ("verify", "--all"), ("fetch", "mnist")]
)
def test_a_root_that_cannot_be_searched_is_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root").chmod(0o666)
    done = unprivileged(tmp_path, *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/root/")
    assert line.endswith(": Permission denied")


@pytest.mark.parametrize("bits", [0o000, 0o222])
@pytest.mark.parametrize("name", ["file", "sub"])
def test_a_manifest_leaves_out_nothing_that_cannot_be_read(
    tmp_path: Path, name: str, bits: int
) -> None:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    for path in ("file", "other", "sub/deep"):
        (tmp_path / "root" / path).write_bytes(TEXT)
    (tmp_path / "root" / name).chmod(bits)
    done = unprivileged(tmp_path, "manifest", str(tmp_path / "root"))
    (tmp_path / "root" / name).chmod(0o755)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/root/{name}: Permission denied\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verify", "mnits"], "error: data set 'mnits': not registered; did you mean mnist"),
        (["manifest", "no_such_folder"], "error: no_such_folder: no such folder"),
        (["fetch"], "error: python -m common.data fetch: the following arguments are required"),
        (["fetch", "llama3_8b"], "error: data set 'llama3_8b' cannot be downloaded: accept"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path: Path, words: list[str], message: str) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "common.data", *words),
        cwd=tmp_path,
        env={"REPRO_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
