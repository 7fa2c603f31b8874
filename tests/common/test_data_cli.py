"""``python -m common.data``: what it prints and its exit status."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.cli import guarded
from common.config import validated
from common.data import __main__ as commands
from common.data import registry as registered
from common.data.__main__ import main
from common.data.registry import DataSet, File, Layout, registry
from common.errors import InputError

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
