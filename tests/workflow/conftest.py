"""A checkout in a temporary folder that holds one small paper, and Snakemake run in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from common import ROOT

SNAKEMAKE = (sys.executable, "-m", "snakemake")
EXAMPLE = Path(__file__).parent / "example_paper"


class Checkout:
    """A copy of what the DAG is made of, with the example as its only paper."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("workflow", "profiles", "common"):
            # Without what other processes compile at this moment: its files come and go.
            compiled = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=compiled)
        for name in ("Snakefile", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(EXAMPLE, folder / "papers" / EXAMPLE.name)
        (folder / "papers" / "__init__.py").touch()
        self.paper = folder / "papers" / EXAMPLE.name
        self.results = folder / "results" / "smoke" / EXAMPLE.name

    def command(self, *words: str) -> tuple[str, ...]:
        return (*SNAKEMAKE, *words, "--cores", "2", "--config", "scale=smoke")

    def snakemake(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake at smoke scale; returns the finished process."""
        return call(self.folder, *self.command(*words))

    def start(self, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start Snakemake at smoke scale in the background."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=environment(variables),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def planned(self, *words: str) -> set[str]:
        """Outputs that a dry run would make, relative to the results of the paper's scale."""
        done = self.snakemake("--dry-run", *words)
        assert done.returncode == 0, done.stderr
        outputs = re.findall(r"^ +output: (.*)$", done.stdout + done.stderr, re.MULTILINE)
        return {
            name.removeprefix("results/smoke/") for line in outputs for name in line.split(", ")
        }

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace ``old`` by ``new`` in a file of the paper."""
        path = self.paper / name
        text = path.read_text(encoding="utf8")
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf8")


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The tests' environment, without what would lead to another checkout's modules."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return clean | dict(variables)


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run ``command`` in ``folder``; returns the finished process."""
    return subprocess.run(
        command, cwd=folder, env=environment({}), capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh checkout in which nothing was run."""
    return Checkout(tmp_path)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which everything was built; tests leave it as it is."""
    ready = Checkout(tmp_path_factory.mktemp("built"))
    done = ready.snakemake()
    assert done.returncode == 0, done.stderr
    return ready


@pytest.fixture
def copy_of_built(built: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the built checkout, to be changed."""
    folder = tmp_path / "copy"
    shutil.copytree(built.folder, folder, symlinks=True)
    copied = object.__new__(Checkout)
    copied.folder = folder
    copied.paper = folder / "papers" / EXAMPLE.name
    copied.results = folder / "results" / "smoke" / EXAMPLE.name
    return copied
