"""Entry point: ``python papers/mmt_how2/train.py EXPERIMENT --arm A --seed S``."""

from __future__ import annotations

from pathlib import Path

from common.cli import guarded, paper_main

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Parse the command line and run."""
    from papers.mmt_how2.programs import PROGRAMS

    paper_main(FOLDER, PROGRAMS)


if __name__ == "__main__":
    guarded(main)
