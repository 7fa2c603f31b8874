"""Entry point: ``python papers/logra/train.py EXPERIMENT --arm A --seed S``."""

from __future__ import annotations

import sys
from pathlib import Path

from common.cli import guarded, paper_main

FOLDER = Path(__file__).resolve().parent
# A script's folder comes first on the path: there statistics.py would hide Python's own module.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]


def main() -> None:
    """Parse the command line and run."""
    from papers.logra.programs import PROGRAMS

    paper_main(FOLDER, PROGRAMS)


if __name__ == "__main__":
    guarded(main)
