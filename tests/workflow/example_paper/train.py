"""Entry point of the example's runs."""

from pathlib import Path

from common.runs.cli import guarded, paper_main

if __name__ == "__main__":
    guarded(lambda: paper_main(Path(__file__).parent))
