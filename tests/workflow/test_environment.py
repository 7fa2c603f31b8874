"""Facts of how the environment is made: wheels built once for what they are built against."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow import environment

PIN = "fairseq-fixed==0.12.3.1"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Commands that were run; what builds a wheel leaves one, and uv is absent."""
    run: list[tuple[str, ...]] = []

    def succeeds(*command: str | Path) -> bool:
        words = tuple(map(str, command))
        run.append(words)
        if "--wheel-dir" in words:
            folder = Path(words[words.index("--wheel-dir") + 1])
            (folder / "fairseq_fixed-0.12.3.1-cp311.whl").touch()
        return not words[0].endswith("/uv")

    monkeypatch.setattr(environment, "succeeds", succeeds)
    monkeypatch.setattr(environment, "read_version", lambda _: b"Python 3.11.7")
    monkeypatch.setattr(environment, "WHEELS", tmp_path / "wheels")
    return run


def test_a_wheel_is_built_once_for_the_pins_that_it_is_compiled_against(
    commands: list[tuple[str, ...]],
) -> None:
    first = environment.find_wheel(PIN, ["torch==2.11.0", "numpy==2.4.6"])
    assert first.is_file()
    assert environment.find_wheel(PIN, ["torch==2.11.0", "numpy==2.4.6"]) == first
    assert len(commands) == 1
    assert "--no-cache-dir" in commands[0]
    assert environment.find_wheel(PIN, ["torch==2.12.0", "numpy==2.4.6"]) != first
    assert len(commands) == 2


def test_where_uv_cannot_pip_installs_the_same(commands: list[tuple[str, ...]]) -> None:
    environment.install("--requirement", "pins.txt")
    by_uv, by_pip = commands
    assert by_uv[0].endswith("/uv")
    assert by_pip[1:3] == ("-m", "pip")
    assert by_uv[-3:] == by_pip[-3:] == ("--no-deps", "--requirement", "pins.txt")


@pytest.mark.parametrize("kept", [False, True])
def test_bytecode_is_compiled_at_once_where_no_import_may_keep_it(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", not kept)
    environment.install("--requirement", "pins.txt")
    by_uv, by_pip = commands
    assert ("--compile-bytecode" in by_uv) is not kept
    assert "--compile-bytecode" not in by_pip


def test_what_neither_can_install_ends_it_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "succeeds", lambda *_: False)
    with pytest.raises(SystemExit) as ended:
        environment.install("--requirement", "pins.txt")
    assert ended.value.code == 2
    assert "this failed (see above), `make env` tries again" in capsys.readouterr().err
