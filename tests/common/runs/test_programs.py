"""Facts of a paper's programs: found by their modules, imported one by one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import papers
from common.runs.programs import Programs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A paper with two programs, beside those of this checkout."""
    modules = tmp_path / "papers" / "some_paper" / "experiments"
    modules.mkdir(parents=True)
    (modules / "__init__.py").touch()
    (modules / "first.py").write_text("PROGRAM = 'the first'\n")
    (modules / "second.py").write_text("raise ImportError('loaded')\n")
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(tmp_path / "papers")])
    yield modules.parent
    for name in [name for name in sys.modules if name.startswith("papers.some_paper")]:
        del sys.modules[name]


def test_a_program_is_imported_when_it_is_asked_for(folder: Path) -> None:
    programs = Programs(folder)
    assert list(programs) == ["first", "second"]
    assert programs["first"] == "the first"
    with pytest.raises(ImportError, match="loaded"):
        programs["second"]


def test_what_is_no_module_there_is_no_program(folder: Path) -> None:
    for name in ("third", "__init__", "../first"):
        with pytest.raises(KeyError, match=name):
            Programs(folder)[name]
