"""Entry point: ``python papers/cover_song/train.py EXPERIMENT --case C --arm A``."""

from __future__ import annotations

from pathlib import Path

from common.runs.cli import guarded, paper_main

if __name__ == "__main__":
    guarded(lambda: paper_main(Path(__file__).resolve().parent))
