"""Compile every pin from pyproject.toml: requirements.txt, and the conda environment of rules.

Run by ``make pins``. Versions in requirements.txt stay unless pyproject.toml asks for others.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = "# Every pin, also the indirect ones. Made from pyproject.toml by `make pins`; not edited.\n"


def main() -> None:
    """Write both files."""
    requirements = ROOT / "requirements.txt"
    both = [compiled(version, requirements) for version in ("3.12", "3.11")]
    if both[0] != both[1]:
        sys.exit("error: Python 3.11 and 3.12 need different pins; choose versions that suit both")
    text = both[0]
    requirements.write_text(HEAD + text, encoding="utf8")
    environment = ROOT / "workflow" / "envs" / "reproductions.yaml"
    environment.write_text(conda_environment(text), encoding="utf8")


def compiled(python: str, present: Path) -> str:
    """Every pin for Linux and one version of Python; keeps the versions in ``present``."""
    options = "--all-extras --no-header --no-emit-index-url --quiet --output-file"
    target = ("--python-version", python, "--python-platform", "x86_64-manylinux_2_28")
    command = (sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *target)
    subprocess.run((*command, *options.split(), present), cwd=ROOT, check=True)
    return present.read_text(encoding="utf8")


def conda_environment(requirements: str) -> str:
    """The environment of rules under ``--sdm conda``; Snakemake copies it, so it names no file."""
    pins = [line for line in requirements.splitlines() if line[:1].isalnum()]
    listed = "".join(f"      - {pin}\n" for pin in pins)
    return (
        f"{HEAD}name: reproductions-rules\nchannels: [conda-forge, nodefaults]\ndependencies:\n"
        f"  - python=3.11\n  - pip\n  - gxx_linux-64\n  - pip:\n{listed}"
    )


if __name__ == "__main__":
    main()
