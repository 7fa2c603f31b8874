"""What a module loads, read from its imports: all that Python then loads, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT
from common.experiments.schema import find_papers
from common.runs.imports import loaded_files

#: Prints the files of this tree that Python loads with modules.
LOADING = """
import importlib, json, sys
from pathlib import Path
root, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
files = {
    Path(loaded.__file__).relative_to(root).as_posix()
    for name, loaded in list(sys.modules.items())
    if f"{name}.".startswith(("papers.", "common.results.")) and getattr(loaded, "__file__", None)
}
print(json.dumps(sorted(files)))
"""


@pytest.mark.parametrize("paper", [folder.name for folder in find_papers()])
def test_nothing_that_drawings_load_is_missed(paper: str) -> None:
    stems = [stem for stem in ("tables", "figures", "listings") if path_of(paper, stem).is_file()]
    modules = [f"papers.{paper}.{stem}" for stem in stems]
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(ROOT), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = json.loads(done.stdout)
    assert {str(path_of(paper, stem).relative_to(ROOT)) for stem in stems} <= set(loaded)
    assert set(loaded) - set(loaded_files(*modules)) == set()


def path_of(paper: str, stem: str) -> Path:
    return ROOT / "papers" / paper / f"{stem}.py"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one paper."""
    files = {
        "papers/__init__.py": "",
        "papers/a/__init__.py": "from papers.a import engine\ndef f():\n    import papers.a.late",
        "papers/a/engine.py": "import os, torch",
        "papers/a/late.py": "",
        "papers/a/tables.py": (
            "from typing import TYPE_CHECKING\n"
            "import papers.a.parts as parts, common.runs\n"
            "if TYPE_CHECKING:\n    from papers.a.typed import T\n"
            "else:\n    from papers.a import untyped\n"
            "class A:\n    def f(self):\n        with open('x'):\n            from . import lazy\n"
        ),
        "papers/a/parts/__init__.py": "from ..names import NAME",
        "papers/a/parts/other.py": "",
        "papers/a/names.py": "from papers.a.tables import A",
        "papers/a/lazy.py": "try:\n    import x\nexcept OSError:\n    import common.results.b",
        "papers/a/typed.py": "",
        "papers/a/untyped.py": "",
        "common/__init__.py": "",
        "common/runs/run.py": "import papers.a.late",
        "common/results/__init__.py": "",
        "common/results/b.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf8")
    return tmp_path


def test_imports_are_followed_wherever_they_stand(tree: Path) -> None:
    names = ("__init__", "engine", "lazy", "names", "parts/__init__", "tables", "untyped")
    assert list(loaded_files("papers.a.tables", root=tree)) == [
        "common/__init__.py",
        "common/results/__init__.py",
        "common/results/b.py",
        "papers/__init__.py",
        *(f"papers/a/{name}.py" for name in names),
    ]


def test_what_is_not_there_or_not_python_yet_loads_nothing(tree: Path) -> None:
    assert list(loaded_files("papers.b.tables", "papers.a.figures", "numpy", root=tree)) == [
        "papers/__init__.py",
        "papers/a/__init__.py",
        "papers/a/engine.py",
    ]
    (tree / "papers/a/broken.py").write_text("from papers.a import late\ndef", encoding="utf8")
    assert "papers/a/broken.py" in loaded_files("papers.a.broken", root=tree)


def test_the_core_of_a_run_is_no_part_of_a_drawing() -> None:
    """To look at a thousand files would cost more than to draw."""
    files = loaded_files("papers.mmt_how2.targets.tables")
    assert "papers/mmt_how2/targets/correction_tables.py" in files
    assert "papers/mmt_how2/train.py" not in files
    assert not [name for name in files if name.startswith("common/training")]
